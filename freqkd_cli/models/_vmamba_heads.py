"""Two segmentation heads on four maps at 1/4 to 1/32: a light all-MLP head, and UPerNet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqkd_cli.models._pooling import PoolingBranch

BINS = (1, 2, 3, 6)


class MLPHead(nn.Module):
    """One linear map per stage, summed from the deepest stage up, norm, ReLU.

    This is the all-MLP decoder of SegFormer (NeurIPS 2021) with two changes. Its two linear maps in
    a row are one. Upsampling goes by two from stage to stage instead of at once, which is a quarter
    of the work.
    """

    def __init__(self, dims: Sequence[int], channels: int) -> None:
        super().__init__()
        self.linear = nn.ModuleList([nn.Conv2d(dim, channels, 1, bias=False) for dim in dims])
        self.norm = nn.BatchNorm2d(channels)
        for linear in self.linear:
            nn.init.kaiming_normal_(linear.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        total = self.linear[-1](stages[-1])
        for linear, x in zip(self.linear[-2::-1], stages[-2::-1], strict=True):
            total = linear(x) + resized(total, x)
        return F.relu(self.norm(total))


class UPerHead(nn.Module):
    """Pyramid pooling on the deepest map, a top-down feature pyramid, a fusion of its four levels.

    Source: Xiao et al., "Unified Perceptual Parsing for Scene Understanding", ECCV 2018, as in
    mmsegmentation, without its auxiliary head.
    """

    def __init__(self, dims: Sequence[int], channels: int) -> None:
        super().__init__()
        self.pyramid = nn.ModuleList([PoolingBranch(dims[-1], channels, bins) for bins in BINS])
        self.bottleneck = conv_bn_relu(dims[-1] + len(BINS) * channels, channels, 3)
        self.lateral = nn.ModuleList([conv_bn_relu(dim, channels, 1) for dim in dims[:-1]])
        self.smooth = nn.ModuleList([conv_bn_relu(channels, channels, 3) for _ in dims[:-1]])
        self.fuse = conv_bn_relu(len(dims) * channels, channels, 3)

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        deep = stages[-1]
        levels = [
            self.bottleneck(
                torch.cat([deep, *(resized(branch(deep), deep) for branch in self.pyramid)], dim=1)
            )
        ]
        for lateral, x in zip(self.lateral[::-1], stages[-2::-1], strict=True):
            levels.append(lateral(x) + resized(levels[-1], x))
        levels[1:] = [smooth(x) for smooth, x in zip(self.smooth[::-1], levels[1:], strict=True)]
        return self.fuse(torch.cat([resized(x, levels[-1]) for x in levels[::-1]], dim=1))


def conv_bn_relu(channels: int, out: int, kernel: int) -> nn.Sequential:
    """Return a convolution without bias, a batch norm and a ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    )


def resized(x: Tensor, like: Tensor) -> Tensor:
    """Return ``x`` at the size of ``like``, bilinear."""
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)
