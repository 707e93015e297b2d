"""Distances between the features of two models, and standardisation before them. Pure functions.

Rows ``[B, C, n]`` are the cells of a map, or the real and imaginary parts of a half-plane spectrum.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Distance = Literal["relative", "mse", "l1", "cosine"]

SPREAD_EPS = 1e-6
"""Added to a channel's standard deviation before a division by it."""

ENERGY_EPS = 1e-6
"""Share of the teacher's whole energy in the denominator of ``relative``."""


def root(x: Tensor) -> Tensor:
    """Return the square root, with gradient 0 instead of infinity where x is 0 (a flat channel)."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide; 0 with gradient 0 where the denominator is not above 0."""
    positive = denominator > 0
    return torch.where(positive, numerator / torch.where(positive, denominator, 1.0), 0.0)


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


def inverse_deviation(variance: Tensor) -> Tensor:
    """``1 / (standard deviation + 1e-6)``, ``[B, C, 1]``, from variances ``[B, C]``."""
    return (1.0 / (root(variance) + SPREAD_EPS))[..., None]


def standardised(x: Tensor) -> Tensor:
    """``(x - mean) / (biased standard deviation + 1e-6)`` per sample and channel."""
    rows = x.flatten(2)
    rows = rows - rows.mean(-1, keepdim=True)
    return (rows * inverse_deviation(rows.square().mean(-1))).view_as(x)


def attention(x: Tensor) -> Tensor:
    """Return the mean over channels of the squares, of unit norm per sample: ``[B, 1, h, w]``.

    The attention map of Zagoruyko and Komodakis (arXiv 1612.03928). A map of zeros stays 0.
    """
    squares = x.square().mean(1, keepdim=True)
    return ratio(squares, torch.linalg.vector_norm(squares, dim=(1, 2, 3), keepdim=True))


def distance(kind: Distance, student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean over the batch of the distance between rows ``[B, C, n]``.

    ``relative``: ``|S - T|^2 / ((1 + 1e-6) |T|^2)`` per sample. ``mse`` and ``l1``: means over all
    numbers. ``cosine``: 1 - the cosine of the flattened rows.
    """
    if kind == "mse":
        return F.mse_loss(student, teacher)
    if kind == "l1":
        return F.l1_loss(student, teacher)
    if kind == "cosine":
        return cosine(student, teacher)
    error = (student - teacher).square().sum((1, 2))
    return ratio(error, (1.0 + ENERGY_EPS) * teacher.square().sum((1, 2))).mean()


def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean over the batch of 1 - the cosine of rows ``[B, C, n]``; 1 for zeros."""
    norms = (root(x.square().sum((1, 2))) for x in (student, teacher))
    student_norm, teacher_norm = norms
    return (1.0 - ratio((student * teacher).sum((1, 2)), student_norm * teacher_norm)).mean()
