"""mIoU and recall of structures that are thinner than 4, 8 and 16 pixels.

**What** A pixel is thinner than N if no N x N window of its own class covers it: the opening of the
mask with a square of side N takes it away. ``thin_recall_N`` is the share of the thin labelled
pixels of a class that is right. For ``thin_miou_N``, right and missed pixels count where the label
is thin, false ones where the prediction is thin. Both are means over classes, from sums over the
whole split. A window may reach beyond the image. Void is a label of its own.

**Why** Poles and signs are lost at the strides of a fast student, and hardly count in the mIoU.

**Unit** share in [0, 1]; N in pixels of the label image. A diagonal bar counts up to a width of 1.4
N, since the window is a square.

**Source** the white top-hat of Serra, "Image Analysis and Mathematical Morphology", 1982.
"""

from __future__ import annotations

from torch import Tensor

from freqkd_cli.metrics._metric import Metric, Number
from freqkd_cli.metrics._regions import RegionCounts, RegionScores
from freqkd_cli.metrics._windows import thickness

SIDES = (4, 8, 16)
PARTS = {f"thin_{{}}_{n}": slice(0, number + 1) for number, n in enumerate(SIDES)}
NUMBERS = {
    f"thin_{kind.lower()}_{n}": Number(f"{kind}, thinner than {n} px")
    for n in SIDES
    for kind in ("mIoU", "recall")
}
PER_CLASS = {f"thin_iou_{n}": Number(f"IoU, < {n} px") for n in SIDES}
CHEAP = False
ON_REQUEST = True


def build(*, classes: int) -> Metric:
    return RegionScores(ThinCounts(classes), PARTS, recall=True)


class ThinCounts(RegionCounts):
    """Region n holds the pixels that are thinner than side n and no smaller one."""

    REGIONS = len(SIDES) + 1

    def region(self, labels: Tensor) -> Tensor:
        return thickness(labels, SIDES)
