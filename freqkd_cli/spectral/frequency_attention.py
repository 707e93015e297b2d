"""Where a map changes: the strength of one frequency band per cell, and weights made from it. Pure functions, no state."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from freqkd_cli.spectral.fourier import Grid, from_half, half_spectrum, radial
from freqkd_cli.spectral.masks import low_pass


def band_strength(x: Tensor, band: Literal["low", "high"], cutoff: float) -> Tensor:
    """Norm over channels of the band-filtered map, ``[B, C, h, w]`` -> ``[B, h, w]``.

    Args:
        band: the Gaussian low-pass, or its complement, which is 0 on a constant map.
        cutoff: standard deviation of the Gaussian, in Nyquist units of the map's own grid.
    """
    grid: Grid = (x.shape[-2], x.shape[-1])
    low = torch.as_tensor(low_pass(radial(*grid), "gaussian", cutoff)).to(x)
    spectrum = half_spectrum(x)
    return from_half(spectrum * (low if band == "low" else 1.0 - low), grid).square().sum(1).sqrt()


def relative_strength(strength: Tensor, valid: Tensor) -> Tensor:
    """Strength divided by its mean over valid cells, per sample; 1 everywhere where that mean is 0. ``[B, h, w]``."""
    valid = valid.to(strength)
    mean = (strength * valid).sum((-2, -1), keepdim=True) / valid.sum((-2, -1), keepdim=True).clamp(min=1.0)
    return torch.where(mean > 1e-6, strength / mean.clamp(min=1e-6), 1.0)


def attention_weights(relative: Tensor, emphasis: float) -> Tensor:
    """``(1 + emphasis * a) / (1 + emphasis)``: mean 1 wherever a has mean 1, and never below ``1 / (1 + emphasis)``."""
    return (1.0 + emphasis * relative) / (1.0 + emphasis)
