"""Cross-entropy with the labels, on the student's logits and its auxiliary heads.

**What** The mean over labelled pixels of ``-log softmax(z)[label]``, and ``auxiliary`` times the
same for every auxiliary head. Optionally with ``class_weights`` (a weighted mean),
``label_smoothing``, and online hard example mining. ``attention: low``, ``high`` or ``mix`` weights
pixels by that band of the teacher's class probabilities, as in ``logit_kl`` with temperature 1.

**Why** The task itself. Distillation losses are added to it. With attention it is the control of
``logit_kl`` with attention: the same places count more, without the teacher's knowledge of classes.

**Shapes and units** ``logits`` ``[B, K, h, w]``, upsampled bilinearly (align_corners False) to the
labels ``[B, H, W]``; void never counts. ``ohem`` is the share of labelled pixels of the batch
that are kept, the hardest first (0 = all of them); classes of weight 0 are left out.
``ohem_threshold`` keeps every pixel whose true class has less than this probability, and never
fewer than the share. Where a batch comes in parts (several processes, ``train.accumulate``) each
part is mined by itself. A batch without a label gives 0. Nats. The attention map is made on the
grid of the teacher's logits (the unit of ``cutoff``) and upsampled bilinearly to the labels. Its
weights have mean 1 over the counted pixels of each image, class weights included. A cache of
targets holds ``a / mean a`` ``[B, h, w]``.

``class_weights`` is one number per class, or a rule that ``freqkd distill`` applies to the labels
of the training split. n is the number of pixels of a class, K that of the classes that occur:

- ``median`` (or ``auto``): median of all f / f, with f = n / labelled pixels of the images in which
  the class occurs
- ``inverse``: labelled pixels / (K n), the ``balanced`` weights of scikit-learn
- ``effective``: (1 - b) / (1 - b^n) with b = ``class_beta``, scaled to the mean 1

**Source** Mining after Shrivastava et al. (arXiv 1604.03540), with the threshold and the least
number kept that are usual in segmentation; auxiliary weight 0.4 after Fast-SCNN (arXiv 1902.04502).
Median weights after Eigen and Fergus (arXiv 1411.4734), effective numbers after Cui et al. (arXiv
1901.05555). Departures: the number kept is a share of the labelled pixels and no constant; a class
that never occurs has the weight 0.
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
from freqkd_cli.features.loss import Grid, Loss, LossGroup
from freqkd_cli.features.taps import Tap
from freqkd_cli.losses._emphasis import Emphasis
from freqkd_cli.losses._labels import Auxiliary, Beta, ClassWeights, PixelLoss, weighted_mean
from freqkd_cli.recipe.value_types import Share
from freqkd_cli.registry import flattened
from freqkd_cli.runtime.constants import constant
from freqkd_cli.runtime.precision import widest
from freqkd_cli.spectral.distances import ratio
from freqkd_cli.spectral.fourier import widened
from freqkd_cli.spectral.masks import BandCells
from freqkd_cli.views.batch import Batch
from freqkd_cli.views.upsample import parts, upsampled

GROUP: LossGroup = "labels"


@flattened
def build(
    *,
    class_weights: ClassWeights | None = None,
    class_beta: Beta = 0.9999,
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ohem: Share = 0.0,
    ohem_threshold: Share = 0.0,
    auxiliary: Auxiliary = 0.4,
    emphasis: Emphasis,
) -> Loss:
    """Build the cross-entropy; the top of the file explains every key.

    Args:
        class_weights: one number per class, or a rule: auto (the same as median), median, inverse
            or effective.
        class_beta: b of the rule ``effective``; the nearer to 1, the larger the differences.
        label_smoothing: share of the probability that all classes get.
        ohem: share of the labelled pixels that is kept, the hardest first; 0 = all.
        ohem_threshold: keep every pixel whose class has less than this probability.
        auxiliary: factor of every auxiliary head.
        attention: weight pixels by this band of the teacher's class probabilities; this needs a
            teacher.
        cutoff: of the radial low-pass, in Nyquist units of the grid of the teacher's logits.
        mask: form of the low-pass.
        high_share: share of the high band in the gain of ``attention: mix``.
        strength: s in a pixel's weight (1 + s a / mean a) / (1 + s).

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
    mining = (ohem, ohem_threshold)
    return CrossEntropy(class_weights, label_smoothing, mining, auxiliary, emphasis)


