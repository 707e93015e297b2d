"""All metrics of the drawer over one split: counted image by image, read as named numbers."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from freqkd_cli import registry
from freqkd_cli.build.exported_model import returns_labels
from freqkd_cli.errors import UsageError

if TYPE_CHECKING:
    from freqkd_cli.metrics._metric import Counts, Metric, Number
    from freqkd_cli.runtime.processes import Processes

log = logging.getLogger(__name__)

MAIN = "iou"
"""The metric that tables and documents show first."""


class Tally:
    """The metrics of a split. Those that can read the same counts share them.

    Args:
        classes: K.
        cheap: only the metrics that are cheap enough for every validation during training.
        requested: metrics to compute as well, or :data:`registry.ALL`.
        device: where the counts that can be are kept until :meth:`sum_over`, such as the confusion
            matrix on a GPU, which then need not be waited for after every image.

    Attributes:
        needs_confidence: a metric reads the largest probability of every pixel.

    Raises:
        UnknownName: there is no metric of a requested name.
    """

    def __init__(
        self,
        classes: int,
        *,
        cheap: bool = False,
        requested: Sequence[str] = (),
        device: torch.device | str = "cpu",
    ) -> None:
        self.classes = classes
        self.metrics: dict[str, Metric] = {
            name: registry.find("metrics", name).build(classes=classes)
            for name in metric_names(cheap=cheap, requested=requested)
        }
        self.counts = _share(self.metrics.values())
        for counts in self.counts:
            if counts.on_any_device:
                counts.to(device)
        self.needs_confidence = any(counts.needs_confidence for counts in self.counts)

    def add(self, prediction: Tensor, labels: Tensor, confidence: Tensor | None = None) -> Tally:
        """Count images of one size, without padding, and return the tally.

        Args:
            prediction: whole numbers ``[..., H, W]``, 0 .. K - 1 at counted pixels.
            labels: whole numbers of the same shape; 255 is left out, whatever is predicted there.
            confidence: the largest probability of every pixel, where ``needs_confidence``.

        Raises:
            ShapeError: the shapes differ, or a counted number is outside the classes. Where a GPU
                counts, :meth:`sum_over` raises the latter.
        """
        for counts in self.counts:
            maps = (
                (prediction, labels, confidence)
                if counts.needs_confidence
                else (prediction, labels)
            )
            # A copy to a CPU must have arrived before it is counted.
            device = counts.table.device
            counts.add(*(x.to(device, non_blocking=device.type != "cpu") for x in maps))
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
            counts.join(more)

    def sum_over(self, processes: Processes) -> None:
        """Put the counts of all processes together, in each of them."""
        for counts in self.counts:
            counts.to("cpu")
            counts.table = processes.sum(counts.table)

    def values(self) -> dict[str, float | None]:
        """The numbers of all metrics, by name."""
        return {k: v for metric in self.metrics.values() for k, v in metric.values().items()}

    def per_class(self) -> dict[str, list[float | None]]:
        """The numbers per class of all metrics, by name."""
        return {k: v for metric in self.metrics.values() for k, v in metric.per_class().items()}


def metric_names(*, cheap: bool = False, requested: Sequence[str] = ()) -> list[str]:
    """The metrics that are computed by default, and requested ones; the main one first.

    Args:
        cheap: by default those of a validation during training alone.
        requested: names, or :data:`registry.ALL`.

    Raises:
        UnknownName: there is no metric of a requested name.
    """
    for name in requested:
        if name != registry.ALL:
            registry.check_name("metrics", name)
    names = sorted(registry.names("metrics"), key=lambda name: (name != MAIN, name))
    wanted = names if registry.ALL in requested else requested
    return [name for name in names if name in wanted or _by_default(name, cheap)]


def metrics_of(model: nn.Module, requested: Sequence[str]) -> Sequence[str]:
    """The requested metrics of a model, see :func:`without_probabilities`.

    Raises:
        UsageError: a metric that needs probabilities, of an exported file that returns labels.
    """
    if not returns_labels(model):
        return requested
    return without_probabilities(
        requested, "files that return labels", "freqkd export RUN --head logits"
    )


def without_probabilities(requested: Sequence[str], what: str, instead: str) -> Sequence[str]:
    """The requested metrics of predictions that are only labels.

    :data:`registry.ALL` becomes the metrics that read labels alone; a warning lists the others.

    Args:
        what: the predictions, in the plural.
        instead: how to get probabilities.

    Raises:
        UsageError: a metric that needs probabilities was requested by its name.
    """
    needing = [name for name in metric_names(requested=requested) if needs_confidence(name)]
    named = [name for name in needing if name in requested]
    if named:
        raise UsageError(
            f"{what} have no probabilities, which {', '.join(named)} needs",
            got=f"--metrics {','.join(requested)}",
            need="a model that returns class scores",
            tip=f"leave out {', '.join(named)}, or {instead}",
        )
    if needing:
        log.warning("left out, since %s have no probabilities: %s", what, ", ".join(needing))
    return [name for name in metric_names(requested=requested) if name not in needing]


def needs_confidence(name: str) -> bool:
    """Whether a metric reads the largest probability of every pixel."""
    return registry.find("metrics", name).build(classes=2).counts.needs_confidence


def _by_default(name: str, cheap: bool) -> bool:
    metric = registry.find("metrics", name)
    return metric.CHEAP if cheap else not getattr(metric, "ON_REQUEST", False)


def numbers(requested: Sequence[str] = ()) -> Mapping[str, Number]:
    """Name -> title and unit of the numbers of the metrics, in the order of tables."""
    return _declared("NUMBERS", requested)


def numbers_per_class(requested: Sequence[str] = ()) -> Mapping[str, Number]:
    """Name -> title and unit of the numbers per class, in the order of tables."""
    return _declared("PER_CLASS", requested)


def _declared(data: str, requested: Sequence[str]) -> dict[str, Number]:
    items = [registry.find("metrics", name) for name in metric_names(requested=requested)]
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
