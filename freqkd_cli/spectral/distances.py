"""Distances between the features of two models, and standardisation before them. Pure functions.

Rows ``[B, C, n]`` are the cells of a map, or the real and imaginary parts of a half-plane spectrum.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Distance = Literal["relative", "mse", "log_mse", "l1", "cosine"]

LEAST_DEVIATION = 0.1
"""Least divisor of a channel, in units of the root mean square deviation of the sample's channels.

So the gradient of a channel without variance is at most 10 times that of an ordinary one. On the
embedded teacher, no channel of any stage is below 0.3.
"""

ROUNDING = 1e-5
"""A map that varies less than this share of its root mean square is constant up to rounding."""

ENERGY_EPS = 1e-6
"""Share of the teacher's whole energy in the denominator of ``relative``."""


def root(x: Tensor) -> Tensor:
    """Return the square root, with gradient 0 instead of infinity where x is 0 (a flat channel).

    NaN stays NaN.
    """
    flat = x <= 0  # False for NaN, which has to stop a run
    return torch.where(flat, 0.0, torch.where(flat, 1.0, x).sqrt())


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide; 0 with gradient 0 where the denominator is 0 or less, NaN where it is NaN."""
    empty = denominator <= 0
    return torch.where(empty, 0.0, numerator / torch.where(empty, 1.0, denominator))


def unit(x: Tensor) -> Tensor:
    """Return ``[B, C, n]`` at unit norm over the channels C; zeros stay 0, without a gradient."""
    return ratio(x, root(x.square().sum(1, keepdim=True)))


def energy(rows: Tensor, weight: Tensor) -> Tensor:
    """``sum over n of weight[n] * rows[b, c, n]^2``, ``[B, C]``."""
    return torch.matmul(rows.square(), weight)


def gram(rows: Tensor) -> Tensor:
    """Return the products of all pairs of rows, ``[B, C, n]`` -> ``[B, C, C]``.

    The gradient is right where that of the result is symmetric, as it is for variances of combined
    rows. So one factor is detached and the gradient of the other counted twice, which saves one of
    three matrix products.
    """
    half = torch.bmm(rows, rows.detach().mT)
    return half + (half - half.detach())


def level(x: Tensor) -> Tensor:
    """Return the mean square of each sample, ``[B, ...]`` -> ``[B]``, without a gradient."""
    return torch.linalg.vector_norm(x.detach().flatten(1), dim=1).square() / x[0].numel()


def varies(variance: Tensor, level: Tensor) -> Tensor:
    """Return which samples have a map that is not constant up to rounding, ``[B, 1]`` bool.

    Args:
        variance: ``[B, C]``, of what is compared.
        level: ``[B]``, mean square of the map that it was computed from, mean and all.
    """
    return (variance.detach().mean(1) > ROUNDING**2 * level)[:, None]


def inverse_deviation(variance: Tensor, varying: Tensor) -> Tensor:
    """Return what standardises channels of these variances, ``[B, C]`` -> ``[B, C, 1]``.

    ``1 / max(s_c, 0.1 r)``: s_c is the standard deviation of the channel, and r the root mean
    square of all s_c of the sample. 0 where ``varying`` ``[B, 1]`` is False.
    """
    least = LEAST_DEVIATION**2 * variance.mean(1, keepdim=True)
    usable = varying & (least > 0)
    divisor = torch.where(usable, torch.maximum(variance, least), 1.0)
    return torch.where(usable, divisor.rsqrt(), 0.0)[..., None]


def standardised(x: Tensor) -> Tensor:
    """``(x - mean) / max(s, 0.1 r)`` per sample and channel; see :func:`inverse_deviation`.

    s is the biased standard deviation. A constant map, up to rounding, becomes 0.
    """
    rows = x.flatten(2)
    rows = rows - rows.mean(-1, keepdim=True)
    variance = rows.square().mean(-1)
    return (rows * inverse_deviation(variance, varies(variance, level(x)))).view_as(x)


def attention(x: Tensor) -> Tensor:
    """Return the mean over channels of the squares, of unit norm per sample: ``[B, 1, h, w]``.

    The attention map of Zagoruyko and Komodakis (arXiv 1612.03928). A map of zeros stays 0.
    """
    squares = x.square().mean(1, keepdim=True)
    return ratio(squares, torch.linalg.vector_norm(squares, dim=(1, 2, 3), keepdim=True))


def distance(kind: Distance, student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean over the batch of the distance between rows ``[B, C, n]``.

    ``relative``: ``|S - T|^2 / ((1 + 1e-6) |T|^2)`` per sample. ``mse`` and ``l1``: means over all
    numbers. ``log_mse``: ``log(1 + mse)`` per sample. ``cosine``: 1 - the cosine of the flattened
    rows.
    """
    if kind == "mse":
        return F.mse_loss(student, teacher)
    if kind == "l1":
        return F.l1_loss(student, teacher)
    if kind == "cosine":
        return cosine(student, teacher).mean()
    if kind == "log_mse":
        return (student - teacher).square().mean((1, 2)).log1p().mean()
    error = (student - teacher).square().sum((1, 2))
    return ratio(error, (1.0 + ENERGY_EPS) * teacher.square().sum((1, 2))).mean()


def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """Return 1 - the cosine of rows ``[B, C, n]`` per sample, ``[B]``; 1 for zeros."""
    norms = (root(x.square().sum((1, 2))) for x in (student, teacher))
    student_norm, teacher_norm = norms
    return 1.0 - ratio((student * teacher).sum((1, 2)), student_norm * teacher_norm)
