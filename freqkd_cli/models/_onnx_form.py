"""The recipe keys that describe what an ONNX file takes and gives, checked against the file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from freqkd_cli.errors import RecipeError
from freqkd_cli.models._log_scores import ROUNDING
from freqkd_cli.models._onnx_file import Layout, OnnxFile

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Mean = Annotated[list[Number], Field(min_length=3, max_length=3)]
Std = Annotated[list[Positive], Field(min_length=3, max_length=3)]


@dataclass(frozen=True)
class Form:
    """Recipe keys: what the graph takes and gives.

    Attributes:
        input: name of the image input where there are several.
        layout: order of the axes of images and outputs.
        channels: order of the colors after mean and std.
        range: value of white before mean and std: 1 or 255; 255 where the input is uint8.
        mean: subtracted from R, G and B in this order, in units of range; 0 by default.
        std: what R, G and B are divided by after that; 1 by default.
        scores: what the output logits holds.
        fit: what is done with images of another size than that of a graph of one size.
    """

    input: str | None = None
    layout: Layout = "nchw"
    channels: Literal["rgb", "bgr"] = "rgb"
    range: Positive = 1.0
    mean: Mean | None = None
    std: Std | None = None
    scores: Literal["logits", "probabilities"] = "logits"
    fit: Literal["refuse", "resize"] = "refuse"


def open_file(weights: str, form: Form) -> OnnxFile:
    """Open the file of a teacher.

    Raises:
        WeightsMissing, RecipeError: as :class:`OnnxFile`.
        RecipeError: its input takes bytes, and ``form`` would give it other numbers.
    """
    file = OnnxFile(weights, form.layout, form.input)
    if file.input.type == "tensor(uint8)":
        _check_bytes(file, form)
    return file


def check_scores(file: OnnxFile, name: str, scores: str) -> None:
    """Compare ``scores`` with the output ``name`` of a black image.

    Raises:
        RecipeError: it holds probabilities and ``scores`` is logits, or the reverse.
    """
    values = file.of_black([name])[name].astype(np.float32)  # a sum in float16 is too rough
    low, high = float(values.min()), float(values.max())
    shares = low >= 0 and np.allclose(values.sum(1), 1, atol=1e-3)
    if scores == "logits" and shares:
        raise RecipeError(
            f"the output {name} of {file.path} holds probabilities",
            got="scores: logits",
            need="scores: probabilities",
            tip="--set 'scores=probabilities'",
            key="scores",
        )
    if scores == "probabilities" and not -ROUNDING <= low <= high <= 1 + ROUNDING:
        raise RecipeError(
            f"the output {name} of {file.path} holds no probabilities",
            got=f"values from {low:.3g} to {high:.3g}",
            need="values from 0 to 1, or scores: logits",
            tip="--set 'scores=logits'",
            key="scores",
        )


def _check_bytes(file: OnnxFile, form: Form) -> None:
    """Refuse numbers that lose the image when they are rounded and cut to 0 to 255.

    With white at 1 all images are black, and with a mean all pixels below it are.
    """
    mean, std = form.mean or [0.0] * 3, form.std or [1.0] * 3
    wrong = {
        "range": ("255", "" if form.range == 255 else f"{form.range:g}"),
        "mean": ("null", _listed(mean) if any(mean) else ""),
        "std": ("null", _listed(std) if any(x != 1 for x in std) else ""),
    }
    wrong = {key: entry for key, entry in wrong.items() if entry[1]}
    if wrong:
        raise RecipeError(
            f"the input {file.input.name} of {file.path} takes bytes from 0 to 255 (uint8)",
            got=", ".join(f"{key} {value}" for key, (_, value) in wrong.items()),
            need="range 255, without mean and std",
            tip=" ".join(f"--set '{key}={right}'" for key, (right, _) in wrong.items()),
            key=next(iter(wrong)),
        )


def _listed(numbers: list[float]) -> str:
    return f"[{', '.join(f'{x:g}' for x in numbers)}]"
