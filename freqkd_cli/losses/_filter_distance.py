"""Distances between filtered spectra of student and teacher, without an inverse transform.

Rows are compared with weights under which the sum of the squares of a row is the mean square of its
map over the cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from freqkd_cli.features.adapter import (
    Adapter,
    adapted,
    products_of,
    standardising,
    variances,
)
from freqkd_cli.losses._filter import Filtered, Table
from freqkd_cli.spectral.distances import (
    ENERGY_EPS,
    Distance,
    cosine,
    energy,
    inverse_deviation,
    ratio,
    varies,
)
from freqkd_cli.spectral.fourier import widened


def stored(rows: Tensor, table: Table, level: Tensor | None) -> dict[str, Tensor]:
    """Return the target of the teacher's spectrum ``[B, C, 2 * bins]``, plain sums over cells.

    Args:
        level: ``[B]``, mean square of the tap. None where nothing is standardised.
    """
    rows = rows / table.unit
    kept = table.picked(rows)
    if level is not None:
        variance, bands = energy(rows, table.whole), kept.square() @ table.energies.mT
        scale = inverse_deviation(variance, varies(variance, level))
        filtered = [inverse_deviation(band, varies(band, level)) for band in bands.unbind(-1)]
        deviation = torch.cat([ratio(scale, inverse) for inverse in filtered], dim=-1).mT
        return {"spectrum": kept * scale, "deviation": deviation}
    if table.kept is None:
        return {"spectrum": kept}
    outside = (energy(rows, table.whole) - energy(kept, table.count)).sum(1).clamp(min=0.0)
    return {"spectrum": kept, "outside": (outside / rows.shape[1]).sqrt()}


def _squares(difference: Tensor, weight: Tensor) -> Tensor:
    """Return the sum of ``weight difference^2``, with a gradient of one walk over memory.

    A sum of squares has twice the gradient of a product with one side held fixed.
    """
    fixed = (difference.detach() * weight).flatten()
    product = torch.dot(difference.flatten(), fixed)
    return 2.0 * product - product.detach()


class StudentRows(NamedTuple):
    """The student's spectrum before the adapter and the standardisation.

    Attributes:
        rows: ``[B, Cs, n]``, plain sums over cells.
        adapter: from Cs to C channels, or None.
        level: ``[B]``, mean square of the tap. None where nothing is standardised.
    """

    rows: Tensor
    adapter: Adapter | None
    level: Tensor | None

    def times(self, weight: Tensor) -> Tensor:
        """Return the finished rows ``[B, C, n]``: weighted, adapted, standardised.

        The weight ``[n]`` or ``[B, 1, n]`` multiplies the student's own channels, which are fewer
        than the adapted ones.
        """
        rows = self.rows * weight
        if self.level is None:
            return adapted(rows, self.adapter)
        return adapted(rows, self.adapter, standardising(rows, self.adapter, self.level))

    def products(self, weight: Tensor, teacher: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """Return the energy of each finished row, and its product with the teacher's, ``[B, C]``.

        Products of the student's own channels give both, so the adapted rows are never made.

        Args:
            weight: ``[n]``.
            teacher: ``[B, C, n]``, with the weight ``other`` ``[n]``.
        """
        squares, own = variances(self.rows * weight, self.adapter)
        product = products_of(self.rows * (weight * other), self.adapter, teacher)
        if self.level is None:
            return squares, product
        scale = inverse_deviation(squares, varies(own, self.level))[..., 0]
        return scale.square() * squares, scale * product


class TeacherRows(NamedTuple):
    """The target of a band loss, perhaps rounded by a cache.

    Attributes:
        rows: ``[B, C, n]``, orthonormal, widened. With ``deviation``, standardised as a whole.
        deviation: ``[B, terms, C]``; the filtered rows divided by it are standardised.
        outside: ``[B]``, root of the mean square, over channels and cells, of what the rows leave
            out.
    """

    rows: Tensor
    deviation: Tensor | None
    outside: Tensor | None

    @classmethod
    def of(cls, target: Mapping[str, Tensor]) -> TeacherRows:
        """Return the rows of a target that :func:`stored` made."""
        return cls(target["spectrum"], target.get("deviation"), target.get("outside"))


@dataclass(frozen=True)
class FilteredDistance:
    """The distance of a band loss, on rows of the table's bins.

    Attributes:
        filter_side: the unfiltered side stays whole.
    """

    kind: Distance
    filter_side: Filtered
    table: Table

    def __call__(self, student: StudentRows, teacher: TeacherRows) -> Tensor:
        """Return the mean distance over the batch."""
        if self.kind in ("relative", "mse"):
            return self._squared(student, teacher)
        shares, total = self._shares(teacher) / len(teacher.rows), teacher.rows.new_zeros(())
        for number, share in enumerate(shares.unbind(1)):
            total = total + (share * self._of_term(student, teacher, number)).sum()
        return total

    def _of_term(self, student: StudentRows, teacher: TeacherRows, term: int) -> Tensor:
        """Return ``log_mse``, ``cosine`` or ``l1`` of one term per sample, ``[B]``."""
        if self.kind == "log_mse":
            return (self._error(student, teacher, term) / teacher.rows.shape[1]).log1p()
        own, other = self._sides(student, teacher, term)
        if self.kind == "cosine":
            return cosine(own, other)
        plain = (own - other) * (self.table.unit / self.table.count.sqrt())
        return self.table.map(plain).abs().mean((1, 2, 3))

    def _weights(self, term: int) -> tuple[Tensor, Tensor]:
        """Return what the rows of student and teacher are multiplied by in one term, ``[n]``."""
        whole = self.table.count.sqrt()
        band = whole * self.table.gains[term]
        student = whole if self.filter_side == "teacher" else band
        return student / self.table.unit, whole if self.filter_side == "student" else band

    def _sides(
        self, student: StudentRows, teacher: TeacherRows, term: int
    ) -> tuple[Tensor, Tensor]:
        """Return the rows of one term that are compared, ``[B, C, n]`` each."""
        return student.times(self._weights(term)[0]), self._teacher(teacher, term)

    def _teacher(self, teacher: TeacherRows, term: int) -> Tensor:
        """Return the teacher's rows of one term, ``[B, C, n]``."""
        rows = teacher.rows * self._weights(term)[1]
        scale = self._scale(teacher, term)
        return rows if scale is None else rows.mul_(scale[..., None])

    def _scale(self, teacher: TeacherRows, term: int) -> Tensor | None:
        """Return what standardises the teacher's rows of one term, ``[B, C]``; None: nothing."""
        if teacher.deviation is None or self.filter_side == "student":
            return None
        deviation = teacher.deviation[:, term].to(teacher.rows.dtype)
        return ratio(torch.ones_like(deviation), deviation)

    def _squared(self, student: StudentRows, teacher: TeacherRows) -> Tensor:
        """``relative`` and ``mse``: squared differences, weighted by share and denominator."""
        shares = self._shares(teacher) / (len(teacher.rows) * self._denominators(teacher))
        if self.filter_side == "both" and teacher.deviation is None:
            # The filter acts on the difference, so all terms together are one weight of squares.
            weight = (shares @ self.table.energies / self.table.cells)[:, None]
            rows = adapted(student.rows, student.adapter)
            return _squares(torch.sub(rows, teacher.rows, alpha=self.table.unit), weight)
        errors = [self._error(student, teacher, n) for n in range(len(self.table.gains))]
        return (shares * torch.stack(errors, dim=1)).sum()

    def _error(self, student: StudentRows, teacher: TeacherRows, term: int) -> Tensor:
        """Return ``|S - T|^2 = |S|^2 - 2 S T + |T|^2`` of the rows of one term, ``[B]``."""
        own, other = self._weights(term)
        of_student, product = student.products(own, teacher.rows, other)
        of_teacher, scale = energy(teacher.rows, other.square()), self._scale(teacher, term)
        if scale is not None:
            of_teacher, product = of_teacher * scale.square(), product * scale
        return (of_student - 2.0 * product + of_teacher).sum(1)

    def _shares(self, teacher: TeacherRows) -> Tensor:
        """Return the weight of each term per sample, ``[B, terms]``.

        A standardised band without signal has weight 0. Where one side stays whole, the weight is
        the term's share over the root of the band's share of energy in the teacher's channels. A
        whole map has a smaller gradient than a band at unit variance; this undoes it.
        """
        shares = self.table.shares.expand(len(teacher.rows), -1)
        if teacher.deviation is None:
            return shares
        band = teacher.deviation.to(shares.dtype).square().mean(-1)
        if self.filter_side != "both":
            return ratio(shares, band.sqrt())
        return torch.where(band <= 0, 0.0, shares)

    def _denominators(self, teacher: TeacherRows) -> Tensor:
        """Return what squared differences are divided by, ``[B, terms]``.

        Standardised channels have mean square 1, so ``relative`` is then ``mse``.
        """
        number, channels = teacher.rows.shape[:2]
        if self.kind == "mse" or teacher.deviation is not None:
            return teacher.rows.new_full((number, 1), float(channels))
        squares = torch.linalg.vecdot(teacher.rows, teacher.rows, dim=1)
        whole = (squares @ self.table.count)[:, None]
        if teacher.outside is not None:
            whole = whole + widened(teacher.outside).square()[:, None] * channels
        denominators = squares @ self.table.energies.mT + ENERGY_EPS * whole
        return torch.where(denominators <= 0, torch.inf, denominators)
