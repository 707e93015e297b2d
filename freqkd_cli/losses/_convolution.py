"""Convolutions that are trained with the student and computed in the type of their input."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def convolution(inputs: int, outputs: int, side: int = 1, *, bias: bool = True) -> nn.Conv2d:
    """Return a convolution that keeps the grid, with torch's own initialisation.

    On the meta device it is not initialised: random numbers there take seconds.
    """
    shape = {"kernel_size": side, "padding": side // 2, "bias": bias}
    if torch.empty(0).is_meta:
        return nn.utils.skip_init(nn.Conv2d, inputs, outputs, device="meta", **shape)
    return nn.Conv2d(inputs, outputs, **shape)


def convolved(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """``[B, Cin, h, w]`` -> ``[B, Cout, h, w]``, in the type of ``x``."""
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    return F.conv2d(x, layer.weight.to(x.dtype), bias, padding=layer.padding)


class Generation(nn.Module):
    """Brings masked student maps to the teacher's channels and fills them in from their neighbors.

    A 1x1 convolution where the channels differ, then two of 3x3 with a ReLU between.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.align = convolution(inputs, outputs) if inputs != outputs else None
        self.first, self.last = (convolution(outputs, outputs, 3) for _ in range(2))

    def forward(self, x: Tensor, shown: Tensor | None) -> Tensor:
        """``[B, Cs, h, w]`` -> ``[B, Ct, h, w]``; ``shown`` ``[B, 1, h, w]`` is 0 where masked."""
        x = x if self.align is None else convolved(x, self.align)
        x = x if shown is None else x * shown
        return convolved(F.relu(convolved(x, self.first)), self.last)
