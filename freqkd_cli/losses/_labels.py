"""What losses that read labels share: heads, class weights, and means over classes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from freqkd_cli.errors import RecipeError
from freqkd_cli.features.loss import Grid, Loss
from freqkd_cli.features.taps import Tap
from freqkd_cli.recipe.value_types import NotNegative
from freqkd_cli.runtime.constants import constant
from freqkd_cli.spectral.distances import ratio
from freqkd_cli.views.batch import Batch

ClassWeights = list[NotNegative] | Literal["auto", "median", "inverse", "effective"]
"""Numbers, one per class, or the rule by which a run counts them (``build/class_weights.py``)."""

Auxiliary = NotNegative
Beta = Annotated[float, Field(ge=0, lt=1)]


class LabelLoss(Loss):
    """Base of the losses between class scores and labels, of the logits and auxiliary heads.

    It is the loss of ``logits`` plus ``auxiliary`` times that of every auxiliary head. A subclass
    implements :meth:`head`, which also gets the tensors of its target, if it has one.
    """

    needs_labels = True
    # reads_logits stays False: it is not compared with a teacher, whose classes may differ.

    def __init__(self, auxiliary: float) -> None:
        super().__init__()
        self.auxiliary = auxiliary

    @abstractmethod
    def head(self, logits: Tensor, labels: Tensor, ignore: int) -> Tensor:
        """Return the loss of one head, 0 with gradient 0 where nothing is labelled.

        Args:
            logits: ``[B, K, h, w]``.
            labels: ``[B, H, W]``.
            ignore: the label of void pixels.
        """

    def student_taps(self, available: Mapping[str, Tap]) -> tuple[str, ...]:
        heads = (
            tap.name for tap in available.values() if tap.kind == "auxiliary" and tap.alias is None
        )
        return ("logits", *heads) if self.auxiliary > 0 else ("logits",)

    def count(self, batch: Batch, grids: Mapping[str, Grid]) -> float:
        """Return the number of images with a label."""
        if batch.labels is None:
            return 0.0
        return float(batch.has_label.sum())

    def forward(
        self, student: Mapping[str, Tensor], target: Mapping[str, Tensor], batch: Batch, step: int
    ) -> Tensor:
        if batch.labels is None:
            raise RecipeError(
                f"{self.name} needs labels",
                got="a data set without labels",
                tip="remove this loss, or add the masks",
            )
        rows = _with_labels(batch)
        labels = batch.labels[rows]
        known = {name: x[rows] for name, x in target.items()}
        with torch.autocast(student["logits"].device.type, enabled=False):
            total = self.head(student["logits"][rows], labels, batch.ignore, **known)
            for name, logits in student.items():
                if name != "logits":
                    head = self.head(logits[rows], labels, batch.ignore, **known)
                    total = total + self.auxiliary * head
        return total


class PixelLoss(LabelLoss):
    """Base of the means over labelled pixels, each with the weight of its class.

    Attributes:
        weights: one number per class; None where all weigh the same.
    """

    def __init__(self, class_weights: ClassWeights | None, auxiliary: float) -> None:
        super().__init__(auxiliary)
        self.class_weights = class_weights

    @property
    def weights(self) -> tuple[float, ...] | None:
        """The class weights as numbers.

        Raises:
            RecipeError: a rule that no run has replaced by numbers.
        """
        if isinstance(self.class_weights, str):
            raise RecipeError(
                f"{self.name}: class_weights {self.class_weights} is a rule; numbers are needed",
                tip="freqkd distill counts them in the labels of the training split",
                key="class_weights",
            )
        return None if self.class_weights is None else tuple(self.class_weights)

    def start(self, student: Mapping[str, Tap], teacher: Mapping[str, Tap], classes: int) -> None:
        given = self.class_weights
        if isinstance(given, list) and len(given) != classes:
            raise RecipeError(
                f"{self.name}: class_weights needs one number per class, and has another length",
                got=len(given),
                need=classes,
                key="class_weights",
            )

    def count(self, batch: Batch, grids: Mapping[str, Grid]) -> float:
        """Return the sum of the labelled pixels' weights."""
        if batch.labels is None:
            return 0.0
        return float(self.counted(batch.labels, batch.ignore, torch.float32).sum())

    def counted(self, labels: Tensor, ignore: int, dtype: torch.dtype) -> Tensor:
        """Return each pixel's weight in the mean, ``[B, H, W]``: 0 for void, 1 or its class's."""
        counted = (labels != ignore).to(dtype)
        if self.weights is None:
            return counted
        weights = constant(self.weights, dtype, labels.device)
        return counted * weights[labels.masked_fill(labels == ignore, 0)]


def weighted_mean(losses: Tensor, counted: Tensor) -> Tensor:
    """Return the sum of ``losses`` over the sum of ``counted``; 0 where nothing counts.

    Also where label smoothing leaves losses on pixels whose class has the weight 0.
    """
    return ratio(losses.sum(), counted.sum())


def mean_over_classes(losses: Tensor, pixels: Tensor, *, present: bool) -> Tensor:
    """Return the mean over classes, then over rows; rows without a labelled pixel do not count.

    Args:
        losses: ``[R, K]``, the loss of each class in an image or a batch.
        pixels: ``[R, K]``, the labelled pixels of each class.
        present: leave out classes without a pixel.
    """
    labelled = pixels.sum(1, keepdim=True) > 0
    counted = (pixels > 0 if present else labelled.expand_as(pixels)).to(losses.dtype)
    rows = (losses * counted).sum(1) / counted.sum(1).clamp(min=1)
    return weighted_mean(rows, labelled.to(losses.dtype))


def _with_labels(batch: Batch) -> Tensor | slice:
    """Return which images have a label, at least the first: no image at all has no gradient.

    Upsampling is most of the cost of these losses, and images without a label do not need it. On a
    GPU all images are taken, since the answer would wait for everything that is queued there.
    """
    if batch.images.device.type != "cpu":
        return slice(None)
    labelled = batch.has_label
    labelled[0] = True
    return slice(None) if labelled.all() else labelled
