"""Base of the losses that compare class scores: the common grid, and the weight of each cell."""

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
from freqkd_cli.spectral.masks import Kind, check_band
from freqkd_cli.views.batch import Batch

ComparedGrid = Literal["student", "teacher"]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class CellWeights:
    """Recipe keys: which cells count, and how much.

    Attributes:
        attention: weight cells by this band of the teacher's probabilities; none is weight 1.
        cutoff, mask: of the radial low-pass, in Nyquist units of the compared grid.
        high_share: share of the high band in the gain of ``attention: mix``.
        strength: s in the weight (1 + s a / mean a) / (1 + s).
        only_where_right: a labelled cell where the teacher's most likely class is another than
            the label has weight 0.
    """

    attention: Literal["none", "low", "high", "mix"] = "none"
    cutoff: Positive = 0.25
    mask: Kind = "gaussian"
    high_share: Share = 0.5
    strength: Annotated[float, Field(ge=0)] = 4.0
    only_where_right: bool = False

    @property
    def share_of_high(self) -> float:
        """Share of the high band in the gain of the filter; the low band has the rest."""
        return {"low": 0.0, "high": 1.0}.get(self.attention, self.high_share)


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

    The target is the teacher's ``logits`` ``[B, K, h, w]`` on the compared grid, and with
    attention ``emphasis`` ``[B, h, w]``, of mean 1 over inside cells. So a cache serves any
    ``strength``, and without attention any ``temperature``.
    """

    reads_logits = True
    target_version = 2

    def __init__(self, temperature: float, grid: ComparedGrid, weighting: CellWeights) -> None:
        super().__init__()
        self.temperature, self.on_teacher = temperature, grid == "teacher"
        self.weighting = weighting
        shaping: tuple[str, ...] = ()
        if weighting.attention != "none":
            shaping = ("attention", "cutoff", "temperature")
            shaping += ("mask",) if weighting.mask != "gaussian" else ()
            shaping += ("high_share",) if weighting.attention == "mix" else ()
        self.target_arguments = ("grid", *shaping)
        self.teacher_tap: Tap | None = None

    def student_taps(self, available: Mapping[str, Tap]) -> tuple[str, ...]:
        return ("logits",)

    def teacher_taps(self, available: Mapping[str, Tap]) -> tuple[str, ...]:
        return ("logits",)

    def start(self, student: Mapping[str, Tap], teacher: Mapping[str, Tap], classes: int) -> None:
        self.teacher_tap = teacher["logits"]

    def check_grids(self, student: Mapping[str, Grid], teacher: Mapping[str, Grid]) -> None:
        if self.weighting.attention != "none":
            grid = teacher["logits"] if self.on_teacher else student["logits"]
            mask, cutoff = self.weighting.mask, self.weighting.cutoff
            check_band(grid, mask, cutoff, 2, "the teacher's logits")

    def grid(self, student: Grid, batch: Batch) -> Grid:
        """Return the grid (h, w) on which this batch's logits are compared."""
        assert self.teacher_tap is not None, "start() comes first"
        return self.teacher_tap.grid(*batch.images.shape[-2:]) if self.on_teacher else student

    def target(
        self, teacher: Mapping[str, Tensor], batch: Batch, grids: Mapping[str, Grid]
    ) -> dict[str, Tensor]:
        grid, weighting = self.grid(grids["logits"], batch), self.weighting
        logits = resized(widened(teacher["logits"].detach()), grid)
        if weighting.attention == "none":
            return {"logits": logits}
        probabilities = F.softmax(logits / self.temperature, dim=1)
        strength = band_strength(
            probabilities, weighting.share_of_high, weighting.cutoff, weighting.mask
        )
        return {"logits": logits, "emphasis": relative_strength(strength, inside(batch, grid))}

    def count(self, batch: Batch, grids: Mapping[str, Grid]) -> float:
        return float(inside(batch, self.grid(grids["logits"], batch)).sum())

    def scores(
        self, student: Mapping[str, Tensor], target: Mapping[str, Tensor], batch: Batch
    ) -> Scores:
        """Return both sides on the compared grid, with the weight of each cell.

        Raises:
            ShapeError: the target has another shape than the student's logits.
        """
        logits = widened(student["logits"])
        logits = resized(logits, self.grid(_size(logits), batch))
        teacher = widened(target["logits"]).to(logits.dtype)
        if logits.shape != teacher.shape:
            raise ShapeError(
                "the shapes of student and teacher logits differ",
                got=tuple(logits.shape),
                need=tuple(teacher.shape),
            )
        within = inside(batch, _size(logits)).to(logits.dtype)
        weights = within
        if self.weighting.attention != "none":
            relative = widened(target["emphasis"]).to(weights.dtype)
            weights = weights * attention_weights(relative, self.weighting.strength)
        if self.weighting.only_where_right:
            weights = weights * _not_wrong(teacher, batch)
        return Scores(logits, teacher, within, weights)


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


def inside(batch: Batch, grid: Grid) -> Tensor:
    """Return 1 for cells whose centre lies inside the image, ``[B, h, w]``."""
    return F.interpolate(batch.valid[:, None].float(), size=tuple(grid), mode="nearest-exact")[:, 0]
