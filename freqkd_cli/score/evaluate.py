"""Score a model on a split: all metrics in one pass over its images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from freqkd_cli.errors import UsageError
from freqkd_cli.runtime.lanes import Lanes
from freqkd_cli.runtime.precision import Compute
from freqkd_cli.runtime.processes import ALONE, Processes
from freqkd_cli.score.tally import Tally
from freqkd_cli.views.batch import Batch
from freqkd_cli.views.loader import whole_batches
from freqkd_cli.views.upsample import predict_confidence, predict_labels, require_finite
from freqkd_cli.views.worker_count import Workers

if TYPE_CHECKING:
    from freqkd_cli.images.dataset import Dataset

PIXELS, MOST_IMAGES = 2**22, 8
"""Pixels and images of a batch at most, unless a batch size is given.

Per image, larger batches are not faster on a CPU. Fast-SCNN on two cores took at 384x480 0.059 s
with batches of 4 and of 16. At 1024x2048 it took 0.49 s with batches of 2 and of 8.
"""


def batch_size_for(height: int, width: int) -> int:
    """Images of a batch of this (padded) size: few where images are large."""
    return max(1, min(MOST_IMAGES, PIXELS // (height * width)))


@dataclass(frozen=True)
class Result:
    """What one pass over a split counted."""

    tally: Tally
    images: int
    seconds: float

    @property
    def values(self) -> dict[str, float | None]:
        """The numbers of all metrics, such as ``miou``, stored in [0, 1] where they are shares."""
        return self.tally.values()


@dataclass(frozen=True)
class Pass:
    """How to go through a split.

    Attributes:
        batch_size: None = by the size of the images, see :func:`batch_size_for`.
        workers: processes that read images.
        limit: only the first images, 0 = all.
        indices: only these images, whatever ``limit``.
        cheap: only the metrics that are cheap enough for every validation during training.
        metrics: requested metrics, see :class:`Tally`.
    """

    batch_size: int | None = None
    workers: Workers = 0
    limit: int = 0
    indices: Sequence[int] | None = None
    cheap: bool = False
    metrics: Sequence[str] = ()


@torch.inference_mode()
def score(
    model: nn.Module,
    dataset: Dataset,
    compute: Compute,
    device: torch.device,
    settings: Pass = Pass(),  # noqa: B008 - frozen
    *,
    each: Callable[[int, Tensor], None] | None = None,
    progress: Callable[[int], None] | None = None,
    processes: Processes = ALONE,
) -> Result:
    """Run ``model``, in eval mode, over the view ``whole`` of a split and count.

    Args:
        each: called with an image's number and its predicted labels ``[H, W]``, without padding,
            on ``device``.
        progress: called with the number of images that are done.
        processes: those that share the images; the result is that of all.

    Raises:
        UsageError: the split has no labels.
        FreqKDError: logits that are not finite.
    """
    check_labelled(dataset)
    total = Tally(
        len(dataset.classes),
        cheap=settings.cheap,
        requested=settings.metrics,
        device="cpu" if device.type == "mps" else device,  # which counts few types of numbers
    )
    lanes = Lanes(model)
    empty = total.empty()
    indices = settings.indices
    if indices is None:
        indices = range(min(settings.limit or len(dataset), len(dataset)))
    done, started = 0, time.monotonic()
    for batch in _batches(dataset, settings, indices, processes, device):
        counted = lanes.each(len(batch), _Count(batch, dataset, compute, device, empty))
        for _, tally in counted:
            total.join(tally)
        if each is not None:
            predictions = chain(*(rows for rows, _ in counted))
            for number, labels in zip(batch.indices.tolist(), predictions, strict=True):
                each(number, labels)
        done += len(batch)
        if progress is not None:
            progress(min(done * processes.number, len(indices)))
    total.sum_over(processes)
    return Result(total, len(indices), time.monotonic() - started)


def _batches(
    dataset: Dataset,
    settings: Pass,
    indices: Sequence[int],
    processes: Processes,
    device: torch.device,
) -> Iterable[Batch]:
    """The batches of this process."""
    return whole_batches(
        dataset,
        settings.batch_size or batch_size_for,
        settings.workers,
        indices=indices,
        process=processes.index,
        processes=processes.number,
        device=device,
    )


@dataclass(frozen=True)
class _Count:
    """The work of a lane: predict its part of a batch and count it.

    Returns the predicted labels without padding, ``[H, W]`` per image on the device, and their
    tally.
    """

    batch: Batch
    dataset: Dataset
    compute: Compute
    device: torch.device
    empty: Tally

    def __call__(self, model: nn.Module, part: slice) -> tuple[list[Tensor], Tally]:
        batch = self.batch[part].to(self.device)
        images, truth = batch.images, batch.labels
        numbers = [number for number, _ in batch.items]
        assert truth is not None
        with self.compute.autocast(self.device):
            logits = model(self.compute.layout(images))["logits"]
        size, tally = (images.shape[-2], images.shape[-1]), self.empty.empty()
        padded = [predict_labels(logits, size)]
        if tally.needs_confidence:
            padded.append(predict_confidence(logits, size))
        require_finite(logits, [self.dataset.name(number) for number in numbers])
        predictions = []
        for number, labels, *maps in zip(numbers, truth, *padded, strict=True):
            height, width = self.dataset.image_size(number)
            prediction, *confidence = (values[:height, :width] for values in maps)
            tally.add(prediction, labels[:height, :width], *confidence)
            predictions.append(prediction)
        return predictions, tally


def check_labelled(dataset: Dataset) -> None:
    """
    Raises:
        UsageError: the split has no labels.
    """
    if not dataset.labelled:
        raise UsageError(
            "this split has no labels to score against",
            tip="use another --split, or add a masks folder beside the images",
            key="split",
        )


def as_json(result: Result, classes: tuple[str, ...]) -> dict[str, Any]:
    """The document of ``eval --json``; classes that are absent have a null IoU and are listed."""
    per_class = result.tally.per_class()
    rows = [
        {"name": name, **dict(zip(per_class, numbers, strict=True))}
        for name, *numbers in zip(classes, *per_class.values(), strict=True)
    ]
    return {
        **result.values,
        "per_class": rows,
        "absent": [row["name"] for row in rows if row.get("iou") is None],
        "images": result.images,
        "seconds": round(result.seconds, 3),
    }
