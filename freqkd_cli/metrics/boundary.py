"""Boundary IoU: how well outlines match, insensitive to the size of the regions they enclose.

Source: Cheng, Girshick, Dollar, Berg, Kirillov, "Boundary IoU: Improving Object-Centric Image
Segmentation Evaluation", CVPR 2021, eq. 2. Departures from it:

- One intersection and one union per class are summed over the whole split, as for mIoU.
- Void pixels (255) are left out of both. They belong to no mask, so the edge of a void area is an
  outline in the labels, and the prediction is set void there as well.
"""

from __future__ import annotations

import torch

from freqkd_cli.metrics._confusion import BoundaryConfusion
from freqkd_cli.metrics._metric import Metric, Number, mean_of, ratios

NUMBERS = {"boundary_iou": Number("boundary IoU")}
PER_CLASS = {"boundary_iou": Number("boundary IoU")}
CHEAP = False


def build(*, classes: int) -> Metric:
    return BoundaryIoU(BoundaryConfusion(classes))


class BoundaryIoU(Metric):
    """IoU of the boundary regions, averaged over the classes with a non-empty union."""

    counts: BoundaryConfusion

    def values(self) -> dict[str, float | None]:
        return {"boundary_iou": mean_of(self.per_class()["boundary_iou"])}

    def per_class(self) -> dict[str, list[float | None]]:
        table = self.table
        inside = table[3].diagonal()
        union = table[2:].sum((0, 1)) + table[1::2].sum((0, 2)) - inside
        return {"boundary_iou": ratios(inside.to(torch.float64), union.to(torch.float64))}
