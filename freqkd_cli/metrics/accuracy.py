"""Pixel accuracy, and the mean over classes of the accuracy on their own pixels."""

from __future__ import annotations

import torch

from freqkd_cli.metrics._confusion import Confusion
from freqkd_cli.metrics._metric import Metric, Number, mean_of, ratios

NUMBERS = {"pixel_accuracy": Number("pixel accuracy"), "mean_accuracy": Number("mean accuracy")}
PER_CLASS = {"accuracy": Number("accuracy")}
CHEAP = True


def build(*, classes: int) -> Metric:
    return Accuracy(Confusion(classes))


class Accuracy(Metric):
    """Share of labelled pixels that are right: of all, and of each class that is labelled."""

    counts: Confusion

    def values(self) -> dict[str, float | None]:
        count = self.counts.matrix.to(torch.float64)
        total = float(count.sum())
        return {
            "pixel_accuracy": float(count.diagonal().sum()) / total if total else None,
            "mean_accuracy": mean_of(self.per_class()["accuracy"]),
        }

    def per_class(self) -> dict[str, list[float | None]]:
        count = self.counts.matrix.to(torch.float64)
        return {"accuracy": ratios(count.diagonal(), count.sum(1))}
