"""mIoU near the edges of the ground truth, and away from them, at several widths.

**What** The band of width d holds the pixels with a pixel of another label in the (2 d + 1) square
around them. ``edge_miou_d`` is the mIoU of the pixels inside, ``interior_miou_d`` that of the
others, both from sums over the whole split. A void area has edges too, so on data that frames its
objects with void pixels the band lies along that frame. The border of the image is no edge.

**Why** A loss for high frequencies claims to help near edges and nowhere else.

**Unit** share in [0, 1]; d in pixels of the label image: 1, 2, 4 and 8.

**Source** trimaps of Kohli, Ladicky, Torr, "Robust Higher Order Potentials for Enforcing Label
Consistency", IJCV 2009, and Kraehenbuehl, Koltun, NIPS 2011.
"""

from __future__ import annotations

from torch import Tensor

from freqkd_cli.metrics._metric import Metric, Number
from freqkd_cli.metrics._regions import RegionCounts, RegionScores
from freqkd_cli.metrics._windows import beyond_edges

WIDTHS = (1, 2, 4, 8)
"""Pixels on each side of an edge: octaves, as in the octave losses."""
PARTS = {f"edge_{{}}_{d}": slice(0, n + 1) for n, d in enumerate(WIDTHS)} | {
    f"interior_{{}}_{d}": slice(n + 1, None) for n, d in enumerate(WIDTHS)
}
NUMBERS = {f"edge_miou_{d}": Number(f"mIoU within {d} px of edges") for d in WIDTHS} | {
    f"interior_miou_{d}": Number(f"mIoU beyond {d} px of edges") for d in WIDTHS
}
PER_CLASS = {f"edge_iou_{d}": Number(f"IoU within {d} px") for d in WIDTHS} | {
    f"interior_iou_{d}": Number(f"IoU beyond {d} px") for d in WIDTHS
}
CHEAP = False
ON_REQUEST = True


def build(*, classes: int) -> Metric:
    return RegionScores(EdgeBandCounts(classes), PARTS, recall=False)


class EdgeBandCounts(RegionCounts):
    """Region n holds the pixels in the band of width n and in no narrower one."""

    REGIONS = len(WIDTHS) + 1

    def regions(self, truth: Tensor, guess: Tensor) -> tuple[Tensor, Tensor]:
        region = beyond_edges(truth, WIDTHS)
        return region, region  # a false pixel counts where it lies
