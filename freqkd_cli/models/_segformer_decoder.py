"""SegFormer's two decoders, their fusion at low resolution, initialisation and smallest image.

``linear`` is the authors' and transformers' decoder: each stage's projection is linear, so it is
multiplied with the fusion. ``conv`` is mmsegmentation's: a batch norm and a ReLU follow each
projection, so that only the fusion commutes with the upsampling.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from operator import mul
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqkd_cli.errors import ShapeError
from freqkd_cli.models._segformer_graphs import as_map

CONV_EPS = 1e-6
"""Epsilon of every LayerNorm of mmsegmentation's encoder; transformers has 1e-5."""


class ConvDecoder(nn.Module):
    """mmsegmentation's decoder; the modules that transformers' has too have the same names.

    Args:
        config: transformers' ``SegformerConfig``.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        width = config.decoder_hidden_size
        self.projections = nn.ModuleList(_projection(c, width) for c in config.hidden_sizes)
        stages = len(config.hidden_sizes)
        self.linear_fuse = nn.Conv2d(width * stages, width, kernel_size=1, bias=False)
        self.batch_norm = nn.BatchNorm2d(width)
        self.activation = nn.ReLU()
        self.dropout = nn.Dropout(config.classifier_dropout_prob)
        self.classifier = nn.Conv2d(width, config.num_labels, kernel_size=1)


def _projection(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(channels, width, kernel_size=1, bias=False),
            bn=nn.BatchNorm2d(width),
            activation=nn.ReLU(),
        )
    )


def use_conv_decoder(net: nn.Module) -> None:
    """Give transformers' ``SegformerForSemanticSegmentation`` the decoder ``conv``, untrained."""
    net.decode_head = ConvDecoder(net.config)
    for module in net.segformer.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = CONV_EPS


def decode(head: nn.Module, stages: Sequence[Tensor]) -> Tensor:
    """Return the fused map ``[B, C, h_1, w_1]`` after norm and ReLU.

    Args:
        head: transformers' ``SegformerDecodeHead`` or :class:`ConvDecoder`.
        stages: ``[B, C_i, h_i, w_i]``, stage 1 to 4.
    """
    if isinstance(head, ConvDecoder):
        maps = _slices(head)
        stages = [f(x) for f, x in zip(head.projections, stages, strict=True)]
        fused = _upsampled_sum(stages, maps, bias=None)
    else:
        fused = _upsampled_sum(stages, *_multiplied(head, stages[0].device.type))
    return head.activation(head.batch_norm(fused))


def _slices(head: nn.Module) -> list[Tensor]:
    """Return the fusion's part for each stage, 1 to 4; its weight has the last stage first."""
    fusion = head.linear_fuse.weight.flatten(1)
    return list(fusion.split(head.linear_fuse.out_channels, dim=1)[::-1])


def _multiplied(head: nn.Module, device: str) -> tuple[list[Tensor], Tensor]:
    """Return F_i P_i for each stage, and the sum of F_i p_i; F_i is the fusion's part for it."""
    # A product of weights is rounded once, not twice.
    with torch.autocast("cpu" if device == "meta" else device, enabled=False):
        projections = [linear.proj for linear in head.linear_projections]
        pairs = list(zip(_slices(head), projections, strict=True))
        maps = [part @ projection.weight for part, projection in pairs]
        return maps, sum(part @ projection.bias for part, projection in pairs)


def _upsampled_sum(stages: Sequence[Tensor], maps: Sequence[Tensor], bias: Tensor | None) -> Tensor:
    """Return sum_i up(M_i x_i) + bias, ``[B, C, h_1, w_1]``."""
    size = stages[0].shape[-2:]
    # Upsampling keeps a constant, so the bias is added to the smallest map.
    total = _linear(stages[3], maps[3], bias)
    total = F.interpolate(total, size=size, mode="bilinear", align_corners=False)
    for i in (2, 1):
        y = _linear(stages[i], maps[i])
        total = total + F.interpolate(y, size=size, mode="bilinear", align_corners=False)
    return total + _linear(stages[0], maps[0])


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a linear map to the channels of ``[B, C, h, w]``."""
    return as_map(F.linear(x.flatten(2).transpose(1, 2), weight, bias), x.shape[-2:])


def require_size(config: Any, images: Tensor) -> None:
    """Check that every stage has at least one key.

    Args:
        config: transformers' ``SegformerConfig``.

    Raises:
        ShapeError: an image side is too small.
    """
    if torch.compiler.is_exporting():  # sizes are symbols there
        return
    stages = zip(accumulate(config.strides, mul), config.sr_ratios, strict=True)
    smallest = max(stride * (reduction - 1) + 1 for stride, reduction in stages)
    if min(images.shape[-2:]) < smallest:
        raise ShapeError(
            "images are too small for this SegFormer",
            got=tuple(images.shape[-2:]),
            need=f"at least {smallest} a side",
        )


def draw_encoder(module: nn.Module) -> None:
    """Initialise as the authors do.

    With transformers' 0.02 for every layer, depth-wise convolutions start close to zero.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = (
            module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        )
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
    if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)


def draw_head(head: nn.Module) -> None:
    """Initialise a decoder as the authors do."""
    if isinstance(head, ConvDecoder):
        for projection in head.projections:
            nn.init.kaiming_normal_(projection.conv.weight, mode="fan_out", nonlinearity="relu")
    else:
        for linear in head.linear_projections:
            linear.proj.reset_parameters()
    nn.init.kaiming_normal_(head.linear_fuse.weight, mode="fan_out", nonlinearity="relu")
    nn.init.normal_(head.classifier.weight, std=0.01)
    nn.init.zeros_(head.classifier.bias)
