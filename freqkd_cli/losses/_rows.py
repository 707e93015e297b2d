"""Distances between two sets of rows ``[B, C, n]``: cells of a map, or real and imaginary parts of a half-plane spectrum.

Both are orthonormal views of one map, so one arithmetic serves both. ``count`` ``[n]`` says how many cells or bins an entry stands for
(Parseval), ``gain`` ``[n]`` is a real filter, which in space can only be 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from freqkd_cli.losses._squared import SPREAD_EPS, Error, squared_error

Distance = Literal["relative", "mse", "l1", "cosine"]
Filtered = Literal["both", "teacher", "student"]

ENERGY_EPS = 1e-6
"""Share of the teacher's whole energy in the denominator of ``relative``."""


class _Energy(torch.autograd.Function):
    """Weighted sum of squares per row; torch's own graph of it walks over the rows twice as often."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.matmul(x * x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        x, weight = ctx.saved_tensors
        return (x * weight).mul_(2.0 * gradient[..., None]), None


def energy(x: Tensor, weight: Tensor) -> Tensor:
    """``sum_n weight[n] * x[b, c, n]^2``, ``[B, C]``."""
    return _Energy.apply(x, weight)


def root(x: Tensor) -> Tensor:
    """Square root with gradient 0, and not infinity, where x is 0 (a flat channel)."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)


def spread(variance: Tensor) -> Tensor:
    """1 / (standard deviation + 1e-6) as ``[B, C, 1]``, to multiply centred rows with."""
    return (1.0 / (root(variance) + SPREAD_EPS))[..., None]


@dataclass(frozen=True)
class Weights:
    """What sums over rows need.

    Attributes:
        count: ``[n]``, Parseval weights.
        gains: (share, gain ``[n]``) of each term: one filter, or two for a mix of losses. The shares of one loss add up to 1.
        cells: number of cells of the map that a row stands for, those that the rows leave out included.
        unit: what the teacher's rows are divided by as they are stored: root of the cells for a spectrum, so that half floats hold it.
    """

    count: Tensor
    gains: tuple[tuple[float, Tensor], ...]
    cells: int
    unit: float = 1.0

    @classmethod
    def of_cells(cls, rows: Tensor) -> Weights:
        """Rows that are the cells of a map, unfiltered."""
        ones = rows.new_ones(rows.shape[-1])
        return cls(ones, ((1.0, ones),), rows.shape[-1])


@dataclass(frozen=True)
class Side:
    """A side that is not finished: the adapter and the standardisation are still to come.

    They come last because the squared distances do them sample by sample, with the rows still in the processor's cache.

    Attributes:
        rows: ``[B, C, n]``, centred where ``variance`` is given.
        adapter: ``[C', C]``, to be multiplied from the left, or None.
        variance: ``[n]``, weights of the squares whose sum is a channel's variance; None where nothing is to be standardised.
    """

    rows: Tensor
    adapter: Tensor | None = None
    variance: Tensor | None = None

    def finished(self) -> Tensor:
        rows = self.rows if self.adapter is None else torch.matmul(self.adapter, self.rows)
        return rows if self.variance is None else rows * spread(energy(rows, self.variance))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the finished rows."""
        number, channels, length = self.rows.shape
        return number, channels if self.adapter is None else self.adapter.shape[0], length


@dataclass(frozen=True)
class Comparison:
    """How two sides are compared: the distance, which side is filtered, by what."""

    distance: Distance
    side: Filtered
    weights: Weights

    def __call__(self, student: Side, teacher: Tensor, outside: Tensor | None = None) -> Tensor:
        """Mean distance over the batch. Not ``l1``, which is taken in space by who has the map.

        Args:
            student: rows ``[B, C, n]``.
            teacher: ``[B, C, n]``, in ``weights.unit``.
            outside: ``[B]``, energy of the teacher in bins that the rows leave out, or None.
        """
        if self.distance == "cosine":
            rows = student.finished()
            return (
                torch.stack(
                    [
                        share * self._cosine(rows, teacher, gain)
                        for share, gain in self.weights.gains
                    ]
                )
                .sum(0)
                .mean()
            )
        scales = self._scales(teacher, outside)
        count = self.weights.count
        if self.side == "both":
            # The filter is linear: it acts once, on the difference, as a weight of the squares, and so do all terms at once.
            weight = sum(
                scale[:, None] * (count * gain * gain)
                for scale, (_, gain) in zip(scales, self.weights.gains, strict=True)
            )
            return squared_error(
                student.rows,
                student.adapter,
                Error(teacher, self.weights.unit, weight, student.variance),
            )
        total = teacher.new_zeros(())
        for scale, (_, gain) in zip(scales, self.weights.gains, strict=True):
            theirs, ours = (teacher * gain, None) if self.side == "teacher" else (teacher, gain)
            error = Error(theirs, self.weights.unit, scale[:, None] * count, student.variance, ours)
            total = total + squared_error(student.rows, student.adapter, error)
        return total

    def difference(self, student: Tensor, teacher: Tensor, gain: Tensor) -> Tensor:
        """Filtered student minus filtered teacher, the unfiltered side whole, ``[B, C, n]``."""
        unit = self.weights.unit
        if self.side == "both":
            return torch.sub(student, teacher, alpha=unit) * gain
        if self.side == "teacher":
            return torch.sub(student, teacher * gain, alpha=unit)
        return torch.sub(student * gain, teacher, alpha=unit)

    def _scales(self, teacher: Tensor, outside: Tensor | None) -> list[Tensor]:
        """What one squared difference counts in the mean over the batch, per term and sample, ``[B]`` each."""
        number, channels, _ = teacher.shape
        if self.distance == "mse":
            return [
                teacher.new_full((number,), share / (number * channels * self.weights.cells))
                for share, _ in self.weights.gains
            ]
        # A product with ones sums over channels at the speed of memory; torch's own sum over that axis is far from it.
        squares = torch.matmul(teacher.new_ones(1, channels), teacher * teacher)[:, 0]
        count = self.weights.count * self.weights.unit**2
        whole = torch.mv(squares, count)
        whole = whole if outside is None else whole + outside
        below = [
            torch.mv(squares, count * gain * gain) + ENERGY_EPS * whole
            for _, gain in self.weights.gains
        ]
        # 0 for a teacher without any signal, from which nothing can be copied.
        return [
            torch.where(b > 0, share / (number * torch.where(b > 0, b, 1.0)), 0.0)
            for b, (share, _) in zip(below, self.weights.gains, strict=True)
        ]

    def _cosine(self, student: Tensor, teacher: Tensor, gain: Tensor) -> Tensor:
        count, squared = self.weights.count, self.weights.count * gain * gain
        of_student = energy(student, count if self.side == "teacher" else squared).sum(1)
        of_teacher = energy(teacher, count if self.side == "student" else squared).sum(1)
        inner = torch.matmul(
            student * teacher, squared if self.side == "both" else count * gain
        ).sum(1)
        norms = root(of_student) * root(of_teacher)
        some = norms > 0
        return 1.0 - torch.where(some, inner / torch.where(some, norms, 1.0), 0.0)
