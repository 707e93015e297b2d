"""Convolutions that a CPU computes wrongly in bfloat16."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn

from freqkd_cli.errors import UsageError

_PROBED_CELLS = 8
"""Rows and columns of output in a probe; with 2 the fault did not show."""
_SAME = 0.99
"""Cosine of a right bfloat16 output with float32 is above 0.9999; a wrong one has 0.1 at most."""


def require_right_in_bfloat16(model: nn.Module, key: str) -> None:
    """Try the model's convolutions in bfloat16 on a CPU, those without overlap.

    With AMX, oneDNN returns noise where stride and kernel are equal (4 or more) and there are fewer
    than 32 input channels, as in the key reduction of SegFormer ``mini`` (torch 2.14). Published
    SegFormers have 32 and more. A try, not a list of processors, because later versions may differ.

    Args:
        key: key of the recipe that asks for bfloat16, such as ``teacher.dtype``.

    Raises:
        UsageError: a convolution is wrong here.
    """
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d) and _may_be_wrong(layer) and _is_wrong(layer):
            raise UsageError(
                f"this CPU computes the convolution {name!r} wrongly in bfloat16",
                got=f"{key}: bfloat16",
                need="float32, or a GPU",
                tip=f"--set {key}=float32, or the environment variable "
                "ONEDNN_MAX_CPU_ISA=AVX512_CORE",
                key=key,
            )


def _may_be_wrong(layer: nn.Conv2d) -> bool:
    on_cpu = layer.weight.device.type == "cpu"
    return on_cpu and layer.groups == 1 and layer.kernel_size == layer.stride != (1, 1)


@torch.no_grad()
def _is_wrong(layer: nn.Conv2d) -> bool:
    generator = torch.Generator().manual_seed(0)
    size = [_PROBED_CELLS * kernel for kernel in layer.kernel_size]
    images = torch.randn(1, layer.in_channels, *size, generator=generator).bfloat16()
    output = copy.deepcopy(layer).bfloat16()(images).float()
    exact = copy.deepcopy(layer).float()(images.float())
    return bool(F.cosine_similarity(output.flatten(), exact.flatten(), dim=0) < _SAME)
