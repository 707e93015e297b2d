"""Compare the cosine of every pair of patches with the teacher's: structured distillation.

**What** ``mean over the batch of |A_S - A_T|^2 / N^2``. Each tap is max-pooled to N patches, and
``A[i, j]`` is the cosine of the channels of patches i and j. The pooling has windows of ``pool``
times each side of the map, rounded down (0.5: 2x2 patches, and 3x3 on odd sides). ``cells`` sets
the side of the windows in cells instead. Windows at the border are smaller.

**Why** Cosines of pairs need neither equal channels nor equal values. The student learns which
regions are alike for the teacher.

**Shapes and units** Taps ``[B, C, h, w]``. Both sides are resampled to the smaller grid per axis in
frequency space, then pooled. Padded cells take part on both sides alike. Values lie in [0, 4]. A
cache of targets holds the pooled channels at unit norm, ``[B, C, N]``.

**Source** Liu et al., "Structured Knowledge Distillation for Semantic Segmentation", CVPR 2019
(arXiv 1903.04197), the pair-wise term. Values equal those of the authors' code
(irfanICMLL/structure_knowledge_distillation at ce208e1, ``CriterionPairWiseforWholeFeatAfterPool``
with its default ``pool-scale`` 0.5), values and gradients those of winycg/CIRKD at dab64db
(``losses/skd.py``) with ``cells: 2``. Loss weights there: 0.5 and 10. Departure: the authors' code
holds the norms fixed in the gradient, which equation 2 of the paper does not. The pixel-wise term
is ``logit_kl``; the adversarial term is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from freqkd_cli.errors import RecipeError
from freqkd_cli.features.loss import Grid, Loss, LossGroup
from freqkd_cli.losses._pair import PairLoss
from freqkd_cli.spectral.distances import unit
from freqkd_cli.spectral.fourier import common_grid, resample
from freqkd_cli.views.batch import Batch

GROUP: LossGroup = "relations"


def build(
    *,
    student: str,
    teacher: str,
    pool: Annotated[float, Field(gt=0, lt=1)] = 0.5,
    cells: Annotated[int, Field(ge=1, le=10**9)] | None = None,
) -> Loss:
    """Build pair-wise distillation between two taps; the top of the file explains every key.

    Args:
        student: tap of the student.
        teacher: tap of the teacher.
        pool: side of the pooling windows, as a share of each side of the map.
        cells: side of the pooling windows in cells, instead of ``pool``.
    """
    return PairWise(student, teacher, pool, cells)


class PairWise(PairLoss):
    """Made by :func:`build`. Its target is ``patches`` ``[B, C, N]``, of unit norm over C."""

    target_arguments = ("teacher", "pool", "cells")

    def __init__(self, student: str, teacher: str, pool: float, cells: int | None) -> None:
        super().__init__(student, teacher, adapted=False)
        self.pool, self.cells = pool, cells

    def window(self, grid: Grid) -> Grid:
        """Return the side of the pooling windows per axis, in cells."""
        if self.cells is not None:
            return self.cells, self.cells
        return max(1, int(grid[0] * self.pool)), max(1, int(grid[1] * self.pool))

    def check_grids(self, student: Mapping[str, Grid], teacher: Mapping[str, Grid]) -> None:
        grid = common_grid(student[self.student], teacher[self.teacher])
        if all(side >= cells for side, cells in zip(self.window(grid), grid, strict=True)):
            raise RecipeError(
                f"skd_pairwise pools {self.student!r} and {self.teacher!r} to a single patch",
                got=f"a grid of {grid[0]}x{grid[1]} cells",
                need="at least 2 patches",
                tip="a finer tap, or a smaller cells",
                key="cells" if self.cells else "pool",
            )

    def patches(self, x: Tensor, grid: Grid) -> Tensor:
        """Return the pooled channels of a map at unit norm, ``[B, C, N]``."""
        window = self.window(grid)
        return unit(F.max_pool2d(resample(x, grid), window, window, ceil_mode=True).flatten(2))

    def target(
        self, teacher: Mapping[str, Tensor], batch: Batch, grids: Mapping[str, Grid]
    ) -> dict[str, Tensor]:
        grid = self.grid(grids[self.student], batch)
        return {"patches": self.patches(teacher[self.teacher].detach(), grid)}

    def forward(
        self, student: Mapping[str, Tensor], target: Mapping[str, Tensor], batch: Batch, step: int
    ) -> Tensor:
        x = student[self.student]
        with torch.autocast(x.device.type, enabled=False):
            patches = self.patches(x, self.grid((x.shape[-2], x.shape[-1]), batch))
            assert self.teacher_tap is not None, "start() comes first"
            teacher = self.fitted(target["patches"], patches, self.teacher_tap.channels)
            return F.mse_loss(patches.mT @ patches, teacher.mT @ teacher)
