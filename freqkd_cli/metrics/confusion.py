"""mIoU from one confusion matrix over the whole split; the only place that counts pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from freqkd_cli.errors import ShapeError
from freqkd_cli.labels import IGNORE
from freqkd_cli.metrics.upsample import parts, upsampled


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


def empty(classes: int) -> Tensor:
    """A matrix with nothing counted, int64 ``[K, K]``: row = label, column = prediction."""
    return torch.zeros(classes, classes, dtype=torch.int64)


def update(matrix: Tensor, prediction: Tensor, labels: Tensor) -> Tensor:
    """Count pixels into ``matrix``, in place, and return it.

    Args:
        matrix: int64 ``[K, K]``, on the device of the other two.
        prediction: whole numbers of any shape, 0 .. K - 1 wherever the label is counted.
        labels: whole numbers of the same shape; 255 is left out, whatever was predicted there.

    Raises:
        ShapeError: shapes that differ, or a counted number outside the classes.
    """
    classes = matrix.shape[0]
    if prediction.shape != labels.shape:
        raise ShapeError("prediction and labels differ in shape", got=f"{tuple(prediction.shape)} and {tuple(labels.shape)}")
    counted = labels != IGNORE
    # Void pixels become a pair of their own: picking the others out would cost four times as much.
    truth, guess = (torch.where(counted, values.to(torch.int64), 0) for values in (labels, prediction))
    for what, values in (("labels", truth), ("predictions", guess)):
        low, high = (int(value) for value in torch.aminmax(values)) if values.numel() else (0, 0)
        if low < 0 or high >= classes:
            raise ShapeError(f"{what} outside the classes", got=f"{low} .. {high}", need=f"0 .. {classes - 1}, or 255")
    pairs = torch.where(counted, truth * classes + guess, classes * classes)
    matrix += torch.bincount(pairs.flatten(), minlength=classes * classes + 1)[:-1].reshape(classes, classes)
    return matrix


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


def predict_labels(logits: Tensor, label_size: tuple[int, int]) -> Tensor:
    """The most likely class of every pixel, int64 ``[B, H, W]``.

    Logits ``[B, K, h, w]`` are upsampled bilinearly (align_corners False) to ``label_size`` before the argmax. For a view that was padded,
    ``label_size`` is the size of the padded view and the result is then cropped to the picture, ``[:, :height, :width]``: the logits'
    cells cover the padding too, so scaling them straight to the picture would shift every edge.
    """
    return torch.cat([_likeliest(upsampled(logits[part], label_size)) for part in parts(logits)])


def _likeliest(logits: Tensor) -> Tensor:
    """``argmax(1)``, the first of equals. torch's own takes 5 times as long on a CPU, where it strides over whole planes."""
    if logits.device.type != "cpu":
        return logits.argmax(1)
    best = logits[:, 0].clone()
    found = torch.zeros(best.shape, dtype=torch.int64)
    for number in range(1, logits.shape[1]):
        plane = logits[:, number]
        found.masked_fill_(plane > best, number)
        torch.maximum(best, plane, out=best)
    return found


def ratios(part: Tensor, of: Tensor) -> list[float | None]:
    """``part / of`` of every class; None where ``of`` is empty."""
    return [float(p) / float(n) if n else None for p, n in zip(part.tolist(), of.tolist(), strict=True)]


def mean_of(values: list[float | None]) -> float | None:
    """Mean of the numbers; None where there is none."""
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None
