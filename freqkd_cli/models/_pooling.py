"""Average pooling to a fixed number of bins, in a form that exports with dynamic sizes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def average_pool(x: Tensor, bins: int) -> Tensor:
    """Return ``adaptive_avg_pool2d(x, bins)``: ``[B, C, h, w] -> [B, C, bins, bins]``.

    Bin i of n cells covers floor(i n / bins) up to ceil((i + 1) n / bins). While a graph is
    exported the sizes are symbols, and ONNX has no adaptive pooling for them. The averages are then
    two matrix products.
    """
    if not torch.compiler.is_exporting():
        return F.adaptive_avg_pool2d(x, bins)
    rows = averaging_matrix(x.shape[-2], bins, x)
    columns = averaging_matrix(x.shape[-1], bins, x)
    return rows @ x @ columns.transpose(0, 1)


def averaging_matrix(cells: int, bins: int, like: Tensor) -> Tensor:
    """Return ``[bins, cells]``: row i is 1 / size of bin i on its cells and 0 elsewhere.

    ``cells`` may be a symbol.
    """
    number = torch.arange(bins, device=like.device).unsqueeze(1)
    start = (number * cells) // bins
    end = ((number + 1) * cells + bins - 1) // bins
    cell = torch.arange(cells, device=like.device).unsqueeze(0)
    inside = (cell >= start) & (cell < end)
    return inside.to(like.dtype) / (end - start).to(like.dtype)


class AveragePool(nn.Module):
    """:func:`average_pool` as a module, in place of ``nn.AdaptiveAvgPool2d``."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.bins = bins

    def forward(self, x: Tensor) -> Tensor:
        return average_pool(x, self.bins)


def _synchronised(norm: nn.Module) -> bool:
    """Return whether a norm in training takes the values of more than one process."""
    return (
        isinstance(norm, nn.SyncBatchNorm)
        and torch.distributed.is_available()
        and torch.distributed.is_initialized()
        and torch.distributed.get_world_size(norm.process_group) > 1
    )


class PoolingBranch(nn.Module):
    """Average to ``bins`` a side, 1x1 convolution, norm, ReLU.

    One bin of one image is a single value per channel, which has no variance. In that case (a last
    batch of one) the norm uses its running statistics, unless it takes the values of several
    processes together.
    """

    def __init__(self, channels: int, out: int, bins: int) -> None:
        super().__init__()
        self.bins = bins
        self.conv = nn.Conv2d(channels, out, 1, bias=False)
        self.norm = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(average_pool(x, self.bins))
        if self.training and self.bins == 1 and len(y) == 1 and not _synchronised(self.norm):
            norm = self.norm
            statistics = (norm.running_mean, norm.running_var)
            y = F.batch_norm(y, *statistics, norm.weight, norm.bias, training=False, eps=norm.eps)
            return F.relu(y)
        return F.relu(self.norm(y))
