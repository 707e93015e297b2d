"""The ranges of a model that was trained in simulated int8, as its ``config.json`` holds them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, FiniteFloat, StrictStr

Bounds = tuple[FiniteFloat, FiniteFloat]


class Quantization(BaseModel):
    """The ranges of a model that was trained with ``train.quantize``.

    Attributes:
        layers: names of the modules whose weights are rounded.
        inputs, outputs: layer -> lowest and highest value of its input or output.
        ends: layer -> the module that gives its output, after batch norm and ReLU.
    """

    model_config = ConfigDict(frozen=True)

    layers: tuple[StrictStr, ...]
    inputs: dict[str, Bounds]
    outputs: dict[str, Bounds]
    ends: dict[str, StrictStr]
