"""Score a model on a split: one count of all its pixels."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from freqkd_cli.errors import UsageError
from freqkd_cli.runtime.lanes import Lanes
from freqkd_cli.runtime.precision import Compute
from freqkd_cli.runtime.processes import ALONE, Processes
from freqkd_cli.score.scores import Scores
from freqkd_cli.score.tally import Tally
from freqkd_cli.views.batch import Batch
from freqkd_cli.views.loader import whole_batches
from freqkd_cli.views.upsample import predict_labels, require_finite

if TYPE_CHECKING:
    from freqkd_cli.images.dataset import Dataset


@dataclass(frozen=True)
class Result:
    """What one pass over a split counted."""

    tally: Tally
    images: int
    seconds: float

    @property
    def scores(self) -> Scores:
        return self.tally.scores()


@dataclass(frozen=True)
class Pass:
    """How a split is gone through.

    Attributes:
        workers: processes that read pictures.
        limit: only the first images, 0 = all.
        boundary: also count boundary IoU.
    """

    batch_size: int = 8
    workers: int = 0
    limit: int = 0
    boundary: bool = True


@torch.inference_mode()
def score(
    model: nn.Module,
    dataset: Dataset,
    compute: Compute,
    device: torch.device,
    how: Pass = Pass(),  # noqa: B008 - frozen
    *,
    each: Callable[[int, Tensor], None] | None = None,
    progress: Callable[[int], None] | None = None,
    processes: Processes = ALONE,
) -> Result:
    """Run ``model``, in eval mode, over the view ``whole`` of a split and count.

    Args:
        each: called with an image's number and its predicted labels ``[H, W]``, cropped to the picture.
        progress: called with the number of images that are done.
        processes: those that share the images; the result is that of all.

    Raises:
        UsageError: the split has no labels.
        FreqKDError: logits that are not finite.
    """
    check_labelled(dataset)
    total, lanes = Tally(len(dataset.classes), boundary=how.boundary), Lanes(model)
    indices = range(min(how.limit, len(dataset)) if how.limit else len(dataset))
    done, started = 0, time.monotonic()
    whose = {"process": processes.index, "processes": processes.number}
    for batch in whole_batches(dataset, how.batch_size, how.workers, indices=indices, **whose):
        found = lanes.each(len(batch), _Count(batch, dataset, compute, device, how.boundary))
        for _, tally in found:
            total.join(tally)
        if each is not None:
            for number, labels in zip(
                batch.indices.tolist(), chain(*(rows for rows, _ in found)), strict=True
            ):
                each(number, labels)
        done += len(batch)
        if progress is not None:
            progress(min(done * processes.number, len(indices)))
    total.table = processes.sum(total.table)
    return Result(total, len(indices), time.monotonic() - started)


@dataclass(frozen=True)
class _Count:
    """What a lane does with its part of a batch: predicted labels without padding, ``[H, W]`` each, and their tally."""

    batch: Batch
    dataset: Dataset
    compute: Compute
    device: torch.device
    boundary: bool

    def __call__(self, model: nn.Module, part: slice) -> tuple[list[Tensor], Tally]:
        images, truth, numbers = (
            self.batch.images[part],
            self.batch.labels,
            self.batch.indices[part].tolist(),
        )
        assert truth is not None
        with self.compute.autocast(self.device):
            logits = model(self.compute.layout(images.to(self.device)))["logits"]
        padded = predict_labels(logits, (images.shape[-2], images.shape[-1])).cpu()
        require_finite(logits, [self.dataset.name(number) for number in numbers])
        sizes = [self.dataset.image_size(number) for number in numbers]
        rows = [
            labels[:height, :width] for labels, (height, width) in zip(padded, sizes, strict=True)
        ]
        tally = Tally(len(self.dataset.classes), boundary=self.boundary)
        for guess, labels in zip(rows, truth[part], strict=True):
            tally.add(guess, labels[: guess.shape[0], : guess.shape[1]])
        return rows, tally


def check_labelled(dataset: Dataset) -> None:
    """
    Raises:
        UsageError: the split has no labels.
    """
    if not dataset.labelled:
        raise UsageError(
            "this split has no labels to score against",
            tip="another --split, or a masks folder beside the images",
        )


def as_json(result: Result, classes: tuple[str, ...]) -> dict[str, Any]:
    """The document of ``eval --json``; absent classes have a null IoU and are named."""
    found = result.scores
    return {
        "miou": found.miou,
        "pixel_accuracy": found.pixel_accuracy,
        "mean_accuracy": found.mean_accuracy,
        "boundary_iou": result.tally.boundary_iou(),
        "per_class": [
            {"name": name, "iou": iou} for name, iou in zip(classes, found.per_class, strict=True)
        ],
        "absent": [classes[number] for number in found.absent],
        "images": result.images,
        "seconds": round(result.seconds, 3),
    }
