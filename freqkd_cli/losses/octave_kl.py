"""Logit KL split over octaves of scale, each with its own weight.

**What** ``P^0`` are the probabilities ``softmax(z / tau)`` on the compared grid, ``P^l`` those
averaged ``l`` times over 2x2 cells, and ``KL_l`` the mean of ``KL(P^l_T || P^l_S)``. Averaging
never raises a KL divergence, so ``D_l = KL_l - KL_(l+1) >= 0`` is the part of the divergence that
exists at scales between ``2^l`` and ``2^(l+1)`` cells alone, and ``KL_0 = sum of D_l + KL_top``
exactly. The loss is ``tau^2 (sum of w_l D_l + w_top KL_top)``. ``weights`` gives the w, finest
first, the top last. Otherwise w_l is proportional to ``D_l^-power`` of each sample, held fixed and
scaled so that the sample's sum equals its KL: the value is that of ``logit_kl``, the gradient is
not. ``power: 0`` is ``logit_kl`` itself, ``power: 1`` gives every octave the same share.

**Why** Plain KL spends most of itself on large regions: on real photographs 6.5 % of it is at
scales of up to 8 pixels, where poles and signs are.

**Shapes and units** ``logits`` ``[B, K, h, w]``. Odd sides are padded with empty cells; a mean
counts the finest cells inside the image, with their weights. ``levels`` is the number of octaves
below the top: by default 4, or as many as the grid has, or one less than ``weights``. One octave
is a factor of 2 in size. Nats. The keys of the compared grid, of attention and of
``only_where_right`` are those of ``logit_kl``; so is the target.

**Source** This project's. The bound is the log-sum inequality (Cover and Thomas, "Elements of
Information Theory", theorem 2.7.1), with equality of the sum by telescoping.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from freqkd_cli.errors import RecipeError
from freqkd_cli.features.loss import Grid, Loss, LossGroup
from freqkd_cli.losses._class_scores import (
    CellWeights,
    ClassScores,
    ComparedGrid,
    Scores,
)
from freqkd_cli.recipe.value_types import NotNegative, Positive, Share
from freqkd_cli.registry import flattened
from freqkd_cli.runtime.constants import constant
from freqkd_cli.spectral.distances import ratio
from freqkd_cli.views.batch import Batch

GROUP: LossGroup = "class scores"

LEVELS = 4
"""Octaves below the top by default; fewer where the grid has fewer."""

SMALLEST = 1e-3
"""Octaves below this share of the sample's KL get the weight of this share."""

TINY = 1e-30
"""Smallest mass of which the logarithm is taken."""


@flattened
def build(
    *,
    levels: Annotated[int, Field(ge=1, le=12)] | None = None,
    power: Share = 0.5,
    weights: list[NotNegative] | None = None,
    temperature: Positive = 1.0,
    grid: ComparedGrid = "teacher",
    weighting: CellWeights,
) -> Loss:
    """Build octave distillation; the top of the file explains every key.

    Args:
        levels: number of octaves; the default is 4, or as many as fit.
        power: weight of an octave is its divergence to minus this power.
        weights: of the octaves, finest first, and of the rest; replaces power.
        temperature: of both softmax functions.
        grid: side whose grid is used.

    Raises:
        RecipeError: ``weights`` has another length than ``levels`` + 1, or only zeros.
    """
    if weights is not None:
        need = len(weights) if levels is None else levels + 1
        if len(weights) != need or len(weights) < 2 or not any(weights):
            need = max(need, 2)
            raise RecipeError(
                "octave_kl: weights needs one number per octave, finest first, and one for the top",
                got=weights,
                need=f"{need} numbers, not all 0",
                tip=f"weights: {[1] * need}",
                key="weights",
            )
        levels = len(weights) - 1
    return OctaveKL(levels, power, weights, (temperature, grid, weighting))


