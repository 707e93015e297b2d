"""DIST: correlate class scores, or features, of both sides over classes and over cells.

**What** ``tau^2 (beta (1 - mean over cells of r(p_S, p_T)) + gamma (1 - mean over classes of
r(p_S, p_T)))`` with ``p = softmax(z / tau)`` and r the Pearson correlation: over the K classes of
one cell in the first term, over the cells of one class in the second. Two classes have a
correlation of 1 or -1, so the first term has no gradient with them. ``over: batch`` takes the
second over the cells of all images of the batch, ``over: image`` over those of each image. With
feature taps as ``student`` and ``teacher``, channels take the place of classes. Then p are the
features themselves, without a softmax, and a trained 1x1 adapter brings the student to the
teacher's channels where they differ.

**Why** A correlation ignores the scale and the offset of the scores, so a small student can follow
the teacher's ranking without its confidence.

**Shapes and units** ``logits`` ``[B, K, h, w]`` or taps ``[B, C, h, w]``, resized bilinearly to the
compared grid. Only cells inside the image count. Weights of cells (``attention``,
``only_where_right``, see ``logit_kl``) multiply the first term's cells, and are the weights of
means and products in the second. Where a batch comes in parts (several processes,
``train.accumulate``) ``over: batch`` is taken over each part by itself. The target is that of
``logit_kl``; of features it is the teacher's map.

**Source** Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022
(arXiv 2205.10536), equations 6 to 8, with the defaults of the authors' code for segmentation
(hunto/DIST_KD, segmentation/losses/dist_kd.py: beta = gamma = 1, epsilon 1e-8). Departures: tau is
a key; padded cells do not count; the compared grid is the teacher's by default. The paper compares
class scores alone. On features the second term is that of PKD (Cao et al., arXiv 2207.02039).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from freqkd_cli.errors import RecipeError
from freqkd_cli.features.loss import Loss, LossGroup
from freqkd_cli.losses._class_scores import CellWeights, ComparedGrid
from freqkd_cli.losses._part_weights import require_a_part
from freqkd_cli.losses._tap_scores import TapScores
from freqkd_cli.recipe.value_types import NotNegative, Positive
from freqkd_cli.registry import flattened
from freqkd_cli.spectral.distances import root
from freqkd_cli.views.batch import Batch

GROUP: LossGroup = "class scores"

EPS = 1e-8
"""Added to the product of the norms, as in the authors' code."""

Over = Literal["batch", "image"]


@flattened
def build(
    *,
    student: str = "logits",
    teacher: str = "logits",
    beta: NotNegative = 1.0,
    gamma: NotNegative = 1.0,
    over: Over = "batch",
    temperature: Positive = 1.0,
    grid: ComparedGrid = "teacher",
    weighting: CellWeights,
) -> Loss:
    """Build DIST; the top of the file explains every key.

    Args:
        student: tap of the student; logits compares class scores.
        teacher: tap of the teacher, likewise.
        beta: weight of the correlation over classes.
        gamma: weight of the correlation over cells.
        over: cells of all images of the batch at once, or of each image.
        temperature: of the softmax over classes.
        grid: side whose grid is used.

    Raises:
        RecipeError: the keys do not fit features, or both weights are 0.
    """
    require_a_part("dist", beta=beta, gamma=gamma)
    compared = ((student, teacher), temperature, grid, weighting)
    return Dist((beta, gamma), over == "batch", compared)


class Dist(TapScores):
    """Made by :func:`build`."""

    def __init__(
        self,
        shares: tuple[float, float],
        over_batch: bool,
        compared: tuple[tuple[str, str], float, ComparedGrid, CellWeights],
    ) -> None:
        super().__init__(*compared)
        self.beta, self.gamma = shares
        self.over_batch = over_batch
        if self.on_features and self.temperature != 1.0:
            raise RecipeError(
                "dist: a correlation of features does not depend on a temperature",
                got=f"temperature {self.temperature:g}",
                tip="leave temperature out",
                key="temperature",
            )

    def warnings(self) -> tuple[tuple[str, str], ...]:
        assert self.teacher_tap is not None, "start() comes first"
        if self.on_features or self.teacher_tap.channels != 2 or self.beta == 0:
            return ()
        text = "over 2 classes, the correlation of beta is 1 or -1 and has no gradient"
        return ((text, "beta=0" if self.gamma > 0 else "gamma=1"),)

    def compared(self, scores: Tensor) -> Tensor:
        """Return what is correlated: probabilities of the classes, or the features."""
        return scores if self.on_features else F.softmax(scores / self.temperature, dim=1)

    def forward(
        self, student: Mapping[str, Tensor], target: Mapping[str, Tensor], batch: Batch, step: int
    ) -> Tensor:
        with torch.autocast(student[self.student].device.type, enabled=False):
            scores = self.scores(student, target, batch)
            p, q = self.compared(scores.student), self.compared(scores.teacher)
            total = self.beta * scores.mean(1.0 - pearson(p, q, torch.ones_like(p[:1]), dim=1))
            rows, weights, cells = self._cells_of_classes(p, q, scores.weights, scores.inside)
            within = 1.0 - pearson(*rows, weights[:, None], dim=2).mean(1)
            total = total + self.gamma * (within * cells).sum() / cells.sum().clamp(min=1.0)
            return total * self.temperature**2

    def _cells_of_classes(
        self, p: Tensor, q: Tensor, weights: Tensor, inside: Tensor
    ) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
        """Return rows ``[N, K, cells]`` of both sides, weights ``[N, cells]`` and cells ``[N]``.

        N is 1 for the whole batch, B for its images.
        """
        cells = inside.flatten(1).sum(1)
        if not self.over_batch:
            return (p.flatten(2), q.flatten(2)), weights.flatten(1), cells
        rows = [x.transpose(0, 1).flatten(1)[None] for x in (p, q)]
        return (rows[0], rows[1]), weights.flatten()[None], cells.sum()[None]


def pearson(x: Tensor, y: Tensor, weights: Tensor, dim: int) -> Tensor:
    """Return the weighted Pearson correlation along ``dim``; 0 where a side is constant."""
    total = weights.sum(dim, keepdim=True).clamp(min=EPS)
    x = x - (weights * x).sum(dim, keepdim=True) / total
    y = y - (weights * y).sum(dim, keepdim=True) / total
    norms = root((weights * x.square()).sum(dim)) * root((weights * y.square()).sum(dim))
    return (weights * x * y).sum(dim) / (norms + EPS)
