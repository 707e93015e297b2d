"""Expected calibration error: how far confidence and accuracy are apart.

**What** The confidence of a pixel is its largest probability. The labelled pixels of the whole
split fall into 15 bins of equal width by their confidence. ECE is the mean over bins of
|accuracy - mean confidence|, each bin weighted by its number of pixels. Overconfidence is the mean
confidence of all pixels minus their accuracy.

**Why** A student of soft targets can be as accurate as another one and better calibrated.

**Unit** share in [0, 1]; overconfidence is negative where the model is too careful. It needs
probabilities: the softmax of the logits, upsampled to the label image.

**Source** Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.
"""

from __future__ import annotations

import torch
from torch import Tensor

from freqkd_cli.metrics._label_maps import checked_maps
from freqkd_cli.metrics._metric import Counts, Metric, Number

BINS = 15
NUMBERS = {
    "ece": Number("calibration error (ECE)", best=0.0),
    "overconfidence": Number("overconfidence", best=0.0, signed=True),
}
PER_CLASS: dict[str, Number] = {}
CHEAP = False
ON_REQUEST = True

UNIT = 2**-24
"""Confidences are counted in this unit, so that sums are exact in any order."""


def build(*, classes: int) -> Metric:
    return Calibration(ConfidenceCounts(classes))


class ConfidenceCounts(Counts):
    """Pixels by confidence.

    Attributes:
        table: int64 ``[3, 15]``: pixels, right pixels and the sum of confidences in :data:`UNIT`.
            The upper edge of a bin belongs to it.
    """

    needs_confidence = True

    def __init__(self, classes: int) -> None:
        super().__init__(3, BINS)
        self.classes = classes

    def add(self, prediction: Tensor, labels: Tensor, *confidence: Tensor) -> None:
        known, truth, guess = checked_maps(prediction, labels, self.classes)
        sure = confidence[0].to(torch.float32)
        bins = (sure * BINS).ceil_().sub_(1).clamp_(0, BINS - 1).long()
        bins = torch.where(known, bins, BINS).flatten()
        # Whole numbers below 2^53 have exact sums in float64, so the order of images is free.
        sums = torch.bincount(bins, (sure / UNIT).round_().flatten().double(), BINS + 1)
        pixels = torch.bincount(bins, minlength=BINS + 1)
        wrong = torch.bincount(bins[(truth != guess).flatten()], minlength=BINS + 1)
        self.table += torch.stack([pixels, pixels - wrong, sums.long()])[:, :BINS]


class Calibration(Metric):
    """ECE and overconfidence of all labelled pixels."""

    def values(self) -> dict[str, float | None]:
        pixels, right, sure = self.table.to(torch.float64)
        total = float(pixels.sum())
        gaps = sure * UNIT - right
        return {
            "ece": float(gaps.abs().sum()) / total if total else None,
            "overconfidence": float(gaps.sum()) / total if total else None,
        }
