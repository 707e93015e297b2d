"""Base of the losses that compare class scores: the common grid, and the weight of each cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from freqkd_cli.errors import ShapeError
from freqkd_cli.features.loss import Grid, Loss
from freqkd_cli.features.taps import Tap
from freqkd_cli.losses._emphasis import Emphasis, inside
from freqkd_cli.spectral.fourier import widened
from freqkd_cli.spectral.masks import BandCells
from freqkd_cli.views.batch import Batch

ComparedGrid = Literal["student", "teacher"]

OUTSIDE = -1e30
"""Logit of cells that do not count, of probability 0."""


@dataclass(frozen=True)
class CellWeights(Emphasis):
    """Recipe keys: which cells count, and how much; ``attention`` reads class probabilities.

    Attributes:
        only_where_right: a labelled cell where the teacher's most likely class is another than
            the label has weight 0.
    """

    only_where_right: bool = False


@dataclass(frozen=True)
class Scores:
    """Logits of both sides on the compared grid.

    Attributes:
        student, teacher: ``[B, K, h, w]``, of one dtype.
        inside: ``[B, h, w]``, 1 for cells whose centre lies inside the image, else 0.
        weights: ``[B, h, w]``, the weight of each cell; 0 outside the image.
    """

    student: Tensor
    teacher: Tensor
    inside: Tensor
    weights: Tensor

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over inside cells of ``weights * values``, ``[B, h, w]`` -> scalar.

        Cells of weight 0 stay in the denominator, so the others keep the gradient that they have
        without weights. A batch without an inside cell gives 0.
        """
        return (values * self.weights).sum() / self.inside.sum().clamp(min=1.0)


class ClassScores(Loss):
    """Compares the logits of student and teacher cell by cell.

    A subclass may compare other taps, whose names are ``student`` and ``teacher``, as if their
    channels were classes. ``stored`` is the name of the map in the target.

    The target is the teacher's ``logits`` ``[B, K, h, w]`` on the compared grid, and with
    attention ``emphasis`` ``[B, h, w]``, of mean 1 over inside cells. So a cache serves any
    ``strength``, and without attention any ``temperature``.
    """

    reads_logits = True
    target_version = 2
    student = teacher = stored = "logits"

    def __init__(self, temperature: float, grid: ComparedGrid, weighting: CellWeights) -> None:
        super().__init__()
        self.temperature, self.on_teacher = temperature, grid == "teacher"
        self.weighting = weighting
        temperature_too = ("temperature",) if weighting.used else ()
        self.target_arguments = ("grid", *weighting.target_arguments, *temperature_too)
        if weighting.only_where_right:
            self.reads_classes_of_labels = ("only_where_right", "false")
        self.teacher_tap: Tap | None = None

    def student_taps(self, available: Mapping[str, Tap]) -> tuple[str, ...]:
        return (self.student,)

    def teacher_taps(self, available: Mapping[str, Tap]) -> tuple[str, ...]:
        return (self.teacher,)

    def start(self, student: Mapping[str, Tap], teacher: Mapping[str, Tap], classes: int) -> None:
        self.teacher_tap = teacher[self.teacher]

    def check_grids(self, student: Mapping[str, Grid], teacher: Mapping[str, Grid]) -> None:
        grid = teacher[self.teacher] if self.on_teacher else student[self.student]
        self.weighting.check(grid, "the teacher's logits")

    def band_cells(
        self, student: Mapping[str, Grid], teacher: Mapping[str, Grid]
    ) -> tuple[BandCells, ...]:
        grid = teacher[self.teacher] if self.on_teacher else student[self.student]
        return self.weighting.cells(grid, "the teacher's logits")

    def grid(self, student: Grid, batch: Batch) -> Grid:
        """Return the grid (h, w) on which this batch's logits are compared."""
        assert self.teacher_tap is not None, "start() comes first"
        return self.teacher_tap.grid(*batch.images.shape[-2:]) if self.on_teacher else student

    def target(
        self, teacher: Mapping[str, Tensor], batch: Batch, grids: Mapping[str, Grid]
    ) -> dict[str, Tensor]:
        logits = widened(teacher[self.teacher].detach())
        logits = resized(logits, self.grid(grids[self.student], batch))
        if not self.weighting.used:
            return {self.stored: logits}
        probabilities = F.softmax(logits / self.temperature, dim=1)
        return {self.stored: logits, "emphasis": self.weighting.relative(probabilities, batch)}

    def count(self, batch: Batch, grids: Mapping[str, Grid]) -> float:
        return float(inside(batch, self.grid(grids[self.student], batch)).sum())

    def projected(self, scores: Tensor) -> Tensor:
        """Return the student's scores with as many channels as the teacher's."""
        return scores

    def scores(
        self, student: Mapping[str, Tensor], target: Mapping[str, Tensor], batch: Batch
    ) -> Scores:
        """Return both sides on the compared grid, with the weight of each cell.

        Raises:
            ShapeError: the target has another shape than the student's scores.
        """
        logits = self.projected(widened(student[self.student]))
        logits = resized(logits, self.grid(_size(logits), batch))
        teacher = widened(target[self.stored]).to(logits.dtype)
        if logits.shape != teacher.shape:
            raise ShapeError(
                f"the shapes of student {self.student} and teacher {self.teacher} differ",
                got=tuple(logits.shape),
                need=tuple(teacher.shape),
            )
        within = inside(batch, _size(logits)).to(logits.dtype)
        weights = within
        if self.weighting.used:
            weights = weights * self.weighting.weights(target["emphasis"], weights.dtype)
        if self.weighting.only_where_right:
            weights = weights * _not_wrong(teacher, batch)
        return Scores(logits, teacher, within, weights)