class CrossEntropy(PixelLoss):
    """Made by :func:`build`.

    It has a teacher's half with attention alone: ``emphasis`` ``[B, h, w]`` on the grid of the
    teacher's logits.
    """

    def __init__(
        self,
        class_weights: ClassWeights | None,
        label_smoothing: float,
        ohem: tuple[float, float],
        auxiliary: float,
        emphasis: Emphasis,
    ) -> None:
        super().__init__(class_weights, auxiliary)
        self.label_smoothing = label_smoothing
        self.ohem, self.threshold = ohem
        self.emphasis = emphasis
        self.target_arguments = emphasis.target_arguments

    @property
    def reads_logits(self) -> bool:
        """With attention it needs a teacher of the same classes."""
        return self.emphasis.used

    def teacher_taps(self, available: Mapping[str, Tap]) -> tuple[str, ...]:
        return ("logits",) if self.emphasis.used else ()

    def check_grids(self, student: Mapping[str, Grid], teacher: Mapping[str, Grid]) -> None:
        if self.emphasis.used:
            self.emphasis.check(teacher["logits"], "the teacher's logits")

    def band_cells(
        self, student: Mapping[str, Grid], teacher: Mapping[str, Grid]
    ) -> tuple[BandCells, ...]:
        if not self.emphasis.used:
            return ()
        return self.emphasis.cells(teacher["logits"], "the teacher's logits")

    def target(
        self, teacher: Mapping[str, Tensor], batch: Batch, grids: Mapping[str, Grid]
    ) -> dict[str, Tensor]:
        if not self.emphasis.used:
            return {}
        probabilities = F.softmax(widened(teacher["logits"].detach()), dim=1)
        return {"emphasis": self.emphasis.relative(probabilities, batch)}

    def head(
        self, logits: Tensor, labels: Tensor, ignore: int, emphasis: Tensor | None = None
    ) -> Tensor:
        losses = self._each(logits, labels, ignore, plain=False)
        counted = self.counted(labels, ignore, losses.dtype)
        if self.ohem:
            scored = logits.detach(), losses.detach()
            kept = self._hardest(*scored, labels, ignore, counted > 0)
            losses, counted = losses * kept, counted * kept
        if emphasis is not None:
            losses = losses * self._pixel_weights(emphasis, counted)
        return weighted_mean(losses, counted)

    def _pixel_weights(self, emphasis: Tensor, counted: Tensor) -> Tensor:
        """Return the weight of every pixel, ``[B, H, W]``, of mean 1 over the counted ones."""
        size = (counted.shape[-2], counted.shape[-1])
        relative = upsampled(widened(emphasis)[:, None], size)[:, 0]
        weights = self.emphasis.weights(relative, counted.dtype)
        sums = (x.sum((1, 2), keepdim=True) for x in (counted, counted * weights))
        return weights * ratio(*sums)

    def _each(self, logits: Tensor, labels: Tensor, ignore: int, *, plain: bool) -> Tensor:
        """Return the loss of every pixel, ``[B, H, W]``, 0 on void.

        ``plain`` leaves class weights and smoothing out.
        """
        weight = None
        if self.weights is not None and not plain:
            dtype = torch.promote_types(logits.dtype, torch.float32)
            weight = constant(self.weights, dtype, logits.device)
        smoothing = 0.0 if plain else self.label_smoothing
        size = (labels.shape[-2], labels.shape[-1])
        options = {
            "weight": weight,
            "label_smoothing": smoothing,
            "ignore_index": ignore,
            "reduction": "none",
        }
        return torch.cat(
            [
                F.cross_entropy(upsampled(logits[part], size), labels[part], **options)
                for part in parts(logits)
            ]
        )

    def _hardest(
        self, logits: Tensor, losses: Tensor, labels: Tensor, ignore: int, counts: Tensor
    ) -> Tensor:
        """Return 1 for the hardest pixels of the batch and 0 for the others, ``[B, H, W]``.

        Pixels as hard as the last one kept stay too.

        Args:
            counts: ``[B, H, W]`` bool. A class of weight 0 is never learned, so its pixels would be
                the hardest and leave nothing that counts.
        """
        if labels.device.type == "cpu" and not counts.any():
            return counts.to(losses.dtype)
        plain = self.weights is None and not self.label_smoothing
        scores = losses if plain else self._each(logits, labels, ignore, plain=True)
        limit = least_kept(scores, counts, self.ohem)
        if self.threshold > 0:
            limit = limit.clamp(max=-math.log(self.threshold))
        return (counts & (scores >= limit)).to(losses.dtype)


def least_kept(scores: Tensor, labelled: Tensor, share: float) -> Tensor:
    """Return the smallest of the highest ``share`` of the labelled scores, at least one of them.

    On a GPU all scores are sorted: their number is known there alone, and is not waited for.
    """
    if scores.device.type == "cpu":
        number = int(labelled.sum())
        return torch.topk(scores[labelled], max(1, math.ceil(share * number))).values[-1]
    return _least_of_sorted(scores, labelled, share)


def _least_of_sorted(scores: Tensor, labelled: Tensor, share: float) -> Tensor:
    ordered = torch.where(labelled, scores, -torch.inf).flatten().sort(descending=True).values
    place = torch.ceil(share * widest(labelled.sum())).long().clamp(min=1) - 1
    return ordered.gather(0, place[None])[0]
