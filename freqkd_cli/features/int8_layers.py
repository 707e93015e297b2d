"""Which modules of a network become one layer of an int8 graph: found by one forward pass.

A convolution, the batch norm after it and the ReLU after that are one layer there. Its input and
its output are stored in 8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

WITH_WEIGHTS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
MERGED = (nn.ReLU, nn.ReLU6, nn.Identity)
"""Activations that an int8 graph merges into the layer before them."""


@dataclass(frozen=True)
class Int8Layer:
    """A layer of an int8 graph.

    Attributes:
        name: of the module with the weights.
        rounds_input: whether its input is no output of another layer, which is in 8 bits already.
        end: name of the module that gives its output; None where that stays in float here.
    """

    name: str
    rounds_input: bool
    end: str | None


@dataclass(frozen=True)
class _Value:
    """A tensor at one time: an operator that works in place makes another value of it."""

    tensor: Tensor
    version: int

    @classmethod
    def of(cls, tensor: Tensor) -> _Value:
        return cls(tensor, tensor._version)

    @property
    def key(self) -> tuple[int, int]:
        return id(self.tensor), self.version


@dataclass(frozen=True)
class _Call:
    name: str
    module: nn.Module
    given: _Value
    returned: _Value


@torch.no_grad()
def int8_layers(model: nn.Module, image: Tensor) -> list[Int8Layer]:
    """Return the layers that run for ``image`` ``[1, 3, H, W]`` in eval mode, in their order."""
    calls: list[_Call] = []
    given_values: dict[str, _Value | None] = {}

    def record(name: str) -> Any:
        def hook(module: nn.Module, given: tuple[Any, ...], returned: Any) -> None:
            if given_values[name] and isinstance(returned, Tensor):
                calls.append(_Call(name, module, given_values[name], _Value.of(returned)))

        return hook

    def before(name: str) -> Any:
        def hook(module: nn.Module, given: tuple[Any, ...]) -> None:
            is_tensor = bool(given) and isinstance(given[0], Tensor)
            given_values[name] = _Value.of(given[0]) if is_tensor else None

        return hook

    kinds = (*WITH_WEIGHTS, _BatchNorm, *MERGED)
    chosen = [(name, module) for name, module in model.named_modules() if isinstance(module, kinds)]
    hooks = [module.register_forward_pre_hook(before(name)) for name, module in chosen]
    hooks += [module.register_forward_hook(record(name)) for name, module in chosen]
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()(image)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    return _layers(calls)


def _layers(calls: list[_Call]) -> list[Int8Layer]:
    layers, seen, in_8_bits = [], set(), set()
    for number, call in enumerate(calls):
        if not isinstance(call.module, WITH_WEIGHTS) or call.name in seen:
            continue
        seen.add(call.name)
        end = _end(call, calls[number + 1 :])
        layers.append(Int8Layer(call.name, call.given.key not in in_8_bits, end and end.name))
        if end:
            in_8_bits.add(end.returned.key)
    return layers


def _end(layer: _Call, later: list[_Call]) -> _Call | None:
    """Return the call that gives a layer's output, or None where the graph merges less.

    The output of a linear layer stays in float: an ONNX graph adds its bias in another operator.
    """
    if isinstance(layer.module, nn.Linear):
        return None
    end = layer
    for call in later:
        if call.given.key != end.returned.key:
            continue
        if isinstance(call.module, _BatchNorm) and end is layer:
            if not all(isinstance(child, MERGED) for child in call.module.children()):
                return None  # a batch norm with an activation inside that is not merged
            end = call
        elif isinstance(call.module, MERGED):
            return call if not isinstance(call.module, nn.Identity) else end
        else:
            break
    return end
