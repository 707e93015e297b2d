"""Distances of band losses in space, with a weight for each cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from freqkd_cli.errors import RecipeError
from freqkd_cli.losses._emphasis import Emphasis
from freqkd_cli.losses._filter import Filter
from freqkd_cli.losses._filter_distance import FilteredDistance, StudentRows, TeacherRows
from freqkd_cli.spectral.fourier import mirrored

TINY = 1e-30
"""Least mean square that is divided by."""


def check_combination(emphasis: Emphasis, represent: str, distance: str) -> None:
    """
    Raises:
        RecipeError: what is compared has no cells that could be weighted.
    """
    if not emphasis.used or (represent == "feature" and distance != "cosine"):
        return
    other = ("represent", represent) if represent != "feature" else ("distance", distance)
    need = {"represent": "represent: feature", "distance": "distance: relative, mse, log_mse or l1"}
    raise RecipeError(
        "band: attention weights the cells of a difference of features",
        got=f"attention: {emphasis.attention} with {other[0]}: {other[1]}",
        need=need[other[0]],
        tip="remove attention, or change the other key",
        key="attention",
    )


@dataclass(frozen=True)
class EmphasisedDistance(FilteredDistance):
    """The distance of a band loss where cells have weights: it needs an inverse transform.

    Attributes:
        filter: its border decides how cells of the common grid continue.
    """

    filter: Filter

    def target(self, relative: Tensor, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what a target holds beside the spectrum.

        ``emphasis`` is ``relative``, ``[B, h, w]`` of mean 1. ``energy`` ``[B, terms]`` is the mean
        square of the teacher's side under these weights, over that without; 1 without signal.
        """
        teacher, cells = TeacherRows.of(stored), self._continued(relative)
        maps = (self._map(self._teacher(teacher, n)) for n in range(len(self.table.gains)))
        squares = (each.square().mean(1) for each in maps)
        parts = [(cells * x).mean((1, 2)) / x.mean((1, 2)).clamp(min=TINY) for x in squares]
        energy = torch.stack(parts, dim=1)
        return {"emphasis": relative, "energy": torch.where(energy <= 0, 1.0, energy)}

    def weighted(
        self, student: StudentRows, teacher: TeacherRows, cells: Tensor, energy: Tensor
    ) -> Tensor:
        """Return the mean distance over the batch.

        Args:
            cells: ``[B, h, w]``, the weight of each cell of the common grid.
            energy: ``[B, terms]``, what they multiply the denominator of ``relative`` with.
        """
        cells = self._continued(cells)
        shares = self._shares(teacher) / len(teacher.rows)
        if self.kind == "relative":
            shares = shares * teacher.rows.shape[1] / (self._denominators(teacher) * energy)
        total = teacher.rows.new_zeros(())
        for number, share in enumerate(shares.unbind(1)):
            own, other = self._sides(student, teacher, number)
            total = total + (share * self._of_cells(self._map(own - other), cells)).sum()
        return total

    def _of_cells(self, difference: Tensor, cells: Tensor) -> Tensor:
        """Return the weighted distance of maps ``[B, C, h, w]`` per sample, ``[B]``."""
        sizes = difference.abs() if self.kind == "l1" else difference.square()
        mean = (cells * sizes.mean(1)).mean((1, 2))
        return mean.log1p() if self.kind == "log_mse" else mean

    def _map(self, rows: Tensor) -> Tensor:
        """Return the map of rows whose squares add up to its mean square, ``[B, C, h, w]``."""
        return self.table.map(rows * (self.table.unit / self.table.count.sqrt()))

    def _continued(self, cells: Tensor) -> Tensor:
        """Return ``[B, h, w]`` of the common grid on the map that is transformed."""
        return mirrored(cells[:, None])[:, 0] if self.filter.border == "reflect" else cells
