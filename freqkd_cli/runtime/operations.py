"""Count floating-point operations: convolutions, matrix products, Fourier transforms and scans.

A multiply-add counts 2. Norms, activations and resizing, with one or two operations per number,
are not counted, as usual. A transform of n numbers counts 5 n log2 n, half of it where one
side is real. A scan counts its sequential form; an exponential or a softplus is one operation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.flop_counter import FlopCounterMode


def _complex(
    shape: Sequence[int], axes: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any
) -> int:
    return round(5 * math.prod(out_shape) * math.log2(math.prod(out_shape[i] for i in axes)))


def _from_real(shape: Sequence[int], axes: Sequence[int], *_: Any, **__: Any) -> int:
    return round(2.5 * math.prod(shape) * math.log2(math.prod(shape[i] for i in axes)))


def _to_real(
    shape: Sequence[int], axes: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any
) -> int:
    return _from_real(out_shape, axes)


_TRANSFORMS = {
    torch.ops.aten._fft_c2c: _complex,
    torch.ops.aten._fft_r2c: _from_real,
    torch.ops.aten._fft_c2r: _to_real,
}


class Operations(FlopCounterMode):
    """torch's counter of matrix products, convolutions and attention, with further operations.

    A module without torch kernels counts its own forward pass in ``uncounted(*inputs) -> int``. Its
    backward pass, twice that, is not counted here.
    """

    def __init__(self) -> None:
        super().__init__(display=False, custom_mapping=_TRANSFORMS)

    def __enter__(self) -> Operations:
        self._hook = register_module_forward_hook(self._add)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hook.remove()
        super().__exit__(*error)

    def _add(self, module: nn.Module, inputs: tuple[Any, ...], out: Any) -> None:
        uncounted = getattr(module, "uncounted", None)
        if uncounted is not None:
            self.flop_counts["Global"][type(module).__name__] += uncounted(*inputs)


def parameters(model: nn.Module) -> int:
    """Return the number of deployed parameters, without auxiliary heads and buffers."""
    return sum(
        p.numel() for name, p in model.named_parameters() if not name.startswith("auxiliary.")
    )


def forward_flops(model: nn.Module, size: tuple[int, int]) -> int:
    """Return the operations of one forward pass on one image (H, W); meta devices are allowed."""
    device = next(itertools.chain(model.parameters(), model.buffers())).device
    with Operations() as counter, torch.no_grad():
        model.eval()(torch.empty(1, 3, *size, device=device))
    return counter.get_total_flops()
