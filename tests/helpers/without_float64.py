"""Tensors that refuse float64 until they are copied to the CPU, as those of an Apple GPU do."""

from __future__ import annotations

import torch
from torch import Tensor


class OnAppleGPU(Tensor):
    """Results of operations are of this class too. The data stays in the memory of the CPU."""

    def double(self) -> Tensor:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    def cpu(self) -> Tensor:
        return self.as_subclass(torch.Tensor)


def on_apple_gpu(x: Tensor) -> OnAppleGPU:
    """Return a tensor of the same data that refuses float64."""
    return x.as_subclass(OnAppleGPU)
