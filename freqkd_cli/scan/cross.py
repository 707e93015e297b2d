"""The four orders in which VMamba scans an image (cross-scan), and their sum (cross-merge).

Order k0 is row-major, k1 column-major, k2 the reverse of k0, k3 the reverse of k1, as in
MzeroMiko/VMamba (arXiv 2401.10166, section 4.2). The two are linear and adjoint to each other:
<cross_scan(x), y> = <x, cross_merge(y)>, on any grid.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cross_scan(x: Tensor) -> Tensor:
    """Return an image as four sequences: ``[B, C, H, W]`` -> ``[B, 4, C, H * W]``."""
    forth = torch.stack([x.flatten(2), x.transpose(2, 3).flatten(2)], dim=1)
    return torch.cat([forth, forth.flip(-1)], dim=1)


def cross_merge(y: Tensor, size: tuple[int, int]) -> Tensor:
    """Sum four sequences by cell: ``[B, 4, C, H * W]`` -> ``[B, C, H * W]``, row-major.

    ``size`` is (H, W).
    """
    height, width = size
    rows, columns = (y[:, :2] + y[:, 2:].flip(-1)).unbind(1)
    return rows + columns.unflatten(-1, (width, height)).transpose(-1, -2).flatten(-2)
