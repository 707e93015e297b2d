"""Radial low-pass masks, and the check for a filter that keeps nothing or everything.

A high-pass is 1 minus the low-pass, so low + high is the identity, bin by bin. Everything here is
numpy in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from freqkd_cli.errors import BandError
from freqkd_cli.spectral.fourier import Grid, multiplicity, radial

Kind = Literal["gaussian", "ideal", "butterworth"]

FEW_CELLS = 4.0
"""A band of fewer effective cells holds hardly more than the mean of the map."""


def low_pass(rho: np.ndarray, kind: Kind, cutoff: float, order: int = 2) -> np.ndarray:
    """Return the gain in [0, 1] of every bin.

    ideal: 1 where rho <= cutoff + 1e-9. gaussian: exp(-rho^2 / (2 cutoff^2)). butterworth:
    1 / (1 + (rho / cutoff)^(2 order)).

    Args:
        rho: radial frequency in Nyquist units, float64.
        cutoff: in the same units, above 0.
    """
    if kind == "ideal":
        return (rho <= cutoff + 1e-9).astype(np.float64)
    with np.errstate(over="ignore"):  # far above a tiny cutoff the power overflows; the gain is 0
        if kind == "gaussian":
            return np.exp(-((rho / cutoff) ** 2) / 2.0)
        return 1.0 / (1.0 + (rho / cutoff) ** (2 * order))


def effective_cells(grid: Grid, kind: Kind, cutoff: float, order: int = 2) -> tuple[float, float]:
    """Return the cells of the Fourier plane that the low-pass and its complement hold.

    These are sums of gains without DC, h * w - 1 together.
    """
    count = multiplicity(*grid).ravel()
    count[0] = 0.0
    low = float((low_pass(radial(*grid).ravel(), kind, cutoff, order) * count).sum())
    return low, float(count.sum()) - low


def usable_cutoffs(
    grid: Grid, kind: Kind, order: int = 2, unit: float = 1.0, decimals: int = 3
) -> tuple[float, float] | None:
    """Return the smallest and the largest cutoff with an effective cell on either side.

    In ``unit`` per Nyquist and rounded inwards to so many decimals; None where there is none.
    """
    if grid[0] * grid[1] < 3:
        return None
    smallest = _bisect(lambda c: effective_cells(grid, kind, c, order)[0] >= 1.0)
    largest = _bisect(lambda c: effective_cells(grid, kind, c, order)[1] < 1.0)
    steps = 10**decimals
    inwards = math.ceil(smallest * unit * steps) / steps, math.floor(largest * unit * steps) / steps
    return inwards if inwards[0] <= inwards[1] else None


def _bisect(beyond) -> float:
    """Return the cutoff in [1e-4, 100] from which on the test ``beyond`` holds."""
    below, above = 1e-4, 100.0
    for _ in range(60):
        middle = math.sqrt(below * above)
        below, above = (below, middle) if beyond(middle) else (middle, above)
    return above


def kept_cells(
    grid: Grid, kind: Kind, cutoff: float, order: int, band: Literal["low", "high"]
) -> float:
    """Return the effective cells of a band: the sum of the squared gains without DC.

    This is the energy that the filter keeps of white noise of one unit per cell.
    """
    low = low_pass(radial(*grid), kind, cutoff, order)
    count = multiplicity(*grid)
    count[0, 0] = 0.0
    return float(((low if band == "low" else 1.0 - low) ** 2 * count).sum())


@dataclass(frozen=True)
class BandCells:
    """How many cells of a grid one band keeps.

    Attributes:
        taps: what lies on the grid, in words.
        cells: see :func:`kept_cells`; all cells without DC would be ``whole``.
        setting: ``KEY=VALUE`` of the nearest cutoff that keeps enough cells, or None where none
            does or none is needed.
    """

    taps: str
    grid: Grid
    band: Literal["low", "high"]
    cells: float
    setting: str | None

    @property
    def whole(self) -> int:
        """Cells of the grid without DC."""
        return self.grid[0] * self.grid[1] - 1

    @property
    def few(self) -> bool:
        """Whether the band keeps too little to compare."""
        return self.cells < FEW_CELLS

    def __str__(self) -> str:
        size = f"{self.grid[0]}x{self.grid[1]}"
        return f"{self.band} {self.cells:,.1f} of {self.whole:,} cells ({size})"


def measured_band(
    grid: Grid,
    kind: Kind,
    cutoff: float,
    order: int,
    band: Literal["low", "high"],
    taps: str,
    *,
    key: str = "cutoff",
    unit: float = 1.0,
) -> BandCells:
    """Return the effective cells of a band, with a better cutoff where they are few.

    Args:
        key, unit: recipe key of the cutoff, and its value for a cutoff of 1 Nyquist.
    """
    cells, setting = kept_cells(grid, kind, cutoff, order, band), None
    if cells < FEW_CELLS < grid[0] * grid[1] - 1:

        def enough(c: float) -> bool:
            return kept_cells(grid, kind, c, order, band) >= FEW_CELLS

        exact = unit * _bisect(enough if band == "low" else lambda c: not enough(c))
        step = 10.0 ** (math.floor(math.log10(exact)) - 1)
        # Two digits, rounded to the side on which more is kept.
        digits = math.ceil(exact / step) if band == "low" else math.floor(exact / step)
        setting = f"{key}={digits * step:.2g}"
    return BandCells(taps, grid, band, cells, setting)


def check_band(
    grid: Grid,
    kind: Kind,
    cutoff: float,
    order: int,
    taps: str,
    *,
    key: str = "cutoff",
    unit: float = 1.0,
) -> None:
    """Refuse a filter that keeps nothing or everything on this grid.

    Args:
        key, unit: recipe key of the cutoff, and its value for a cutoff of 1 Nyquist.

    Raises:
        BandError: fewer than one effective cell (sum of the gains, DC apart) in the low band or in
            the high one.
    """
    low, high = effective_cells(grid, kind, cutoff, order)
    if low >= 1.0 and high >= 1.0:
        return
    decimals = 3 - math.floor(math.log10(unit))
    usable = usable_cutoffs(grid, kind, order, unit, decimals)
    empty = "low" if low < 1.0 else "high"
    raise BandError(
        f"the {empty} band of {taps} is empty: "
        f"the {kind} mask with {key} {unit * cutoff:.4g} leaves it fewer than one cell beside DC",
        got=f"{grid[0]}x{grid[1]} cells, {low:.3g} of them low and {high:.3g} high",
        need="at least one on either side",
        tip=f"a {key} from {usable[0]:.{decimals}f} to {usable[1]:.{decimals}f}"
        if usable
        else "a tap with more cells: on this one no cutoff works",
        key=key,
    )