def divergence_over_cells(
    student: Tensor, teacher: Tensor, weights: Tensor, temperature: float
) -> Tensor:
    """Return tau^2 times the mean over images and channels of KL(p_T || p_S), a scalar.

    ``p`` of a channel is in proportion to ``w exp(z / tau)`` over its cells. The weights belong to
    both distributions, so the divergence is 0 at equal logits alone, up to a constant per channel.
    An image without a cell that counts adds 0.

    Args:
        student, teacher: z, ``[B, K, h, w]``.
        weights: w, ``[B, h, w]``; cells of weight 0 do not count.
    """
    dropped = (weights == 0)[:, None]
    shift = weights[:, None].masked_fill(dropped, 1.0).log()
    log_student, log_teacher = (
        F.log_softmax((z / temperature + shift).masked_fill(dropped, OUTSIDE).flatten(2), dim=-1)
        for z in (student, teacher)
    )
    total = (log_teacher.exp() * (log_teacher - log_student)).sum()
    return total / (student.shape[0] * student.shape[1]) * temperature**2


def _size(x: Tensor) -> Grid:
    return x.shape[-2], x.shape[-1]


def _not_wrong(teacher: Tensor, batch: Batch) -> Tensor:
    """Return 0 where the most likely class is not the label at the cell's centre, else 1.

    Void cells, and all cells of images without labels, stay 1.
    """
    if batch.labels is None:
        return torch.ones_like(teacher[:, 0])
    pixels = batch.labels[:, None].float()
    labels = F.interpolate(pixels, size=_size(teacher), mode="nearest-exact")[:, 0].long()
    return ((labels == batch.ignore) | (labels == teacher.argmax(1))).to(teacher.dtype)


def resized(logits: Tensor, grid: Grid) -> Tensor:
    """Resize logits bilinearly.

    Not antialiased: the wider filter removes what is thinner than two cells (the IoU of poles fell
    from 25 to 7 on scenes).
    """
    if _size(logits) == tuple(grid):
        return logits
    return F.interpolate(logits, size=tuple(grid), mode="bilinear", align_corners=False)
