"""From a feature map to nodes: means over the cells of a coarser grid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from freqkd_cli.features.loss import Grid
from freqkd_cli.runtime.precision import has_float64
from freqkd_cli.spectral.fourier import widened


def pooled(x: Tensor, grid: Grid) -> Tensor:
    """Return the mean of a map ``[B, C, h, w]`` over each cell of a coarser grid.

    Means are by area, so the map's mean is kept. Where the grid does not divide the map, cells on
    the border of two nodes count for both by their share.
    """
    size = (x.shape[-2], x.shape[-1])
    if size == tuple(grid):
        return x
    if size[0] % grid[0] == 0 and size[1] % grid[1] == 0:
        return F.avg_pool2d(x, (size[0] // grid[0], size[1] // grid[1]))
    with torch.autocast(x.device.type, enabled=False):
        x = widened(x)
        return area_matrix(size[0], grid[0], x) @ x @ area_matrix(size[1], grid[1], x).mT


def area_matrix(cells: int, bins: int, like: Tensor) -> Tensor:
    """Return the share of each cell in each of ``bins`` equal parts of an axis, ``[bins, cells]``.

    Rows sum to 1.
    """
    device = like.device if has_float64(like.device) else "cpu"
    edge = torch.arange(bins + 1, dtype=torch.float64, device=device) * cells / bins
    cell = torch.arange(cells, dtype=torch.float64, device=device)
    overlap = torch.minimum(edge[1:, None], cell + 1) - torch.maximum(edge[:-1, None], cell)
    return (overlap.clamp(min=0.0) * bins / cells).to(like)


def node_matrix(size: Grid, grid: Grid, like: Tensor) -> Tensor:
    """Return :func:`pooled` as one matrix, ``[h * w, H * W]`` for maps of ``size`` (H, W).

    Cells and nodes are row-major.
    """
    return torch.kron(area_matrix(size[0], grid[0], like), area_matrix(size[1], grid[1], like))


def to_nodes(x: Tensor, grid: Grid, heads: int = 1) -> Tensor:
    """Return a map ``[B, C, h, w]`` as nodes ``[B, heads, N, C / heads]``.

    It is pooled onto the grid, and its channels fall into as many groups as heads.
    """
    x = pooled(x, grid)
    return x.reshape(x.shape[0], heads, x.shape[1] // heads, grid[0] * grid[1]).mT
