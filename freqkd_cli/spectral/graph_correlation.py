"""1 - the correlation of two graphs over pairs of different valid nodes, dense or from factors."""

from __future__ import annotations

import torch
from torch import Tensor

from freqkd_cli.spectral.graph import affinity, pairs, unrounded

OTHER_FLOOR = 1e-10
"""Relations that vary less than this are rounding, where a graph holds no cosines."""


@unrounded
def correlation_distance(
    student: Tensor, teacher: Tensor, valid: Tensor, floor: float | Tensor = OTHER_FLOOR
) -> Tensor:
    """Return 1 - the correlation of two matrices ``[B, heads, N, N]``, ``[B, heads]``.

    Over the pairs of different valid nodes; 1 with no gradient where there are no two.

    Args:
        floor: deviation of the student's entries that is rounding, ``[B, 1]`` or one number.
    """
    off, diagonal = pairs(valid), teacher.diagonal(dim1=-2, dim2=-1).square().sum(-1)
    student, teacher = student.masked_fill(~off, 0.0), teacher.masked_fill(~off, 0.0)
    products = (student, teacher, student.square(), teacher.square(), student * teacher)
    return distance_from_sums(valid, (*(x.sum((-2, -1)) for x in products), diagonal), floor)


@unrounded
def gram_sums(rows: Tensor, values: Tensor, vectors: Tensor) -> tuple[Tensor, ...]:
    """Return the sums of :func:`correlation_distance` from factors.

    Sums over whole matrices less their diagonals, and the teacher's diagonal.
    """
    own, other = rows.square().sum(-1), (vectors.square() * values[..., None, :]).sum(-1)
    inner = vectors.mT @ vectors  # the identity, but for vectors that a cache rounded
    return (
        rows.sum(-2).square().sum(-1) - own.sum(-1),
        (vectors.sum(-2).square() * values).sum(-1) - other.sum(-1),
        affinity(rows.mT).square().sum((-2, -1)) - own.square().sum(-1),
        (inner.square() * values[..., None] * values[..., None, :]).sum((-2, -1))
        - other.square().sum(-1),
        ((rows.mT @ vectors).square().sum(-2) * values).sum(-1) - (own * other).sum(-1),
        other.square().sum(-1),
    )


def distance_from_sums(valid: Tensor, sums: tuple[Tensor, ...], floor: float | Tensor) -> Tensor:
    """Return the distance from the sums over pairs of a, b, a^2, b^2, a b, all ``[B, heads]``.

    The last sum is over nodes, of the squared diagonal of b.
    """
    nodes = valid.sum(1, keepdim=True)
    a, b, aa, bb, ab = (x / (nodes * (nodes - 1)).clamp(min=1) for x in sums[:5])
    diagonal = sums[5] / nodes.clamp(min=1)
    # Relative floors as well: a mean far from 0 leaves rounding in the variance, and so does a
    # diagonal beside which the rest is small.
    of_a = (aa - a * a).clamp(min=0.0) + 1e-7 * aa.clamp(min=0.0) + floor**2
    of_b = (bb - b * b).clamp(min=0.0) + 1e-7 * bb.clamp(min=0.0)
    of_b = of_b + (1e-8 * diagonal + OTHER_FLOOR**2)
    return 1.0 - (ab - a * b) * torch.rsqrt(of_a) * torch.rsqrt(of_b)
