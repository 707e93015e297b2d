"""How many floating-point operations a computation takes: matrix products and convolutions, Fourier transforms, selective scans.

A multiply-add counts 2. Norms, activations, resizing and other work that is one or two operations a number are left out, as everywhere.
A transform of n numbers counts 5 n log2 n, half of that where one side is real. A scan counts what it takes step after step, each
exponential and softplus as one operation; forms that do more work to run in parallel are not charged for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.flop_counter import FlopCounterMode


def _complex(
    given: Sequence[int], axes: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any
) -> int:
    return round(5 * math.prod(out_shape) * math.log2(math.prod(out_shape[i] for i in axes)))


def _from_real(given: Sequence[int], axes: Sequence[int], *_: Any, **__: Any) -> int:
    return round(2.5 * math.prod(given) * math.log2(math.prod(given[i] for i in axes)))


def _to_real(
    given: Sequence[int], axes: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any
) -> int:
    return _from_real(out_shape, axes)


_TRANSFORMS = {
    torch.ops.aten._fft_c2c: _complex,
    torch.ops.aten._fft_r2c: _from_real,
    torch.ops.aten._fft_c2r: _to_real,
}


class Operations(FlopCounterMode):
    """torch's counter, which sees matrix products, convolutions and attention, and what it does not see.

    A module tells of its own forward pass, ``uncounted(*given) -> int``, where torch has no kernel for it; twice that stands for its
    backward pass and is not counted here.
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

    def _add(self, module: nn.Module, given: tuple[Any, ...], out: Any) -> None:
        told = getattr(module, "uncounted", None)
        if told is not None:
            self.flop_counts["Global"][type(module).__name__] += told(*given)


def parameters(model: nn.Module) -> int:
    """Trainable and frozen parameters of what is deployed: without auxiliary heads, which run in training alone, and without buffers."""
    return sum(
        p.numel() for name, p in model.named_parameters() if not name.startswith("auxiliary.")
    )


def forward_flops(model: nn.Module, size: tuple[int, int]) -> int:
    """Operations of one forward pass on one image of (H, W). ``model`` may be on the meta device."""
    device = next(model.parameters()).device
    with Operations() as counter, torch.no_grad():
        model.eval()(torch.empty(1, 3, *size, device=device))
    return counter.get_total_flops()
