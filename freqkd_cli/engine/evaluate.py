"""Score a model on a split: one confusion matrix over all pixels, boundary IoU beside it, parameters and latency."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from freqkd_cli.engine.precision import Compute
from freqkd_cli.engine.processes import ALONE, Processes
from freqkd_cli.errors import UsageError
from freqkd_cli.metrics.boundary import BoundaryIoU
from freqkd_cli.metrics.confusion import Scores, empty, predict_labels, scores, update
from freqkd_cli.views.loader import whole_batches

if TYPE_CHECKING:
    from freqkd_cli.datasets._dataset import Dataset


@dataclass(frozen=True)
class Result:
    """Scores of one pass over a split."""

    scores: Scores
    matrix: Tensor
    boundary_iou: float | None
    images: int
    seconds: float


@torch.inference_mode()
def score(
    model: nn.Module,
    dataset: Dataset,
    compute: Compute,
    device: torch.device,
    *,
    batch_size: int = 8,
    workers: int = 0,
    limit: int = 0,
    boundary: bool = True,
    each: Callable[[int, Tensor], None] | None = None,
    progress: Callable[[int], None] | None = None,
    processes: Processes = ALONE,
) -> Result:
    """Run ``model`` over the view ``whole`` of a split and count.

    Args:
        model: in eval mode; gives ``logits``.
        limit: only the first images, 0 = all.
        boundary: also count boundary IoU, which costs about as much as a small student's forward pass.
        each: called with an image's number and its predicted labels ``[H, W]``, cropped to the picture.
        progress: called with the number of images that are done.
        processes: those that share the images; the result is that of all.

    Raises:
        UsageError: the split has no labels.
    """
    check_labelled(dataset)
    classes = len(dataset.classes)
    matrix, edges = empty(classes), BoundaryIoU(classes) if boundary else None
    indices = range(min(limit, len(dataset)) if limit else len(dataset))
    done, started = 0, time.monotonic()
    whose = {"process": processes.index, "processes": processes.number}
    for batch in whole_batches(dataset, batch_size, workers, indices=indices, **whose):
        with compute.autocast(device):
            logits = model(compute.layout(batch.images.to(device)))["logits"]
        prediction = predict_labels(logits, tuple(batch.images.shape[-2:])).cpu()
        assert batch.labels is not None
        update(matrix, prediction, batch.labels)
        for row, index in enumerate(batch.indices.tolist()):
            height, width = dataset.image_size(index)
            if edges is not None:
                edges.update(prediction[row, :height, :width], batch.labels[row, :height, :width])
            if each is not None:
                each(index, prediction[row, :height, :width])
        done += len(batch)
        if progress is not None:
            progress(min(done * processes.number, len(indices)))
    matrix = processes.sum(matrix)
    if edges is not None:
        edges.intersection, edges.union = processes.sum(edges.intersection), processes.sum(edges.union)
    return Result(scores(matrix), matrix, edges.value() if edges else None, len(indices), time.monotonic() - started)


def check_labelled(dataset: Dataset) -> None:
    """
    Raises:
        UsageError: the split has no labels.
    """
    if not dataset.labelled:
        raise UsageError("this split has no labels to score against", tip="another --split, or a masks folder beside the images")


def as_json(result: Result, classes: tuple[str, ...]) -> dict[str, Any]:
    """The document of ``eval --json``; absent classes have a null IoU and are named."""
    found = result.scores
    return {
        "miou": found.miou,
        "pixel_accuracy": found.pixel_accuracy,
        "mean_accuracy": found.mean_accuracy,
        "boundary_iou": result.boundary_iou,
        "per_class": [{"name": name, "iou": iou} for name, iou in zip(classes, found.per_class, strict=True)],
        "absent": [classes[number] for number in found.absent],
        "images": result.images,
        "seconds": round(result.seconds, 3),
    }


def mask_writer(folder: Path, dataset: Dataset) -> Callable[[int, Tensor], None]:
    """Writes predicted labels as 8-bit PNGs named after the images' stems.

    Raises:
        UsageError: ``folder`` is a file.
    """
    import numpy as np
    from PIL import Image

    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--masks {folder} is a file", need="a folder")
    folder.mkdir(parents=True, exist_ok=True)

    def write(index: int, prediction: Tensor) -> None:
        Image.fromarray(prediction.numpy().astype(np.uint8)).save(folder / f"{dataset.name(index)}.png")

    return write
