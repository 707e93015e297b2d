"""Strength of one frequency band per cell of a map, and weights made from it. Pure functions."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from freqkd_cli.runtime.constants import constant
from freqkd_cli.spectral.distances import ENERGY_EPS, ratio
from freqkd_cli.spectral.fourier import Grid, from_half, half_spectrum, radial
from freqkd_cli.spectral.masks import Kind, low_pass


def band_strength(
    x: Tensor, high_share: float, cutoff: float, mask: Kind = "gaussian", order: int = 2
) -> Tensor:
    """Norm over channels of the band-filtered map, ``[B, C, h, w]`` -> ``[B, h, w]``.

    Args:
        high_share: the gain is (1 - high_share) low + high_share (1 - low). So 0 is the low-pass,
            and 1 its complement, which is 0 on a constant map.
        cutoff: of the radial low-pass, in Nyquist units of the map's own grid.
        mask, order: form of the low-pass; the order is that of a Butterworth mask.
    """
    grid: Grid = (x.shape[-2], x.shape[-1])
    low = constant(low_pass(radial(*grid), mask, cutoff, order), x.dtype, x.device)
    gain = (1.0 - high_share) * low + high_share * (1.0 - low)
    return from_half(half_spectrum(x) * gain, grid).square().sum(1).sqrt()


def relative_strength(strength: Tensor, valid: Tensor, floor: Tensor) -> Tensor:
    """Strength divided by its mean over the valid cells of the sample, ``[B, h, w]``.

    A sample whose mean is at most ``floor`` (a constant map, or no valid cell) gets 1 everywhere.

    Args:
        floor: ``[B, 1, 1]``, what rounding leaves of a constant map.
    """
    valid = valid.to(strength)
    cells = valid.sum((-2, -1), keepdim=True).clamp(min=1.0)
    mean = (strength * valid).sum((-2, -1), keepdim=True) / cells
    flat = mean <= floor
    return torch.where(flat, 1.0, strength / torch.where(flat, 1.0, mean))


def attention_weights(relative: Tensor, factor: float) -> Tensor:
    """``(1 + factor * relative) / (1 + factor)``: a mean of 1 stays 1."""
    return (1.0 + factor * relative) / (1.0 + factor)


def weighted_distance(
    kind: Literal["relative", "mse"], student: Tensor, teacher: Tensor, weights: Tensor
) -> Tensor:
    """Return the mean over the batch of the distance of rows ``[B, C, n]``, cell by cell weighted.

    ``mse`` is the mean of w (S - T)^2. ``relative`` is ``sum of w (S - T)^2 / ((1 + 1e-6) sum of
    w T^2)`` per sample. Its denominator is weighted too, so a student of zeros has the value 1 with
    any weights.

    Args:
        weights: ``[B, n]``, of mean 1.
    """
    error = weighted_sum((student - teacher).square(), weights)
    if kind == "mse":
        return error.sum() / teacher.numel()
    return ratio(error, (1.0 + ENERGY_EPS) * weighted_sum(teacher.square(), weights)).mean()


def weighted_sum(squares: Tensor, weights: Tensor) -> Tensor:
    """Return the sum over channels and cells of ``[B, C, n]`` times ``[B, n]``: ``[B]``."""
    return torch.bmm(squares, weights[..., None]).sum((1, 2))
