"""Attention maps of filtered features and their distance: `represent: attention` of `band`."""

from __future__ import annotations

import torch
from torch import Tensor

from freqkd_cli.losses._filter import Filter, Terms
from freqkd_cli.spectral.distances import (
    Distance,
    attention,
    distance,
    inverse_deviation,
    level,
    varies,
)


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
