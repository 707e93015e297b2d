"""Fixed tensors for the golden values of losses that have reference code."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from freqkd_cli.features.taps import Tap
from freqkd_cli.views.batch import Batch


def numbers(*shape: int, seed: int) -> Tensor:
    """Return standard normal numbers, float64; numpy keeps the stream of a seed."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def blocks(batch: int, rows: int, columns: int, side: int, classes: int, seed: int) -> Tensor:
    """Return labels ``[B, rows * side, columns * side]`` of squares; class K is void, 255."""
    values = np.random.default_rng(seed).integers(0, classes + 1, (batch, rows, columns))
    values = np.where(values == classes, 255, values)
    return torch.from_numpy(values.repeat(side, axis=1).repeat(side, axis=2))


def batch_of(height: int, width: int, labels: Tensor | None = None) -> Batch:
    """Return two views of the images 3 and 9, all valid."""
    return Batch(
        torch.zeros(2, 3, height, width),
        labels,
        torch.ones(2, height, width, dtype=torch.bool),
        torch.tensor([3, 9]),
        torch.tensor([0, 1]),
    )


def tap(name: str, channels: int, stride: int = 1) -> Tap:
    return Tap(name, stride, channels, "logits" if name == "logits" else "features")


def started(build, channels: tuple[int, int], **arguments):
    """Return a loss between taps ``s`` and ``t`` of these channels, in float64."""
    loss = build(student="s", teacher="t", **arguments)
    loss.start({"s": tap("s", channels[0])}, {"t": tap("t", channels[1])}, 5)
    return loss.double()


def value(loss, student: Tensor, teacher: Tensor, batch: Batch, step: int = 0) -> Tensor:
    """Return the loss of the maps ``s`` and ``t``."""
    grids = {"s": (student.shape[-2], student.shape[-1])}
    return loss({"s": student}, loss.target({"t": teacher}, batch, grids), batch, step)


def fill(parameter: Tensor, numbers: Tensor) -> None:
    """Overwrite a parameter; shapes may differ by sides of 1."""
    with torch.no_grad():
        parameter.copy_(numbers.reshape(parameter.shape))
