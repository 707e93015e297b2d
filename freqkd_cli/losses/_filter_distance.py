"""Distances between filtered spectra of student and teacher, without an inverse transform."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from freqkd_cli.features.adapter import Adapter, adapted
from freqkd_cli.losses._filter import Filtered, Table
from freqkd_cli.spectral.distances import ENERGY_EPS, Distance, cosine, ratio
from freqkd_cli.spectral.fourier import widened


class StudentRows(NamedTuple):
    """The student's spectrum before the adapter and the standardisation.

    Attributes:
        rows: ``[B, Cs, n]``, plain sums over cells.
        adapter: from Cs to C channels, or None.
        scale: ``[B, C, 1]``, what standardises the adapted channels, or None.
    """

    rows: Tensor
    adapter: Adapter | None
    scale: Tensor | None

    def times(self, weight: Tensor) -> Tensor:
        """Return the finished rows ``[B, C, n]`` times a weight of each bin.

        The weight multiplies the student's own channels, which are fewer than the adapted ones.
        """
        return adapted(self.rows * weight, self.adapter, self.scale)


@dataclass(frozen=True)
class FilteredDistance:
    """The distance of a band loss, on rows of the table's bins.

    Attributes:
        filter_side: the unfiltered side stays whole.
    """

    kind: Distance
    filter_side: Filtered
    table: Table

    def __call__(self, student: StudentRows, teacher: Tensor, outside: Tensor | None) -> Tensor:
        """Return the mean distance over the batch.

        Args:
            teacher: ``[B, C, n]``, orthonormal.
            outside: ``[B]``, root of the teacher's mean energy in bins that the rows leave out.
        """
        if self.kind in ("relative", "mse"):
            return self._squared(student, teacher, outside)
        unit, root_count = self.table.unit, self.table.count.sqrt()
        total = teacher.new_zeros(())
        for share, gain in zip(self.table.shares, self.table.gains, strict=True):
            own, other = self._on_sides(gain)
            if self.kind == "l1":
                difference = self.table.map(student.times(own) - teacher * (other * unit))
                total = total + share * difference.abs().mean()
            else:
                rows = student.times(own * root_count), teacher * (other * root_count * unit)
                total = total + share * cosine(*rows)
        return total

    def _on_sides(self, gain: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gain of the student's rows and of the teacher's."""
        one = torch.ones_like(gain)
        student = one if self.filter_side == "teacher" else gain
        return student, one if self.filter_side == "student" else gain

    def _squared(self, student: StudentRows, teacher: Tensor, outside: Tensor | None) -> Tensor:
        """``relative`` and ``mse``: squared differences, weighted by gain and denominator."""
        shares = self._shares(teacher, outside)
        if self.filter_side == "both":
            # The filter acts on the difference, so all terms together are one weight of squares.
            weights = [((shares @ self.table.energies).sqrt(),) * 2]
        else:
            columns, gains = shares.split(1, dim=1), self._on_sides(self.table.gains)
            own, other = (self.table.count * gain.square() for gain in gains)
            weights = [
                ((column * a).sqrt(), (column * b).sqrt())
                for column, a, b in zip(columns, own, other, strict=True)
            ]
        total = teacher.new_zeros(())
        for a, b in weights:
            rows = student.times(a[:, None]), teacher * (b * self.table.unit)[:, None]
            total = total + F.mse_loss(*rows, reduction="sum")
        return total

    def _shares(self, teacher: Tensor, outside: Tensor | None) -> Tensor:
        """Return the share of one squared difference in the mean, per sample and term."""
        shares, (number, channels) = self.table.shares, teacher.shape[:2]
        if self.kind == "mse":
            return (shares / (number * channels * self.table.cells)).expand(number, -1)
        squares = torch.linalg.vecdot(teacher, teacher, dim=1) * self.table.cells
        bands = squares @ self.table.energies.mT
        whole = (squares @ self.table.count)[:, None]
        if outside is not None:
            whole = whole + widened(outside).square()[:, None] * (channels * self.table.cells)
        return ratio(shares / number, bands + ENERGY_EPS * whole)
