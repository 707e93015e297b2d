"""What a band loss compares of a tap: its spectrum, or attention maps of the filtered map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from freqkd_cli.losses._filter import Filter, Filtered, Table, Terms
from freqkd_cli.spectral.distances import (
    Distance,
    attention,
    distance,
    inverse_deviation,
    level,
    standardised,
    varies,
)
from freqkd_cli.spectral.fourier import Grid, as_rows, half_spectrum, refit, resample, widened

Represent = Literal["feature", "attention", "attention_then_filter"]


@dataclass(frozen=True)
class Compared:
    """What is compared, beside the filter; every field is a key of the recipe."""

    filter_side: Filtered
    distance: Distance
    represent: Represent
    cutoff_cycles: float | None
    standardise: bool
    adapter: bool


def tap_spectrum(
    x: Tensor, grid: Grid, filter: Filter, of_attention: bool, *, standardise: bool
) -> tuple[Tensor, Table, Tensor | None]:
    """Return the spectrum of the tap's own channels ``[B, C, 2 * bins]``, the filter, the level.

    The adapter and the transform commute, so the student's few channels are transformed and the
    adapter comes last. A channel's variance follows from its spectrum (Parseval). The level
    ``[B]`` is the mean square of the map, or None where nothing is standardised.

    Args:
        of_attention: the spectrum of the attention map, a single channel, in place of the tap's.
            It is always standardised after the filter.
    """
    table = filter.table(grid, x)
    if of_attention:
        x = resample(x, grid)
        x = attention(standardised(x) if standardise else x)
        return as_rows(half_spectrum(filter.bordered(x))), table, level(x)
    size = level(widened(x)) if standardise else None
    if filter.border == "none":
        spectrum = refit(half_spectrum(x, centred=standardise), x.shape[-1], grid)
        return as_rows(spectrum), table, size
    x = resample(x, grid)
    x = x - x.mean((-2, -1), keepdim=True) if standardise else x
    return as_rows(half_spectrum(filter.bordered(x))), table, size


def attention_maps(x: Tensor, filter: Filter, filtered: bool, *, standardise: bool) -> Tensor:
    """Return the unit-norm attention map of each term, ``[B, terms, cells]``.

    A side that stays whole has the same map in every term.

    Args:
        x: ``[B, C, h, w]`` on the common grid.
        standardise: centre the channels, and bring them to mean square 1 after the filter.
    """
    size, table = level(x), filter.table((x.shape[-2], x.shape[-1]), x)
    x = filter.bordered(x - x.mean((-2, -1), keepdim=True) if standardise else x)
    maps = table.filtered(x) if filtered else [x] * len(filter.terms)
    if standardise:
        maps = [_standardised(each, size) for each in maps]
    return torch.cat([attention(each).flatten(2) for each in maps], dim=1)


def _standardised(x: Tensor, size: Tensor) -> Tensor:
    squares = x.square().mean((-2, -1))
    return x * inverse_deviation(squares, varies(squares, size))[..., None]


def attention_distance(kind: Distance, terms: Terms, student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean distance of attention maps ``[B, terms, cells]``, weighted by share."""
    total = student.new_zeros(())
    for number, (share, _) in enumerate(terms):
        part = slice(number, number + 1)
        total = total + share * distance(kind, student[:, part], teacher[:, part])
    return total
