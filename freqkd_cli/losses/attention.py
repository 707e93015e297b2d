"""Compare where two taps are active: attention transfer.

**What** ``mean over cells of (a(S) - a(T))^2`` with ``a(x) = mean_c x^2``, flattened and L2-normalised per sample; mean over the batch.
With ``reduce: sum`` the sum over cells instead, which does not shrink as grids grow.

**Why** The student learns where the teacher looks and is free in what it calls it: no adapter, no equal channels.

**Shapes and units** taps ``[B, C, h, w]``; both sides come to the smaller grid per axis in frequency space. Values lie between 0 and 2 /
(h w) for the mean, 0 and 2 for the sum.

**Source** Zagoruyko and Komodakis, Paying More Attention to Attention (arXiv 1612.03928), eq. 2 with p = 2, whose reference code squares
and averages as here. Departure: the grids are matched band-limited, not by pooling. Segmentation papers weight the mean form with about
1e4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from freqkd_cli.features.loss import Grid, Loss
from freqkd_cli.losses._pair import PairLoss
from freqkd_cli.losses._rows import Side
from freqkd_cli.losses._sides import attention
from freqkd_cli.spectral.fourier import resample
from freqkd_cli.views.batch import Batch


def build(*, student: str, teacher: str, reduce: Literal["mean", "sum"] = "mean") -> Loss:
    """Attention transfer between two taps; see the top of the file."""
    return AttentionLoss(student, teacher, reduce)


class AttentionLoss(PairLoss):
    """Made by :func:`build`. The target is the teacher's attention, ``attention`` ``[B, 1, h * w]`` of unit norm."""

    target_arguments = ("teacher",)

    def __init__(self, student: str, teacher: str, reduce: Literal["mean", "sum"]) -> None:
        super().__init__(student, teacher, adapted=False)
        self.reduce = reduce

    def target(
        self, teacher: Mapping[str, Tensor], batch: Batch, grids: Mapping[str, Grid]
    ) -> dict[str, Tensor]:
        x = teacher[self.teacher].detach()
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            return {
                "attention": attention(resample(x, self.grid(grids[self.student], batch))).flatten(
                    2
                )
            }

    def forward(
        self, student: Mapping[str, Tensor], target: Mapping[str, Tensor], batch: Batch, step: int
    ) -> Tensor:
        x = student[self.student]
        with torch.autocast(x.device.type, enabled=False):
            ours = attention(resample(x, self.grid((x.shape[-2], x.shape[-1]), batch))).flatten(2)
            error = (ours - self.fits(Side(ours), target["attention"])).square().flatten(1)
            return (error.mean(1) if self.reduce == "mean" else error.sum(1)).mean()
