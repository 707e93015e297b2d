"""Fast-SCNN: a 1.1 M parameter network for real-time segmentation, any input size.

Source: Poudel, Liwicki, Cipolla, "Fast-SCNN: Fast Semantic Segmentation Network", BMVC 2019 (arXiv
1902.04502), table 1 and figure 1.

Taps: ``stage1`` (1/4), ``ltd`` = ``stage2`` (1/8), ``encoder16`` = ``stage3`` (1/16), ``encoder`` =
``stage4`` (1/32), ``decoder`` and ``logits`` (1/8); with ``auxiliary``, ``aux1`` and ``aux2``.

As in the paper, and unlike popular copies: no activation between the two halves of a separable
convolution, a dilation of 4 in the fusion, a padded first convolution. Departures from the paper:

- upsampling goes to the size of the other tensor (fixed factors need sides that 32 divides);
- align_corners is False;
- auxiliary heads are optional.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from freqkd_cli.features.segmenter import Segmenter
from freqkd_cli.features.taps import Tap
from freqkd_cli.models._pooling import PoolingBranch

BINS = (1, 2, 3, 6)


def build(
    *,
    classes: int,
    width: Annotated[float, Field(gt=0, le=4)] = 1.0,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1,
    auxiliary: bool = False,
) -> FastSCNN:
    """Build a Fast-SCNN from scratch.

    Args:
        classes: K.
        width: factor on all numbers of channels, rounded to multiples of 8.
        dropout: rate of dropout before the last 1x1 convolution.
        auxiliary: add training-only heads, taps ``aux1`` on ``ltd`` and ``aux2`` on ``encoder``.
    """
    return FastSCNN(classes=classes, width=width, dropout=dropout, auxiliary=auxiliary)


def taps(
    *, classes: int, width: float = 1.0, dropout: float = 0.1, auxiliary: bool = False
) -> tuple[Tap, ...]:
    """Return the taps, from the arguments alone."""
    quarter, ltd, encoder16, _, encoder = (scaled(c, width) for c in (48, 64, 64, 96, 128))
    always = (
        Tap("stage1", 4, quarter),
        Tap("ltd", 8, ltd),
        Tap("encoder16", 16, encoder16),
        Tap("encoder", 32, encoder),
        Tap("decoder", 8, encoder),
        Tap("logits", 8, classes, "logits"),
        Tap("stage2", 8, ltd, alias="ltd"),
        Tap("stage3", 16, encoder16, alias="encoder16"),
        Tap("stage4", 32, encoder, alias="encoder"),
    )
    heads = (Tap("aux1", 8, classes, "auxiliary"), Tap("aux2", 32, classes, "auxiliary"))
    return always + heads if auxiliary else always


def scaled(channels: int, width: float) -> int:
    """Return ``channels * width`` rounded to a multiple of 8, at least 8."""
    return max(8, 8 * round(channels * width / 8))


class FastSCNN(Segmenter):
    """The network of the paper's table 1, with the taps that the module's docstring lists."""

    def __init__(self, *, classes: int, width: float, dropout: float, auxiliary: bool) -> None:
        arguments = {"width": width, "dropout": dropout, "auxiliary": auxiliary}
        super().__init__(
            classes=classes,
            arguments=arguments,
            tap_names=[tap.name for tap in taps(classes=classes, **arguments)],
        )
        c32, c48, c64, c96, c128 = (scaled(c, width) for c in (32, 48, 64, 96, 128))
        self.learning_to_downsample = nn.Sequential(
            conv_bn_relu(3, c32, kernel=3, stride=2),
            separable(c32, c48, stride=2),
            separable(c48, c64, stride=2),
        )
        self.global_features = nn.ModuleList(
            [
                bottlenecks(c64, c64, stride=2),
                bottlenecks(c64, c96, stride=2),
                bottlenecks(c96, c128, stride=1),
            ]
        )
        self.pyramid = PyramidPooling(c128)
        self.fusion = FeatureFusion(c64, c128)
        self.classifier = nn.Sequential(
            separable(c128, c128),
            separable(c128, c128),
            nn.Dropout(dropout),
            nn.Conv2d(c128, classes, 1),
        )
        self.auxiliary = nn.ModuleDict()
        if auxiliary:
            self.auxiliary["aux1"] = auxiliary_head(c64, classes, dropout)
            self.auxiliary["aux2"] = auxiliary_head(c128, classes, dropout)

    def run(self, images: Tensor, taps: frozenset[str]) -> dict[str, Tensor]:
        first, second, third = self.learning_to_downsample
        stage1 = second(first(images))
        ltd = third(stage1)
        encoder16 = self.global_features[0](ltd)
        encoder = self.pyramid(self.global_features[2](self.global_features[1](encoder16)))
        decoder = self.fusion(ltd, encoder)
        outputs = {
            "logits": self.classifier(decoder),
            "stage1": stage1,
            "ltd": ltd,
            "encoder16": encoder16,
            "encoder": encoder,
            "decoder": decoder,
            "stage2": ltd,
            "stage3": encoder16,
            "stage4": encoder,
        }
        if self.training:
            outputs |= {
                name: head(ltd if name == "aux1" else encoder)
                for name, head in self.auxiliary.items()
                if name in taps
            }
        return outputs


def conv_bn_relu(channels: int, out: int, *, kernel: int, stride: int = 1) -> nn.Sequential:
    """Return a convolution without bias, a batch norm and a ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    )


