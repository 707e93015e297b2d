"""A network that rounds its weights and activations as its int8 file does (``train.quantize``).

Weights are symmetric int8 with a scale for each output channel. Activations are uint8 with one
range for each tensor: the moving average of the lowest and highest value of the batches. The
gradient passes the rounding unchanged; values outside of a range get none.

torch's own flow for this (pt2e) needs torchao since torch 2.10. It trains an exported graph whose
tensors have other names, of one set of outputs, while losses read taps and auxiliary heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from freqkd_cli.features.int8_layers import Int8Layer, int8_layers
from freqkd_cli.runtime.processes import peer_errors
from freqkd_cli.weights.quantization import Quantization

SPEED = 0.05
"""Share of the newest batch in the moving average of a range."""
SMALLEST = 1e-8
"""Smallest scale, for a tensor that is zero everywhere."""


class SimulatedInt8(nn.Module):
    """Rounds the weights and activations of a model by hooks; its tensors keep their names.

    The hooks find the ranges here and the weights in the module that they are called with, so they
    also work in a copy of the model that shares its tensors.

    Args:
        model: gets the hooks.
        layers: those that are rounded.

    Attributes:
        inputs, outputs: ``[layers, 2]`` lowest and highest value; NaN before the first batch.
    """

    def __init__(self, model: nn.Module, layers: Sequence[Int8Layer]) -> None:
        super().__init__()
        self.layers = tuple(layers)
        device = next(model.parameters()).device
        for name in ("inputs", "outputs"):
            unknown = torch.full((len(self.layers), 2), float("nan"), device=device)
            self.register_buffer(name, unknown)
        modules = dict(model.named_modules())
        for number, layer in enumerate(self.layers):
            module = modules[layer.name]
            module.__dict__["int8_end"] = modules.get(layer.end or "")  # of a copy, in a copy
            module.register_forward_pre_hook(self._before(number, layer))
            module.register_forward_hook(_with_own_weight, always_call=True)
            if layer.end is not None:
                modules[layer.end].register_forward_hook(self._after(number))

    @classmethod
    def of(cls, model: nn.Module, size: tuple[int, int]) -> SimulatedInt8:
        """Return one for every layer that runs for an image of ``size``; ranges are unknown."""
        parameter = next(model.parameters())
        image = torch.full((1, 3, *size), 0.5, device=parameter.device)
        simulated = cls(model, int8_layers(model, image))
        model.simulated = (simulated,)  # in a tuple, so that it is no part of the state dict
        return simulated

    @classmethod
    def stored(cls, model: nn.Module, ranges: Quantization) -> SimulatedInt8:
        """Return one with the ranges of a trained model."""
        names = {*ranges.inputs, *ranges.outputs, *ranges.layers}
        layers = [
            Int8Layer(name, name in ranges.inputs, ranges.ends.get(name))
            for name, _ in model.named_modules()
            if name in names
        ]
        simulated = cls(model, layers)
        simulated.take(ranges)
        return simulated

    def take(self, ranges: Quantization) -> None:
        """Set the ranges of the layers to those of a trained model."""
        for number, layer in enumerate(self.layers):
            if layer.name in ranges.inputs:
                self.inputs[number] = torch.tensor(ranges.inputs[layer.name])
            if layer.name in ranges.outputs:
                self.outputs[number] = torch.tensor(ranges.outputs[layer.name])

    def ranges(self) -> Quantization:
        """Return the ranges as they are stored in ``config.json``."""

        def known(table: Tensor) -> dict[str, tuple[float, float]]:
            rows = zip(self.layers, table.tolist(), strict=True)
            return {layer.name: (low, high) for layer, (low, high) in rows if low == low}

        return Quantization(
            layers=tuple(layer.name for layer in self.layers),
            inputs=known(self.inputs),
            outputs=known(self.outputs),
            ends={layer.name: layer.end for layer in self.layers if layer.end is not None},
        )

    def _before(self, number: int, layer: Int8Layer) -> Any:
        def hook(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
            # Shadows the parameter of this name until the layer has run.
            module.__dict__["weight"] = rounded_weight(module)
            if layer.end is not None:
                # Whether the layer trains: a frozen norm at its end is in eval mode.
                running = module.__dict__["int8_end"].__dict__.setdefault("int8_running", {})
                running[number] = module.training
            if not layer.rounds_input:
                return given
            return (self._rounded(given[0], self.inputs[number], module.training), *given[1:])

        return hook

    def _after(self, number: int) -> Any:
        def hook(module: nn.Module, given: tuple[Any, ...], returned: Tensor) -> Tensor:
            # A module may be the end of several layers, and also run after none.
            training = module.__dict__.get("int8_running", {}).pop(number, None)
            if training is None:
                return returned
            return self._rounded(returned, self.outputs[number], training)

        return hook

    def _rounded(self, x: Tensor, bounds: Tensor, observe: bool) -> Tensor:
        values = x.float()
        if observe:
            _observe(values.detach(), bounds)
        bounds = bounds.to(values.device)
        result = rounded(values, bounds)
        if not observe:
            # With batches of one image pooling skips its batch norm, so its range stays unknown.
            # Chosen on the device, because a look at the range would wait for it.
            result = torch.where(bounds[0].isnan(), values, result)
        return result.to(x.dtype)


def simulate_stored(model: nn.Module) -> nn.Module:
    """Return the model, which computes in simulated int8 if it was trained so."""
    ranges = getattr(model, "quantization", None)
    if ranges is not None:
        SimulatedInt8.stored(model, ranges)
    return model


@torch.no_grad()
def _observe(values: Tensor, bounds: Tensor) -> None:
    """Move ``bounds`` towards the range of a batch, that of all processes together.

    Raises:
        FreqKDError: another process has ended.
    """
    batch = torch.stack(values.aminmax())
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        signs = batch.new_tensor([-1.0, 1.0])
        largest = batch * signs
        with peer_errors():
            torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
        batch = largest * signs
    bounds.copy_(torch.where(bounds.isnan(), batch, bounds.lerp(batch, SPEED)))


def rounded(values: Tensor, bounds: Tensor) -> Tensor:
    """Return float32 values rounded to the 256 steps of a range, which always includes 0."""
    if values.is_meta:  # torch cannot estimate the cost of this operator
        return values
    low, high = bounds[0].clamp_max(0), bounds[1].clamp_min(0)
    scale = ((high - low) / 255).clamp_min(SMALLEST)
    zero = (-low / scale).round().clamp(0, 255).to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(values, scale, zero, 0, 255)


def rounded_weight(module: nn.Module) -> Tensor:
    """Return the weight of a layer, rounded to -127..127 steps for each output channel."""
    weight: Tensor = module._parameters["weight"]
    if weight.is_meta:
        return weight
    axis = 1 if isinstance(module, nn.ConvTranspose2d) else 0
    others = [i for i in range(weight.dim()) if i != axis]
    scale = (weight.detach().abs().amax(others).float() / 127).clamp_min(SMALLEST)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, axis, -127, 127)


def _with_own_weight(module: nn.Module, *_: Any) -> None:
    module.__dict__.pop("weight", None)
