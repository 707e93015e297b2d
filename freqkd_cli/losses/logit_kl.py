"""Kullback-Leibler divergence from the teacher's class scores to the student's, pixel by pixel.

**What** ``tau^2 * mean over pixels of KL(softmax(z_T / tau) || softmax(z_S / tau))`` on the student's pre-upsampling grid.

**Why** The teacher's doubt between classes says more than a label, and it speaks in void regions too, where there is no label.

**Shapes and units** ``logits`` ``[B, K, h, w]``; the teacher's are resized bilinearly (align_corners False) to the student's
grid; the mean is over cells whose centre lies inside the picture (``batch.valid``), void labels included. Nats.

**Source** Hinton, Vinyals and Dean (arXiv 1503.02531) in the pixel-wise form of CIRKD (losses/kd.py: tau 1, weight 1, rows are pixels).
Departure: padded cells do not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from freqkd_cli.errors import ShapeError
from freqkd_cli.features.loss import Grid, Loss
from freqkd_cli.features.taps import Tap
from freqkd_cli.spectral.fourier import widened
from freqkd_cli.views.batch import Batch


def build(*, temperature: Annotated[float, Field(gt=0)] = 1.0) -> Loss:
    """Logit distillation; see the top of the file."""
    return LogitKL(temperature)


class LogitKL(Loss):
    """Made by :func:`build`. The target is the teacher's resized ``logits`` ``[B, K, h, w]``: ``temperature`` may change under a cache."""

    reads_logits = True
    target_version = 2

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def student_taps(self, available: Mapping[str, Tap]) -> tuple[str, ...]:
        return ("logits",)

    def teacher_taps(self, available: Mapping[str, Tap]) -> tuple[str, ...]:
        return ("logits",)

    def target(self, teacher: Mapping[str, Tensor], batch: Batch, grids: Mapping[str, Grid]) -> dict[str, Tensor]:
        logits, grid = widened(teacher["logits"].detach()), tuple(grids["logits"])
        if tuple(logits.shape[-2:]) != grid:
            # Not antialiased: the wider filter drowns what is thinner than two cells (a pole's IoU fell from 25 to 7 on scenes).
            logits = F.interpolate(logits, size=grid, mode="bilinear", align_corners=False)
        return {"logits": logits}

    def count(self, batch: Batch, grids: Mapping[str, Grid]) -> float:
        return float(_inside(batch, grids["logits"]).sum())

    def forward(self, student: Mapping[str, Tensor], target: Mapping[str, Tensor], batch: Batch, step: int) -> Tensor:
        with torch.autocast(student["logits"].device.type, enabled=False):
            ours = widened(student["logits"])
            theirs = widened(target["logits"]).to(ours.dtype)
            if ours.shape != theirs.shape:
                raise ShapeError("student and teacher logits differ", got=tuple(ours.shape), need=tuple(theirs.shape))
            inside = _inside(batch, (ours.shape[-2], ours.shape[-1])).to(ours.dtype)
            log_student = F.log_softmax(ours / self.temperature, dim=1)
            log_teacher = F.log_softmax(theirs / self.temperature, dim=1)
            divergence = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(1)
            return (divergence * inside).sum() / inside.sum().clamp(min=1.0) * self.temperature**2


def _inside(batch: Batch, grid: Grid) -> Tensor:
    """1 for cells whose centre lies inside the picture, ``[B, h, w]``."""
    return F.interpolate(batch.valid[:, None].float(), size=tuple(grid), mode="nearest-exact")[:, 0]
