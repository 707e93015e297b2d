"""The module of FAM-KD as its code was released: one weight per bin and pair of channels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from freqkd_cli.features.loss import Grid
from freqkd_cli.losses._convolution import convolution, convolved
from freqkd_cli.spectral.fourier import widened


class ReleasedAttention(nn.Module):
    """``gamma1 * local + gamma2 * global``, ``[B, Cs, h, w]`` -> ``[B, Ct, h, w]`` on one grid.

    ``global`` is the real part of the inverse transform of ``sum over c of K[c, o] F(x)[c]``,
    without the bins of :func:`box`. K has one complex weight per input channel c, output channel o
    and bin of the whole plane. They start uniform in [0, 1), real and imaginary part alike, over
    Cs Ct. ``local`` is a 1x1 convolution with bias.

    Args:
        cut_on: half side of the box, as a share of half the map's sides.
    """

    kept: Tensor

    def __init__(self, student: int, teacher: int, grid: Grid, cut_on: float) -> None:
        super().__init__()
        # Bins first, so that the sum over channels is a batch of matrix products.
        weights = torch.empty(grid[0] * grid[1], student, teacher, 2)
        if not weights.is_meta:
            weights.uniform_().div_(student * teacher)
        self.filter = nn.Parameter(weights)
        self.local = convolution(student, teacher)
        self.gamma = nn.Parameter(torch.full((2,), 0.5))
        kept = torch.from_numpy(~box(grid, cut_on)).view(-1, 1, 1)
        self.register_buffer("kept", kept, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        spectrum = torch.fft.fft2(widened(x), norm="ortho").flatten(2).permute(2, 0, 1)
        weights = torch.view_as_complex(self.filter.to(spectrum.real.dtype))
        passed = (torch.bmm(spectrum, weights) * self.kept).permute(1, 2, 0)
        passed = torch.fft.ifft2(passed.unflatten(2, (height, width)), norm="ortho").real
        return self.gamma[0] * convolved(x, self.local) + self.gamma[1] * passed


def box(grid: Grid, cut_on: float) -> np.ndarray:
    """Return which bins of the whole plane the released high-pass sets to 0, ``[h, w]`` bool.

    Frequencies f of an axis with -r <= f < r, r = int(cut_on * int(n / 2)): none where r is 0.
    The box is not symmetric, so what remains is not the spectrum of a real map.
    """
    inside = []
    for cells in grid:
        reach = int(cut_on * int(cells / 2))
        frequency = np.rint(np.fft.fftfreq(cells) * cells)
        inside.append((frequency >= -reach) & (frequency < reach))
    return inside[0][:, None] & inside[1][None, :]
