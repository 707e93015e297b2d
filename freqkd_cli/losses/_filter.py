"""The filter of a band loss: what a recipe asks for, and its gains on a grid as tensors."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from freqkd_cli.runtime.constants import constant
from freqkd_cli.spectral.fourier import (
    Grid,
    as_rows,
    from_half,
    from_rows,
    half_spectrum,
    hann,
    mirrored,
    mirrored_size,
    multiplicity,
    radial,
)
from freqkd_cli.spectral.masks import BandCells, Kind, check_band, low_pass, measured_band

Band = Literal["low", "high", "mix"]
Border = Literal["none", "hann", "reflect"]
Filtered = Literal["both", "teacher", "student"]
Terms = tuple[tuple[float, tuple[float, float]], ...]

NEGLIGIBLE = float(np.finfo(np.float32).eps)
"""Bins where every gain is smaller than this contribute nothing that float32 could hold."""


def terms_of(band: Band, high_share: float, mix: str) -> Terms:
    """Return each term's share of the loss, and the shares of low-pass and high-pass in its gain.

    ``mix`` is two terms where losses are mixed, and one term of a weighted gain for ``signal``.
    """
    low, high = 1.0 - high_share, high_share
    if band == "low":
        return ((1.0, (1.0, 0.0)),)
    if band == "high":
        return ((1.0, (0.0, 1.0)),)
    if mix == "signal":
        return ((1.0, (low, high)),)
    return tuple(term for term in ((low, (1.0, 0.0)), (high, (0.0, 1.0))) if term[0] > 0)


@dataclass(frozen=True)
class Filter:
    """A filter as a recipe gives it, with the cutoff in Nyquist units of the common grid.

    Attributes:
        terms: see :func:`terms_of`.
        sparse: rows may leave out bins of negligible gain. This needs the filter on both sides.
    """

    kind: Kind
    cutoff: float
    order: int
    terms: Terms
    border: Border
    sparse: bool

    def check(self, grid: Grid, taps: str, key: str, unit: float) -> None:
        """
        Args:
            key, unit: recipe key of the cutoff, and its value for a cutoff of 1 Nyquist.

        Raises:
            BandError: the filter keeps nothing or everything; ``taps`` and ``key`` are named.
        """
        check_band(grid, self.kind, self.cutoff, self.order, taps, key=key, unit=unit)

    def cells(
        self, grid: Grid, taps: str, key: str, unit: float, more: Collection[str]
    ) -> tuple[BandCells, ...]:
        """Return the effective cells of each band that has a share in a term.

        Args:
            key, unit: as in :meth:`check`.
            more: bands that are read beside those of the terms.
        """
        mask = (grid, self.kind, self.cutoff, self.order)
        bands: dict[Literal["low", "high"], int] = {"low": 0, "high": 1}
        return tuple(
            measured_band(*mask, band, taps, key=key, unit=unit)
            for band, side in bands.items()
            if band in more or any(gain[side] > 0 for _, gain in self.terms)
        )

    def size(self, grid: Grid) -> Grid:
        """Return the size of the transformed map: the common grid, or its mirrored continuation."""
        return mirrored_size(grid) if self.border == "reflect" else grid

    def table(self, grid: Grid, like: Tensor) -> Table:
        """Return the filter on this common grid, in the type and on the device of ``like``."""
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        return _table(self, grid, dtype, like.device)

    def bordered(self, x: Tensor) -> Tensor:
        """Return the map that is transformed: as it is, under a Hann window, or mirrored."""
        if self.border == "reflect":
            return mirrored(x)
        if self.border == "hann":
            return x * constant(hann(*x.shape[-2:]), x.dtype, x.device)
        return x


@dataclass(frozen=True)
class Table:
    """A filter on one grid, for rows of a half-plane spectrum.

    Attributes:
        size: (h, w) of the transformed map.
        whole: ``[2 * bins]``; energy is the sum of these times the squares of all entries.
        count: ``[n]``, the same for the entries of the kept bins.
        shares: ``[terms]``, share of each term in the loss.
        gains: ``[terms, n]``.
        energies: ``[terms, n]``; these times squares of the rows add up to a band's energy.
        kept: numbers of the half-plane bins in the rows, or None for all of them.
    """

    size: Grid
    whole: Tensor
    count: Tensor
    shares: Tensor
    gains: Tensor
    energies: Tensor
    kept: Tensor | None

    @property
    def cells(self) -> int:
        """Number of cells of the transformed map."""
        return self.size[0] * self.size[1]

    @property
    def unit(self) -> float:
        """Spectrum over orthonormal spectrum. Targets are orthonormal, so half floats hold them."""
        return self.cells**0.5

    def picked(self, rows: Tensor) -> Tensor:
        """Return the entries of the kept bins, ``[B, C, 2 * bins]`` -> ``[B, C, n]``."""
        if self.kept is None:
            return rows
        return rows.unflatten(-1, (-1, 2))[..., self.kept, :].flatten(2)

    def map(self, rows: Tensor) -> Tensor:
        """Rows ``[B, C, n]`` -> map ``[B, C, h, w]``; bins that were left out count as 0."""
        if self.kept is not None:
            bins = self.size[0] * (self.size[1] // 2 + 1)
            whole = rows.new_zeros((*rows.shape[:2], bins, 2))
            rows = whole.index_copy(2, self.kept, rows.unflatten(-1, (-1, 2))).flatten(2)
        return from_half(from_rows(rows, self.size), self.size)

    def filtered(self, x: Tensor) -> list[Tensor]:
        """Return the map through the filter of every term; this needs all bins."""
        rows = as_rows(half_spectrum(x))
        return [self.map(rows * gain) for gain in self.gains]


@lru_cache(maxsize=64)
def _table(filter: Filter, grid: Grid, dtype: torch.dtype, device: torch.device) -> Table:
    size = filter.size(grid)
    rho, count = radial(*size).ravel(), multiplicity(*size).ravel()
    low = low_pass(rho, filter.kind, filter.cutoff, filter.order)
    gains = [(share, a * low + b * (1.0 - low)) for share, (a, b) in filter.terms]
    kept = np.flatnonzero(np.max([gain for _, gain in gains], axis=0) >= NEGLIGIBLE)
    # A gather pays off only where it drops most of the bins.
    sparse = filter.sparse and 2 * len(kept) < len(rho)
    chosen = kept if sparse else np.arange(len(rho))

    def both_parts(values: np.ndarray) -> Tensor:
        return constant(np.repeat(values, 2), dtype, device)

    cells = size[0] * size[1]
    kept_count = both_parts(count[chosen] / cells)
    stacked = torch.stack([both_parts(gain[chosen]) for _, gain in gains])
    return Table(
        size,
        whole=both_parts(count / cells),
        count=kept_count,
        shares=constant([share for share, _ in gains], dtype, device),
        gains=stacked,
        energies=kept_count * stacked.square(),
        kept=constant(kept, torch.int64, device) if sparse else None,
    )
