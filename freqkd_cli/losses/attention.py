"""Compare where two taps are active: attention transfer.

**What** ``mean over cells of (a(S) - a(T))^2`` with ``a(x) = mean_c x^2``, flattened and
L2-normalised per sample; mean over the batch. ``reduce: sum`` takes the sum over cells instead,
which does not shrink as grids grow.

**Why** The student learns where the teacher is active and keeps its own channels: no adapter, no
equal channels.

**Shapes and units** Taps ``[B, C, h, w]``. Both sides are resampled to the smaller grid per axis in
frequency space. Values lie between 0 and 2 / (h w) for the mean, between 0 and 2 for the sum.

**Source** Zagoruyko and Komodakis, Paying More Attention to Attention (arXiv 1612.03928), eq. 2
with p = 2, whose reference code squares and averages as here. Departure: the grids are matched
band-limited, not by pooling. Segmentation papers weight the mean form with about 1e4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from freqkd_cli.features.loss import Grid, Loss, LossGroup
from freqkd_cli.losses._pair import PairLoss
from freqkd_cli.spectral.distances import attention
from freqkd_cli.spectral.fourier import resample
from freqkd_cli.views.batch import Batch

GROUP: LossGroup = "features"


def build(*, student: str, teacher: str, reduce: Literal["mean", "sum"] = "mean") -> Loss:
    """Build attention transfer between two taps; the top of the file explains every key.

    Args:
        student: tap of the student.
        teacher: tap of the teacher.
        reduce: how the squares of the cells are added up.
    """
    return AttentionLoss(student, teacher, reduce)


class AttentionLoss(PairLoss):
    """Made by :func:`build`.

    The target is the teacher's attention map, ``attention`` ``[B, 1, h * w]`` of unit norm.
    """

    target_arguments = ("teacher",)

    def __init__(self, student: str, teacher: str, reduce: Literal["mean", "sum"]) -> None:
        super().__init__(student, teacher, adapted=False)
        self.reduce = reduce

    def target(
        self, teacher: Mapping[str, Tensor], batch: Batch, grids: Mapping[str, Grid]
    ) -> dict[str, Tensor]:
        x = resample(teacher[self.teacher].detach(), self.grid(grids[self.student], batch))
        return {"attention": attention(x).flatten(2)}

    def forward(
        self, student: Mapping[str, Tensor], target: Mapping[str, Tensor], batch: Batch, step: int
    ) -> Tensor:
        x = student[self.student]
        with torch.autocast(x.device.type, enabled=False):
            x = resample(x, self.grid((x.shape[-2], x.shape[-1]), batch))
            rows = attention(x).flatten(2)
            error = (rows - self.fitted(target["attention"], rows)).square().sum((1, 2))
            return (error / rows.shape[2] if self.reduce == "mean" else error).mean()
