"""mIoU and recall of small, medium and large objects.

**What** An object is a connected component of one class, pixels joined along sides and corners.
Small objects have less than 32^2 pixels, large ones 96^2 or more. ``object_recall_S`` is the share
of the labelled pixels in objects of size S that is right. For ``object_miou_S``, right and missed
pixels count at the size of the labelled object, false ones at the size of the predicted object.
Both are means over classes, from sums over the whole split. Void pixels belong to no object.

**Why** In the mIoU, one large object outweighs many small ones of its class.

**Unit** share in [0, 1]; sizes in pixels of the label image.

**Source** sizes of Lin et al., "Microsoft COCO", ECCV 2014. COCO counts a false detection at its
own size, too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from freqkd_cli.metrics._metric import Metric, Number
from freqkd_cli.metrics._objects import object_areas
from freqkd_cli.metrics._regions import RegionCounts, RegionScores

SIZES = ("small", "medium", "large")
AREAS = (32**2, 96**2)
"""Pixels from which an object is medium and large."""
PARTS = {f"object_{{}}_{size}": slice(n, n + 1) for n, size in enumerate(SIZES)}
NUMBERS = {
    f"object_{kind.lower()}_{size}": Number(f"{kind}, {size} objects")
    for size in SIZES
    for kind in ("mIoU", "recall")
}
PER_CLASS = {f"object_iou_{size}": Number(f"IoU, {size}") for size in SIZES}
CHEAP = False
ON_REQUEST = True


def build(*, classes: int) -> Metric:
    return RegionScores(ObjectCounts(classes), PARTS, recall=True)


class ObjectCounts(RegionCounts):
    """Region n holds the pixels of objects of size n."""

    REGIONS = len(SIZES)

    def region(self, labels: Tensor) -> Tensor:
        areas = torch.from_numpy(object_areas(labels.numpy()))
        return sum((areas >= area).view(torch.uint8) for area in AREAS)
