"""Frequency attention as keys of a recipe: which cells of a map count more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from freqkd_cli.recipe.value_types import NotNegative, Positive, Share
from freqkd_cli.spectral.distances import ROUNDING, level
from freqkd_cli.spectral.fourier import Grid, widened
from freqkd_cli.spectral.frequency_attention import (
    attention_weights,
    band_strength,
    relative_strength,
)
from freqkd_cli.spectral.masks import BandCells, Kind, check_band, measured_band
from freqkd_cli.views.batch import Batch

Attention = Literal["none", "low", "high", "mix"]
Strength = NotNegative


@dataclass(frozen=True)
class Emphasis:
    """Recipe keys: how much each cell counts, by one band of a map of the teacher.

    Attributes:
        attention: band of the teacher that gives cells their weight; none weights all alike.
        cutoff: of the filter, in Nyquist units of the map's grid.
        mask: shape of the filter.
        high_share: share of the high band in the gain of ``attention: mix``.
        strength: s in the weight (1 + s a / mean a) / (1 + s).
    """

    attention: Attention = "none"
    cutoff: Positive = 0.25
    mask: Kind = "gaussian"
    high_share: Share = 0.5
    strength: Strength = 4.0

    @property
    def used(self) -> bool:
        """Whether cells have different weights at all."""
        return self.attention != "none"

    @property
    def target_arguments(self) -> tuple[str, ...]:
        """Names of the keys that change :meth:`relative`; a default mask is left out."""
        if not self.used:
            return ()
        mask = ("mask",) if self.mask != "gaussian" else ()
        return ("attention", "cutoff", *mask, *(("high_share",) if self.attention == "mix" else ()))

    @property
    def share_of_high(self) -> float:
        """Share of the high band in the gain of the filter; the low band has the rest."""
        return {"low": 0.0, "high": 1.0}.get(self.attention, self.high_share)

    def check(self, grid: Grid, map: str) -> None:
        """
        Raises:
            BandError: the filter keeps nothing or everything of ``map`` on this grid.
        """
        if self.used:
            check_band(grid, self.mask, self.cutoff, 2, map)

    @property
    def bands(self) -> tuple[Literal["low", "high"], ...]:
        """The bands in the gain of the filter."""
        if not self.used:
            return ()
        high = self.share_of_high
        return (*(("low",) if high < 1 else ()), *(("high",) if high > 0 else ()))

    def cells(self, grid: Grid, map: str) -> tuple[BandCells, ...]:
        """Return the effective cells of each band in the gain of the filter."""
        return tuple(
            measured_band(grid, self.mask, self.cutoff, 2, band, map) for band in self.bands
        )

    def relative(self, x: Tensor, batch: Batch, order: int = 2) -> Tensor:
        """Return a / mean a ``[B, h, w]`` of a map ``[B, C, h, w]``, the mean over inside cells.

        Cells outside the image get 1.

        Args:
            order: of a Butterworth mask.
        """
        strength = band_strength(x, self.share_of_high, self.cutoff, self.mask, order)
        within = inside(batch, (x.shape[-2], x.shape[-1]))
        floor = ROUNDING * (x.shape[1] * level(x)).sqrt()[:, None, None]
        return torch.where(within > 0, relative_strength(strength, within, floor), 1.0)

    def weights(self, relative: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the weight of each cell from what :meth:`relative` returned."""
        return attention_weights(widened(relative).to(dtype), self.strength)


def inside(batch: Batch, grid: Grid) -> Tensor:
    """Return 1 for cells whose centre lies inside the image, ``[B, h, w]``."""
    return F.interpolate(batch.valid[:, None].float(), size=tuple(grid), mode="nearest-exact")[:, 0]
