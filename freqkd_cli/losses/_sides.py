"""Both sides of a feature comparison brought to one grid, adapted, standardised: as rows in space or in frequency space.

The adapter is linear over channels and the transform linear over cells, so the student's own channels are transformed and adapted after
that. Standardisation needs only a channel's variance: by Parseval from the adapted spectrum, or from the covariance of the student's own
channels where the rows are no full spectrum of the plain map.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from freqkd_cli.features.adapter import Adapter
from freqkd_cli.losses._filter import Filter, matched, matched_spectrum
from freqkd_cli.losses._rows import Side, energy, spread
from freqkd_cli.spectral.fourier import Grid, half_spectrum


@dataclass(frozen=True)
class Sides:
    """What happens to a map before it is compared.

    Attributes:
        standardised: per sample and channel (x - mean) / (biased standard deviation + 1e-6).
    """

    standardised: bool

    def in_space(self, x: Tensor, grid: Grid, adapter: Adapter | None = None) -> Side:
        """``[B, C, h, w]`` -> rows ``[B, C', h * w]`` over the cells of the common grid."""
        rows = matched(x, grid, centred=self.standardised).flatten(2)
        return self._side(rows, adapter, rows.new_ones(rows.shape[-1]) / rows.shape[-1])

    def in_frequency(
        self, x: Tensor, grid: Grid, filter: Filter, adapter: Adapter | None = None
    ) -> Side:
        """``[B, C, h, w]`` -> rows ``[B, C', n]`` over the bins of the filter's table."""
        table = filter.table(grid, x)
        if filter.border == "none" and table.kept is None:
            rows = table.rows(matched_spectrum(x, grid, centred=self.standardised))
            return self._side(rows, adapter, table.weights.count / table.weights.cells)
        x = matched(x, grid, centred=self.standardised)
        rows = table.rows(half_spectrum(filter.bordered(x)))
        if not self.standardised:
            return self._side(rows, adapter, None)
        rows = rows if adapter is None else adapter(rows)
        return Side(rows * spread(_variance(x.flatten(2), adapter)))

    def _side(self, rows: Tensor, adapter: Adapter | None, variance: Tensor | None) -> Side:
        return Side(
            rows,
            None if adapter is None else adapter.weight.to(rows.dtype),
            variance if self.standardised else None,
        )

    def map(self, x: Tensor, grid: Grid) -> Tensor:
        """``[B, C, h, w]`` -> the map itself on the common grid, ``[B, C, *grid]``."""
        return self.in_space(x, grid).finished().unflatten(-1, grid)


def _variance(cells: Tensor, adapter: Adapter | None) -> Tensor:
    """Variances of centred rows ``[B, C, h * w]`` after the adapter, which is not run on them."""
    if adapter is None:
        return energy(cells, cells.new_ones(cells.shape[-1])) / cells.shape[-1]
    return adapter.variance(torch.matmul(cells, cells.transpose(1, 2)) / cells.shape[-1])


def attention(x: Tensor) -> Tensor:
    """Attention transfer's map: mean over channels of the squares, ``[B, C, h, w]`` -> ``[B, 1, h, w]`` of unit norm; 0 stays 0."""
    squares = x.square().mean(1, keepdim=True)
    norm = torch.linalg.vector_norm(squares.flatten(1), dim=1)[:, None, None, None]
    return squares / torch.where(norm > 0, norm, 1.0)
