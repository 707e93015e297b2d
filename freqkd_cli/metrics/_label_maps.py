"""Predictions and labels as every count reads them: checked, and without void pixels."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from freqkd_cli.errors import ShapeError
from freqkd_cli.views.labels import void_label


def checked_maps(prediction: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which pixels count, then labels and prediction as int64 with 0 elsewhere.

    Raises:
        ShapeError: the shapes differ, or a counted number is outside the classes.
    """
    if prediction.shape != labels.shape or labels.ndim < 2:
        got = f"{tuple(prediction.shape)} and {tuple(labels.shape)}"
        what = "prediction and labels are not images of one size"
        raise ShapeError(what, got=got, need="[..., H, W] twice")
    void = void_label(classes)
    known, truth, guess = known_pixels(prediction, labels, void)
    for what, values in (("labels", truth), ("predictions", guess)):
        low, high = map(int, torch.aminmax(values)) if values.numel() else (0, 0)
        if low < 0 or high >= classes:
            need = f"0 .. {classes - 1}, or {void}"
            raise ShapeError(f"{what} outside the classes", got=f"{low} .. {high}", need=need)
    return known, truth, guess


def known_pixels(prediction: Tensor, labels: Tensor, void: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which pixels are not void, then labels and prediction as int64 with 0 elsewhere."""
    known = labels != void
    truth, guess = (
        torch.where(known, values.to(torch.int64), 0) for values in (labels, prediction)
    )
    return known, truth, guess


def each_image(*maps: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The images ``[H, W]`` of stacks ``[..., H, W]``, one after the other."""
    yield from zip(*(stack.reshape(-1, *stack.shape[-2:]) for stack in maps), strict=True)
