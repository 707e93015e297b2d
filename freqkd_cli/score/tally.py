"""All metrics of the drawer over one split: counted image by image, read as named numbers."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from freqkd_cli import registry

if TYPE_CHECKING:
    from freqkd_cli.metrics._metric import Counts, Metric, Number
    from freqkd_cli.runtime.processes import Processes

MAIN = "iou"
"""The metric that tables and documents show first."""


class Tally:
    """The metrics of a split. Those that can read the same counts share them.

    Args:
        classes: K.
        cheap: only the metrics that are cheap enough for every validation during training.
    """

    def __init__(self, classes: int, *, cheap: bool = False) -> None:
        self.classes = classes
        self.metrics: dict[str, Metric] = {
            name: registry.find("metrics", name).build(classes=classes)
            for name in metric_names(cheap=cheap)
        }
        self.counts = _share(self.metrics.values())

    def add(self, prediction: Tensor, labels: Tensor) -> Tally:
        """Count images of one size, without padding, and return the tally.

        Args:
            prediction: whole numbers ``[..., H, W]`` on the CPU, 0 .. K - 1 at counted pixels.
            labels: whole numbers of the same shape; 255 is left out, whatever is predicted there.

        Raises:
            ShapeError: the shapes differ, or a counted number is outside the classes.
        """
        for counts in self.counts:
            counts.add(prediction, labels)
        return self

    def empty(self) -> Tally:
        """A tally of the same metrics that has counted nothing."""
        fresh = copy.deepcopy(self)
        for counts in fresh.counts:
            counts.table.zero_()
        return fresh

    def join(self, other: Tally) -> None:
        """Add the counts of another tally of the same metrics."""
        for counts, more in zip(self.counts, other.counts, strict=True):
            counts.table += more.table

    def sum_over(self, processes: Processes) -> None:
        """Put the counts of all processes together, in each of them."""
        for counts in self.counts:
            counts.table = processes.sum(counts.table)

    def values(self) -> dict[str, float | None]:
        """The numbers of all metrics, by name."""
        return {k: v for metric in self.metrics.values() for k, v in metric.values().items()}

    def per_class(self) -> dict[str, list[float | None]]:
        """The numbers per class of all metrics, by name."""
        return {k: v for metric in self.metrics.values() for k, v in metric.per_class().items()}


def metric_names(*, cheap: bool = False) -> list[str]:
    """The metrics of the drawer, the main one first; with ``cheap`` those of a training alone."""
    names = sorted(registry.names("metrics"), key=lambda name: (name != MAIN, name))
    return [name for name in names if not cheap or registry.find("metrics", name).CHEAP]


def numbers() -> Mapping[str, Number]:
    """Name -> title and unit of the numbers of all metrics, in the order of tables."""
    return _declared("NUMBERS")


def numbers_per_class() -> Mapping[str, Number]:
    """Name -> title and unit of the numbers per class, in the order of tables."""
    return _declared("PER_CLASS")


def _declared(data: str) -> dict[str, Number]:
    items = [registry.find("metrics", name) for name in metric_names()]
    return {key: number for item in items for key, number in getattr(item, data, {}).items()}


def _share(metrics: Iterable[Metric]) -> list[Counts]:
    """Let metrics read one count where that of one covers that of the other; the counts left."""
    metrics, kept = list(metrics), []
    for metric in metrics:
        if not any(counts.covers(metric.counts) for counts in kept):
            kept = [counts for counts in kept if not metric.counts.covers(counts)]
            kept.append(metric.counts)
    for metric in metrics:
        metric.counts = next(counts for counts in kept if counts.covers(metric.counts))
    return kept
