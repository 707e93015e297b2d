"""The Haar wavelet transform of maps, with zeros beyond their edges. Pure functions.

Signs, scale and order are those of PyWavelets (``dwt2`` and ``wavedec2``, wavelet ``haar``, mode
``zero``). On even sizes the transform is orthonormal.
"""

from __future__ import annotations

from torch import Tensor, stack
from torch.nn import functional as F


def haar(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the low band and the details of one level.

    Args:
        x: ``[..., h, w]``; an odd side is continued by one zero.

    Returns:
        ``[..., h', w']`` and ``[..., 3, h', w']`` with h' = ceil(h / 2). The details are horizontal
        (differences of rows), vertical (of columns) and diagonal.
    """
    height, width = x.shape[-2:]
    x = F.pad(x, (0, width % 2, 0, height % 2))
    top, bottom = x[..., 0::2, :], x[..., 1::2, :]
    mean, rows = top + bottom, top - bottom
    low, vertical = mean[..., 0::2] + mean[..., 1::2], mean[..., 0::2] - mean[..., 1::2]
    horizontal, diagonal = rows[..., 0::2] + rows[..., 1::2], rows[..., 0::2] - rows[..., 1::2]
    return low / 2, stack((horizontal, vertical, diagonal), dim=-3) / 2


def haar_levels(x: Tensor, levels: int) -> tuple[Tensor, list[Tensor]]:
    """Return the low band after ``levels`` levels, and the details of each level, finest first."""
    details = []
    for _ in range(levels):
        x, high = haar(x)
        details.append(high)
    return x, details