class OctaveKL(ClassScores):
    """Made by :func:`build`."""

    def __init__(
        self,
        levels: int | None,
        power: float,
        weights: list[float] | None,
        compared: tuple[float, ComparedGrid, CellWeights],
    ) -> None:
        super().__init__(*compared)
        self.levels, self.power = levels, power
        self.octave_weights = None if weights is None else tuple(weights)

    def check_grids(self, student: Mapping[str, Grid], teacher: Mapping[str, Grid]) -> None:
        super().check_grids(student, teacher)
        height, width = teacher["logits"] if self.on_teacher else student["logits"]
        most = _most_levels(height, width)
        if self.levels is not None and self.levels > most:
            raise RecipeError(
                "octave_kl: the compared grid is too small for so many octaves",
                got=f"levels {self.levels} on {height}x{width} cells",
                need=f"at most {most}, after which one cell is left",
                tip=f"levels: {most}",
                key="levels",
            )

    def forward(
        self, student: Mapping[str, Tensor], target: Mapping[str, Tensor], batch: Batch, step: int
    ) -> Tensor:
        with torch.autocast(student["logits"].device.type, enabled=False):
            scores = self.scores(student, target, batch)
            levels = self.levels or min(LEVELS, _most_levels(*scores.student.shape[-2:]))
            octaves = octave_parts(scores, self.temperature, levels)
            total = (self._weights(octaves.detach()) * octaves).sum()
            return total / scores.inside.sum().clamp(min=1.0) * self.temperature**2

    def _weights(self, octaves: Tensor) -> Tensor:
        """Return the weight of each octave, ``[B, levels + 1]`` or ``[levels + 1]``."""
        if self.octave_weights is not None:
            return constant(self.octave_weights, octaves.dtype, octaves.device)
        whole = octaves.sum(1, keepdim=True)
        share = ratio(octaves.clamp(min=0.0), whole)
        raw = share.clamp(min=SMALLEST) ** -self.power
        weights = ratio(raw, (raw * share).sum(1, keepdim=True))
        return torch.where(whole > 0, weights, 1.0)  # equal scores, or no cell that counts


def _most_levels(height: int, width: int) -> int:
    """Return the number of octaves after which one cell is left."""
    return (max(height, width) - 1).bit_length()


def octave_parts(scores: Scores, temperature: float, levels: int) -> Tensor:
    """Return what each octave adds to the sum of KL over cells, ``[B, levels + 1]``, top last.

    The row sums are those of the weighted pixel-wise divergence.
    """
    sums = torch.stack(list(_divergences(scores, temperature, levels)), dim=1)
    return torch.cat([sums[:, :-1] - sums[:, 1:], sums[:, -1:]], dim=1)


def _divergences(scores: Scores, temperature: float, levels: int) -> Iterator[Tensor]:
    """Yield the summed divergence ``[B]`` on the grid itself and on each coarser one."""
    mass = scores.weights[:, None]
    log_student = F.log_softmax(scores.student / temperature, dim=1)
    log_teacher = F.log_softmax(scores.teacher / temperature, dim=1)
    student, teacher = mass * log_student.exp(), mass * log_teacher.exp()
    yield (teacher * (log_teacher - log_student)).sum((1, 2, 3))
    for _ in range(levels):
        student, teacher = _summed(student), _summed(teacher)
        ratio = teacher.clamp(min=TINY).log() - student.clamp(min=TINY).log()
        yield (teacher * ratio).sum((1, 2, 3))


def _summed(x: Tensor) -> Tensor:
    """Return sums over 2x2 cells; odd sides get empty cells at the bottom and right.

    Additions of halves take half the time of ``avg_pool2d`` on a CPU, forward and backward.
    """
    height, width = x.shape[-2:]
    if height % 2 or width % 2:
        x = F.pad(x, (0, width % 2, 0, height % 2))
    rows = x.unflatten(-2, (-1, 2))
    cells = (rows[..., 0, :] + rows[..., 1, :]).unflatten(-1, (-1, 2))
    return cells[..., 0] + cells[..., 1]