def separable(channels: int, out: int, *, stride: int = 1) -> nn.Sequential:
    """Return a DSConv: depth-wise 3x3, point-wise 1x1, no activation between them (section 3.2)."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        nn.Conv2d(channels, out, 1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    )


def bottlenecks(
    channels: int, out: int, *, stride: int, expansion: int = 6, repeats: int = 3
) -> nn.Sequential:
    """Return bottlenecks in a row; the first changes the channels and has the stride."""
    steps = [(channels, stride)] + [(out, 1)] * (repeats - 1)
    return nn.Sequential(
        *(Bottleneck(width, out, stride=s, expansion=expansion) for width, s in steps)
    )


class Bottleneck(nn.Module):
    """Inverted residual of MobileNetV2: expand, depth-wise 3x3, project without activation.

    The residual exists where input and output have one shape.
    """

    def __init__(self, channels: int, out: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        inner = channels * expansion
        self.residual = stride == 1 and channels == out
        self.block = nn.Sequential(
            nn.Conv2d(channels, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.residual else self.block(x)


class PyramidPooling(nn.Module):
    """Averages over 1, 2, 3 and 6 bins a side, concatenated with the map and mixed.

    Each average has its own 1x1 convolution to a quarter of the channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [PoolingBranch(channels, channels // 4, bins) for bins in BINS]
        )
        self.mix = conv_bn_relu(channels + len(BINS) * (channels // 4), channels, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(torch.cat([x, *(resized(branch(x), x) for branch in self.branches)], dim=1))


class FeatureFusion(nn.Module):
    """The deep map plus the skip, each after a 1x1 convolution with bias.

    The deep map is upsampled and smoothed by a dilated depth-wise convolution first.
    """

    def __init__(self, skip: int, deep: int) -> None:
        super().__init__()
        self.smooth = nn.Sequential(
            nn.Conv2d(deep, deep, 3, padding=4, dilation=4, groups=deep, bias=False),
            nn.BatchNorm2d(deep),
            nn.ReLU(inplace=True),
        )
        self.deep = nn.Sequential(nn.Conv2d(deep, deep, 1), nn.BatchNorm2d(deep))
        self.skip = nn.Sequential(nn.Conv2d(skip, deep, 1), nn.BatchNorm2d(deep))

    def forward(self, skip: Tensor, deep: Tensor) -> Tensor:
        return F.relu(self.skip(skip) + self.deep(self.smooth(resized(deep, skip))))


def resized(x: Tensor, like: Tensor) -> Tensor:
    """Return ``x`` at the size of ``like``, bilinear."""
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


def auxiliary_head(channels: int, classes: int, dropout: float) -> nn.Sequential:
    """Return a training-only classifier of one tap."""
    return nn.Sequential(
        *conv_bn_relu(channels, 32, kernel=3), nn.Dropout(dropout), nn.Conv2d(32, classes, 1)
    )
