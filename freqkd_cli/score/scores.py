"""Scores of a whole split, from one confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scores:
    """Scores in [0, 1] of a split; None where nothing could be counted, which is not the same as 0.

    Attributes:
        miou: mean IoU over the classes with a non-empty union of prediction and labels.
        pixel_accuracy: share of the labelled pixels that are right.
        mean_accuracy: mean over the classes that occur in the labels of the share of their pixels found.
        per_class: IoU of every class, None where its union is empty.
        accuracy: share found of every class, None where it does not occur in the labels.
        absent: numbers of the classes with an empty union, which the mean leaves out.
        pixels: labelled pixels counted.
    """

    miou: float | None
    pixel_accuracy: float | None
    mean_accuracy: float | None
    per_class: list[float | None]
    accuracy: list[float | None]
    absent: list[int]
    pixels: int


def scores(matrix: Tensor) -> Scores:
    """Scores of a confusion matrix (row = label, column = prediction), computed in float64."""
    count = matrix.to("cpu", torch.float64)
    right, labelled, predicted = count.diagonal(), count.sum(1), count.sum(0)
    union, total = labelled + predicted - right, float(count.sum())
    per_class, accuracy = ratios(right, union), ratios(right, labelled)
    return Scores(
        miou=mean_of(per_class),
        pixel_accuracy=float(right.sum()) / total if total else None,
        mean_accuracy=mean_of(accuracy),
        per_class=per_class,
        accuracy=accuracy,
        absent=[k for k, iou in enumerate(per_class) if iou is None],
        pixels=int(total),
    )


def ratios(part: Tensor, of: Tensor) -> list[float | None]:
    """``part / of`` of every class; None where ``of`` is empty."""
    return [
        float(p) / float(n) if n else None for p, n in zip(part.tolist(), of.tolist(), strict=True)
    ]


def mean_of(values: list[float | None]) -> float | None:
    """Mean of the numbers; None where there is none."""
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None
