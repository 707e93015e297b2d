"""Cross-entropy with the labels, on the student's logits and its auxiliary heads.

**What** The mean over labelled pixels of ``-log softmax(z)[label]``, and ``auxiliary`` times the
same for every auxiliary head. Optionally with ``class_weights`` (a weighted mean),
``label_smoothing``, and online hard example mining.

**Why** The task itself. Distillation losses are added to it.

**Shapes and units** ``logits`` ``[B, K, h, w]``, upsampled bilinearly (align_corners False) to the
labels ``[B, H, W]``; label 255 never counts. ``ohem`` is the share of labelled pixels of the batch
that are kept, the hardest first (0 = all of them). ``ohem_threshold`` keeps every pixel whose true
class has less than this probability, and never fewer than the share. Where a batch comes in parts
(several processes, ``train.accumulate``) each part is mined by itself. A batch without a label
gives 0. Nats.

**Source** Mining after Shrivastava et al. (arXiv 1604.03540), with the threshold and the least
number kept that are usual in segmentation; auxiliary weight 0.4 after Fast-SCNN (arXiv 1902.04502).
Departure: the number kept is a share of the labelled pixels and no constant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from freqkd_cli.errors import RecipeError
from freqkd_cli.features.loss import Grid, Loss
from freqkd_cli.features.taps import Tap
from freqkd_cli.views.batch import Batch
from freqkd_cli.views.labels import IGNORE
from freqkd_cli.views.upsample import parts, upsampled

Share = Annotated[float, Field(ge=0, le=1)]


def build(
    *,
    class_weights: list[Annotated[float, Field(ge=0)]] | None = None,
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ohem: Share = 0.0,
    ohem_threshold: Share = 0.0,
    auxiliary: Annotated[float, Field(ge=0)] = 0.4,
) -> Loss:
    """Build the cross-entropy; the top of the file explains every key.

    Raises:
        RecipeError: ``ohem_threshold`` without ``ohem``.
    """
    if ohem_threshold and not ohem:
        raise RecipeError(
            "cross_entropy: ohem_threshold needs ohem, the least share of pixels that is kept",
            got="ohem 0",
            need="ohem above 0",
            tip="ohem: 0.0625",
            key="ohem",
        )
    return CrossEntropy(class_weights, label_smoothing, (ohem, ohem_threshold), auxiliary)


class CrossEntropy(Loss):
    """Made by :func:`build`."""

    needs_labels = True
    # reads_logits stays False: it is not compared with a teacher, whose classes may differ.

    def __init__(
        self,
        class_weights: list[float] | None,
        label_smoothing: float,
        ohem: tuple[float, float],
        auxiliary: float,
    ) -> None:
        super().__init__()
        self.weights = None if class_weights is None else tuple(class_weights)
        self.label_smoothing, self.auxiliary = label_smoothing, auxiliary
        self.ohem, self.threshold = ohem

    def student_taps(self, available: Mapping[str, Tap]) -> tuple[str, ...]:
        heads = (
            tap.name for tap in available.values() if tap.kind == "auxiliary" and tap.alias is None
        )
        return ("logits", *heads) if self.auxiliary > 0 else ("logits",)

    def start(self, student: Mapping[str, Tap], teacher: Mapping[str, Tap], classes: int) -> None:
        if self.weights is not None and len(self.weights) != classes:
            raise RecipeError(
                "cross_entropy: class_weights needs one number per class, and has another length",
                got=len(self.weights),
                need=classes,
                key="class_weights",
            )

    def count(self, batch: Batch, grids: Mapping[str, Grid]) -> float:
        if batch.labels is None:
            return 0.0
        return float(self._counted(batch.labels, torch.float32).sum())

    def forward(
        self, student: Mapping[str, Tensor], target: Mapping[str, Tensor], batch: Batch, step: int
    ) -> Tensor:
        if batch.labels is None:
            raise RecipeError(
                "cross_entropy needs labels",
                got="a data set without labels",
                tip="remove this loss, or add the masks",
            )
        rows = _with_labels(batch.labels)
        labels = batch.labels[rows]
        with torch.autocast(student["logits"].device.type, enabled=False):
            total = self._head(student["logits"][rows], labels)
            for name, logits in student.items():
                if name != "logits":
                    total = total + self.auxiliary * self._head(logits[rows], labels)
        return total

    def _head(self, logits: Tensor, labels: Tensor) -> Tensor:
        losses = self._each(logits, labels, plain=False)
        counted = self._counted(labels, losses.dtype)
        if self.ohem:
            kept = self._hardest(logits.detach(), losses.detach(), labels)
            losses, counted = losses * kept, counted * kept
        # A batch of void alone has losses 0 and nothing counted: 0 / 1, with gradient 0.
        total = counted.sum()
        return losses.sum() / torch.where(total > 0, total, 1.0)

    def _counted(self, labels: Tensor, dtype: torch.dtype) -> Tensor:
        """Return each pixel's weight in the mean, ``[B, H, W]``: 0 for void, 1 or its class's."""
        counted = (labels != IGNORE).to(dtype)
        if self.weights is None:
            return counted
        weights = torch.tensor(self.weights, device=labels.device, dtype=dtype)
        return counted * weights[labels.masked_fill(labels == IGNORE, 0)]

    def _each(self, logits: Tensor, labels: Tensor, *, plain: bool) -> Tensor:
        """Return the loss of every pixel, ``[B, H, W]``, 0 on void.

        ``plain`` leaves class weights and smoothing out.
        """
        weight = None
        if self.weights is not None and not plain:
            dtype = torch.promote_types(logits.dtype, torch.float32)
            weight = torch.tensor(self.weights, device=logits.device, dtype=dtype)
        smoothing = 0.0 if plain else self.label_smoothing
        size = (labels.shape[-2], labels.shape[-1])
        options = {
            "weight": weight,
            "label_smoothing": smoothing,
            "ignore_index": IGNORE,
            "reduction": "none",
        }
        return torch.cat(
            [
                F.cross_entropy(upsampled(logits[part], size), labels[part], **options)
                for part in parts(logits)
            ]
        )

    def _hardest(self, logits: Tensor, losses: Tensor, labels: Tensor) -> Tensor:
        """Return 1 for the hardest pixels of the batch and 0 for the others, ``[B, H, W]``.

        Pixels as hard as the last one kept stay too.
        """
        labelled = labels != IGNORE
        number = int(labelled.sum())
        if number == 0:
            return labelled.to(losses.dtype)
        plain = self.weights is None and not self.label_smoothing
        scores = losses if plain else self._each(logits, labels, plain=True)
        place = max(1, math.ceil(self.ohem * number))
        limit = torch.topk(scores[labelled], place, sorted=True).values[-1]
        if self.threshold > 0:
            limit = limit.clamp(max=-math.log(self.threshold))
        return (labelled & (scores >= limit)).to(losses.dtype)


def _with_labels(labels: Tensor) -> Tensor | slice:
    """Return which images have a label, at least the first: no image at all has no gradient.

    Upsampling is most of the cost of this loss, and images without a label do not need it. On a GPU
    all images are taken, since the answer would wait for everything that is queued there.
    """
    if labels.device.type != "cpu":
        return slice(None)
    labelled = (labels != IGNORE).flatten(1).any(1)
    labelled[0] = True
    return slice(None) if labelled.all() else labelled
