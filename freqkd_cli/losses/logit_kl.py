"""Kullback-Leibler divergence from the teacher's class scores to the student's, pixel by pixel.

**What** ``tau^2 * mean over cells of KL(softmax(z_T / tau) || softmax(z_S / tau))``.
``grid: teacher`` resizes the student's logits to the teacher's grid, as scoring resizes them to the
labels. ``grid: student`` resizes the teacher's to the student's pre-upsampling grid. This loses
what is thinner than its cells (strides 4 and 8 on scenes: 2.3 mIoU less, and less than without this
loss). ``attention: high`` weights each cell by how much the teacher's prediction changes there:
``p = softmax(z_T / tau)`` on the compared grid, ``a = sqrt(sum over classes of (F_high p)^2)``,
``w = (1 + strength a / mean a) / (1 + strength)``, the mean over valid cells of the sample. The
weights have mean 1, so the loss weight keeps its meaning. ``attention: low`` uses the low band.

**Why** The teacher's probabilities of all classes hold more information than one label. They exist
in void regions too, where there is no label. High attention moves the student's effort to edges and
thin objects.

**Shapes and units** ``logits`` ``[B, K, h, w]``; one side's are resized bilinearly (align_corners
False) to the other's grid. The mean is over cells whose centre lies inside the image
(``batch.valid``), void labels included. Nats. A cache of targets holds the teacher's logits on the
chosen grid. The teacher's own grid has 4 times the cells of a student of twice its stride. With
attention it also holds ``a / mean a`` ``[B, h, w]``. ``cutoff`` of the Gaussian mask is in Nyquist
units of the compared grid.

**Source** Hinton, Vinyals and Dean (arXiv 1503.02531) in the pixel-wise form of CIRKD
(losses/kd.py: tau 1, weight 1, rows are pixels). Departures: padded cells do not count; the default
grid is the finer one, where CIRKD compares on the student's. Frequency attention is this project's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from freqkd_cli.errors import ShapeError
from freqkd_cli.features.loss import Grid, Loss
from freqkd_cli.features.taps import Tap
from freqkd_cli.spectral.fourier import widened
from freqkd_cli.spectral.frequency_attention import (
    attention_weights,
    band_strength,
    relative_strength,
)
from freqkd_cli.spectral.masks import check_band
from freqkd_cli.views.batch import Batch

Attention = Literal["none", "low", "high"]


def build(
    *,
    temperature: Annotated[float, Field(gt=0)] = 1.0,
    grid: Literal["student", "teacher"] = "teacher",
    attention: Attention = "none",
    cutoff: Annotated[float, Field(gt=0)] = 0.25,
    strength: Annotated[float, Field(ge=0)] = 4.0,
) -> Loss:
    """Build logit distillation; the top of the file explains every key."""
    emphasis = None if attention == "none" else Emphasis(attention, cutoff, strength)
    return LogitKL(temperature, on_teacher=grid == "teacher", emphasis=emphasis)


@dataclass(frozen=True)
class Emphasis:
    """Which band of the teacher's prediction weights the cells, and how strongly."""

    band: Literal["low", "high"]
    cutoff: float
    strength: float


class LogitKL(Loss):
    """Made by :func:`build`.

    The target is the teacher's ``logits`` ``[B, K, h, w]``, so a cache serves any ``temperature``.
    With attention it also holds ``emphasis`` ``[B, h, w]``, mean 1 over valid cells, and a cache
    serves any ``strength``.
    """

    reads_logits = True
    target_version = 2

    def __init__(
        self, temperature: float, *, on_teacher: bool, emphasis: Emphasis | None = None
    ) -> None:
        super().__init__()
        self.temperature, self.on_teacher, self.emphasis = temperature, on_teacher, emphasis
        shaping = () if emphasis is None else ("attention", "cutoff", "temperature")
        self.target_arguments = ("grid", *shaping)
        self.teacher_tap: Tap | None = None

    def student_taps(self, available: Mapping[str, Tap]) -> tuple[str, ...]:
        return ("logits",)

    def teacher_taps(self, available: Mapping[str, Tap]) -> tuple[str, ...]:
        return ("logits",)

    def start(self, student: Mapping[str, Tap], teacher: Mapping[str, Tap], classes: int) -> None:
        self.teacher_tap = teacher["logits"]

    def check_grids(self, student: Mapping[str, Grid], teacher: Mapping[str, Grid]) -> None:
        if self.emphasis is not None:
            grid = teacher["logits"] if self.on_teacher else student["logits"]
            check_band(grid, "gaussian", self.emphasis.cutoff, 2, "the teacher's logits")

    def grid(self, student: Grid, batch: Batch) -> Grid:
        """Return the grid (h, w) on which this batch's logits are compared."""
        assert self.teacher_tap is not None, "start() comes first"
        return self.teacher_tap.grid(*batch.images.shape[-2:]) if self.on_teacher else student

    def target(
        self, teacher: Mapping[str, Tensor], batch: Batch, grids: Mapping[str, Grid]
    ) -> dict[str, Tensor]:
        grid = self.grid(grids["logits"], batch)
        logits = _resized(widened(teacher["logits"].detach()), grid)
        if self.emphasis is None:
            return {"logits": logits}
        probabilities = F.softmax(logits / self.temperature, dim=1)
        strength = band_strength(probabilities, self.emphasis.band, self.emphasis.cutoff)
        return {"logits": logits, "emphasis": relative_strength(strength, _inside(batch, grid))}

    def count(self, batch: Batch, grids: Mapping[str, Grid]) -> float:
        return float(_inside(batch, self.grid(grids["logits"], batch)).sum())

    def forward(
        self, student: Mapping[str, Tensor], target: Mapping[str, Tensor], batch: Batch, step: int
    ) -> Tensor:
        with torch.autocast(student["logits"].device.type, enabled=False):
            logits = widened(student["logits"])
            logits = _resized(logits, self.grid(_size(logits), batch))
            teacher = widened(target["logits"]).to(logits.dtype)
            if logits.shape != teacher.shape:
                raise ShapeError(
                    "the shapes of student and teacher logits differ",
                    got=tuple(logits.shape),
                    need=tuple(teacher.shape),
                )
            inside = _inside(batch, _size(logits)).to(logits.dtype)
            log_student = F.log_softmax(logits / self.temperature, dim=1)
            log_teacher = F.log_softmax(teacher / self.temperature, dim=1)
            divergence = F.kl_div(log_student, log_teacher, reduction="none", log_target=True)
            divergence = divergence.sum(1)
            if self.emphasis is not None:
                relative = widened(target["emphasis"]).to(divergence.dtype)
                divergence = divergence * attention_weights(relative, self.emphasis.strength)
            total = (divergence * inside).sum()
            return total / inside.sum().clamp(min=1.0) * self.temperature**2


def _size(x: Tensor) -> Grid:
    return x.shape[-2], x.shape[-1]


def _resized(logits: Tensor, grid: Grid) -> Tensor:
    """Resize logits bilinearly.

    Not antialiased: the wider filter removes what is thinner than two cells (the IoU of poles fell
    from 25 to 7 on scenes).
    """
    if _size(logits) == tuple(grid):
        return logits
    return F.interpolate(logits, size=tuple(grid), mode="bilinear", align_corners=False)


def _inside(batch: Batch, grid: Grid) -> Tensor:
    """Return 1 for cells whose centre lies inside the image, ``[B, h, w]``."""
    return F.interpolate(batch.valid[:, None].float(), size=tuple(grid), mode="nearest-exact")[:, 0]
