"""The filter of a band loss: what a recipe says of it, and its gains on a grid as tensors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from freqkd_cli.losses._rows import Weights
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
    refit,
    resample,
)
from freqkd_cli.spectral.masks import Kind, low_pass

Band = Literal["low", "high", "mix"]
Border = Literal["none", "hann", "reflect"]

NEGLIGIBLE = float(np.finfo(np.float32).eps)
"""Bins whose every gain is under this contribute nothing that float32 could hold."""


@dataclass(frozen=True)
class Filter:
    """A filter as a recipe gives it, the cutoff already in Nyquist units of the common grid.

    Attributes:
        terms: share of each term in the loss, and the share of the low-pass and of the high-pass in its gain.
        sparse: rows may leave out bins of negligible gain (both sides are filtered, so nothing there is compared).
    """

    kind: Kind
    cutoff: float
    order: int
    terms: tuple[tuple[float, tuple[float, float]], ...]
    border: Border
    sparse: bool

    @classmethod
    def terms_of(
        cls, band: Band, high_share: float, mix: str
    ) -> tuple[tuple[float, tuple[float, float]], ...]:
        """low, high; mix of losses: both, weighted; mix of signals: one filter whose gain is the weighted sum."""
        low, high = 1.0 - high_share, high_share
        if band == "low":
            return ((1.0, (1.0, 0.0)),)
        if band == "high":
            return ((1.0, (0.0, 1.0)),)
        if mix == "signal":
            return ((1.0, (low, high)),)
        return tuple(term for term in ((low, (1.0, 0.0)), (high, (0.0, 1.0))) if term[0] > 0)

    def size(self, grid: Grid) -> Grid:
        """Size of the map that is transformed: the common grid, or its mirrored continuation."""
        return mirrored_size(grid) if self.border == "reflect" else grid

    def table(self, grid: Grid, like: Tensor) -> Table:
        """The filter on this common grid, in the type and on the device of ``like``."""
        return _table(
            self, grid, torch.float64 if like.dtype == torch.float64 else torch.float32, like.device
        )

    def bordered(self, x: Tensor) -> Tensor:
        """The map as it enters the transform, ``[B, C, h, w]``: itself, under a Hann window, or continued by its mirror image."""
        if self.border == "reflect":
            return mirrored(x)
        return (
            x
            if self.border == "none"
            else x * torch.as_tensor(hann(*x.shape[-2:]), dtype=x.dtype, device=x.device)
        )


@dataclass(frozen=True)
class Table:
    """A filter on one grid.

    Attributes:
        size: (h, w) of the map that is transformed.
        weights: counts and gains of the rows, real and imaginary part side by side.
        kept: numbers of the half-plane bins that the rows hold, or None for all.
    """

    size: Grid
    weights: Weights
    kept: Tensor | None

    def rows(self, spectrum: Tensor) -> Tensor:
        """Half-plane spectrum -> rows ``[B, C, n]``."""
        return (
            as_rows(spectrum)
            if self.kept is None
            else as_rows(spectrum.flatten(2)[..., self.kept][..., None])
        )

    def map(self, rows: Tensor) -> Tensor:
        """Rows -> map ``[B, C, h, w]``, bins that were left out taken as zero."""
        if self.kept is None:
            return from_half(from_rows(rows, self.size), self.size)
        height, width = self.size
        bins = torch.view_as_complex(rows.unflatten(-1, (-1, 2)))
        whole = bins.new_zeros((*bins.shape[:2], height * (width // 2 + 1))).index_copy(
            2, self.kept, bins
        )
        return from_half(whole.unflatten(-1, (height, -1)), self.size)

    def filtered(self, x: Tensor) -> list[tuple[float, Tensor]]:
        """The map through the filter of every term, with the term's share; needs all bins."""
        rows = as_rows(half_spectrum(x))
        return [(share, self.map(rows * gain)) for share, gain in self.weights.gains]


@lru_cache(maxsize=64)
def _table(filter: Filter, grid: Grid, dtype: torch.dtype, device: torch.device) -> Table:
    size = filter.size(grid)
    rho, count = radial(*size).ravel(), multiplicity(*size).ravel()
    low = low_pass(rho, filter.kind, filter.cutoff, filter.order)
    gains = [(share, a * low + b * (1.0 - low)) for share, (a, b) in filter.terms]
    kept = np.flatnonzero(np.max([gain for _, gain in gains], axis=0) >= NEGLIGIBLE)
    # A gather pays where it drops most of the bins; else it would only cost.
    sparse = filter.sparse and 2 * len(kept) < len(rho)
    chosen = kept if sparse else np.arange(len(rho))

    def both_parts(values: np.ndarray) -> Tensor:
        return torch.as_tensor(np.repeat(values[chosen], 2), dtype=dtype, device=device)

    cells = size[0] * size[1]
    weights = Weights(
        both_parts(count / cells),
        tuple((share, both_parts(gain)) for share, gain in gains),
        cells,
        float(np.sqrt(cells)),
    )
    return Table(size, weights, torch.as_tensor(kept, device=device) if sparse else None)


def matched(x: Tensor, grid: Grid, *, centred: bool) -> Tensor:
    """The map on the common grid, its channel means taken away if asked, ``[B, C, *grid]``."""
    x = resample(x, grid)
    return x - x.mean((-2, -1), keepdim=True) if centred else x


def matched_spectrum(x: Tensor, grid: Grid, *, centred: bool) -> Tensor:
    """Half-plane spectrum of :func:`matched`, without a way back to space."""
    return refit(half_spectrum(x, centred=centred), x.shape[-1], grid)
