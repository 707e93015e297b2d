"""Mean IoU of one global confusion matrix over the split.

A class that is neither labelled nor predicted has no IoU, and the mean leaves it out.
"""

from __future__ import annotations

import torch

from freqkd_cli.metrics._confusion import Confusion
from freqkd_cli.metrics._metric import Metric, Number, mean_of, ratios

NUMBERS = {"miou": Number("mIoU")}
PER_CLASS = {"iou": Number("IoU")}
CHEAP = True


def build(*, classes: int) -> Metric:
    return IoU(Confusion(classes))


class IoU(Metric):
    """Intersection over union: pixels right / (labelled + predicted - right)."""

    counts: Confusion

    def values(self) -> dict[str, float | None]:
        return {"miou": mean_of(self.per_class()["iou"])}

    def per_class(self) -> dict[str, list[float | None]]:
        count = self.counts.matrix.to(torch.float64)
        right = count.diagonal()
        return {"iou": ratios(right, count.sum(1) + count.sum(0) - right)}
