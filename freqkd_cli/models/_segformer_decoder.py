"""SegFormer's decoder with two linear maps multiplied, its initialisation and smallest image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from operator import mul
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqkd_cli.errors import ShapeError
from freqkd_cli.models._segformer_graphs import as_map


def fuse(head: nn.Module, stages: Sequence[Tensor]) -> Tensor:
    """Return sum_i up(F_i (P_i x_i + p_i)), F_i being the slice of the fusion for stage i.

    Args:
        head: transformers' ``SegformerDecodeHead``; its fusion has the last stage first.
        stages: ``[B, C_i, h_i, w_i]``, stage 1 to 4.

    Returns:
        ``[B, C, h_1, w_1]``, before norm and ReLU.
    """
    size = stages[0].shape[-2:]
    device = stages[0].device.type
    # A product of weights is rounded once, not twice.
    with torch.autocast("cpu" if device == "meta" else device, enabled=False):
        fusion = head.linear_fuse.weight.flatten(1)
        slices = fusion.split(head.linear_fuse.out_channels, dim=1)[::-1]
        projections = [linear.proj for linear in head.linear_projections]
        pairs = list(zip(slices, projections, strict=True))
        maps = [part @ projection.weight for part, projection in pairs]
        bias = sum(part @ projection.bias for part, projection in pairs)
    # Upsampling keeps a constant, so all four biases are added to the smallest map.
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
    """Initialise the decoder as the authors do."""
    for linear in head.linear_projections:
        linear.proj.reset_parameters()
    nn.init.kaiming_normal_(head.linear_fuse.weight, mode="fan_out", nonlinearity="relu")
    nn.init.normal_(head.classifier.weight, std=0.01)
    nn.init.zeros_(head.classifier.bias)
