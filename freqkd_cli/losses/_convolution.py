"""Convolutions trained with the student, in the type of their input, and masks for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from freqkd_cli.features.keyed_noise import keyed_uniform
from freqkd_cli.views.batch import Batch


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


def shown_cells(key: Tensor, batch: Batch, step: int, x: Tensor, hidden: float) -> Tensor:
    """Return 0 at masked cells of a map ``[B, C, h, w]`` and 1 elsewhere, ``[B, 1, h, w]``.

    Args:
        key: of the loss, from :func:`freqkd_cli.features.keyed_noise.new_key`.
        hidden: share of the cells that is masked, anew in each step and for each view.
    """
    draws = keyed_uniform(key, batch, step, x.shape[-2] * x.shape[-1])
    return (draws >= hidden).to(x).view(len(x), 1, *x.shape[-2:])


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
