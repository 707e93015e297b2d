"""Boundary F-score: how many outline pixels have a counterpart nearby.

**What** An outline pixel of class k has the label k and one of its four neighbors another class.
Precision is the share of the predicted outline pixels of a class that are at most t pixels from a
labelled one of the same class, recall the reverse, and F = 2 P R / (P + R). Pixels are summed over
the whole split, then P, R and F are averaged over the classes for which they exist. Void pixels
have no class, so there is no outline beside them, nor at the border of the image. On data that
frames every object with void pixels, nothing is left to count.

**Why** Unlike boundary IoU, a jagged but accurate outline costs nothing, and a shift of more than t
costs everything.

**Unit** share in [0, 1]; t is 0.75 % of the image diagonal, at least 1 pixel (Euclidean distance).

**Source** Csurka, Larlus, Perronnin, "What is a good evaluation measure for semantic
segmentation?", BMVC 2013. Its F is that of single images, averaged.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from freqkd_cli.metrics._label_maps import checked_maps, each_image
from freqkd_cli.metrics._metric import Counts, Metric, Number, mean_of, ratios
from freqkd_cli.views.labels import void_label

SHARE_OF_DIAGONAL = 0.0075
NUMBERS = {
    "boundary_f": Number("boundary F"),
    "boundary_precision": Number("boundary precision"),
    "boundary_recall": Number("boundary recall"),
}
PER_CLASS = {"boundary_f": Number("boundary F")}
CHEAP = False
ON_REQUEST = True


def build(*, classes: int) -> Metric:
    return BoundaryF(OutlineCounts(classes))


def tolerance(height: int, width: int) -> float:
    """The largest distance of a match, in pixels."""
    return max(1.0, SHARE_OF_DIAGONAL * float(np.hypot(height, width)))


class OutlineCounts(Counts):
    """Outline pixels of every class.

    Attributes:
        table: int64 ``[4, K]``: predicted, predicted with a match, labelled, labelled with a match.
    """

    def __init__(self, classes: int) -> None:
        super().__init__(4, classes)
        self.classes, self.void = classes, void_label(classes)

    def add(self, prediction: Tensor, labels: Tensor) -> None:
        for known, truth, guess in each_image(*checked_maps(prediction, labels, self.classes)):
            reach = tolerance(*truth.shape)
            predicted, labelled = (
                _framed_outline(torch.where(known, values, self.void), self.void, int(reach))
                for values in (guess, truth)
            )
            near = _offsets(reach, predicted.shape[1])
            rows = [*self._matched(predicted, labelled, near)]
            rows += self._matched(labelled, predicted, near)
            self.table += torch.from_numpy(np.stack(rows))

    def _matched(
        self, outline: np.ndarray, other: np.ndarray, near: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Outline pixels by class, and those with a pixel of ``other`` of their class nearby."""
        outline, other = outline.ravel(), other.ravel()
        places = np.flatnonzero(outline >= 0)
        classes = outline[places]
        every = np.bincount(classes, minlength=self.classes)
        for offset in near:  # nearest first, so few pixels are left after some offsets
            left = other[places + offset] != classes
            places, classes = places[left], classes[left]
            if not len(places):
                break
        return every, every - np.bincount(classes, minlength=self.classes)


def _framed_outline(labels: Tensor, void: int, frame: int) -> np.ndarray:
    """The class of outline pixels, -1 elsewhere and in a frame around the image, int32."""
    labels = labels.to(torch.int32)
    marked = torch.zeros(labels.shape, dtype=torch.bool)
    for axis in (0, 1):
        length = labels.shape[axis] - 1
        before, after = labels.narrow(axis, 0, length), labels.narrow(axis, 1, length)
        differs = (before != after) & (before != void) & (after != void)
        marked.narrow(axis, 0, length).logical_or_(differs)
        marked.narrow(axis, 1, length).logical_or_(differs)
    return F.pad(torch.where(marked, labels, -1), (frame, frame, frame, frame), value=-1).numpy()


def _offsets(reach: float, width: int) -> np.ndarray:
    """Steps in a flat map of this width to all pixels within ``reach``, the nearest first."""
    side = np.arange(-int(reach), int(reach) + 1)
    squares = side[:, None] ** 2 + side[None, :] ** 2
    rows, columns = np.nonzero(squares <= reach**2)
    order = np.argsort(squares[rows, columns], kind="stable")
    return (side[rows] * width + side[columns])[order]


class BoundaryF(Metric):
    """Precision, recall and F of outline pixels."""

    counts: OutlineCounts

    def values(self) -> dict[str, float | None]:
        predicted, hits, labelled, reached = self.table
        return {
            "boundary_f": mean_of(self.per_class()["boundary_f"]),
            "boundary_precision": mean_of(ratios(hits, predicted)),
            "boundary_recall": mean_of(ratios(reached, labelled)),
        }

    def per_class(self) -> dict[str, list[float | None]]:
        predicted, hits, labelled, reached = self.table.to(torch.float64)
        # Without any predicted outline, precision does not exist, and F is 0.
        precision, recall = hits / predicted.clamp(min=1), reached / labelled.clamp(min=1)
        f = 2 * precision * recall / (precision + recall).clamp(min=1e-300)
        return {"boundary_f": ratios(f, ((predicted + labelled) > 0).to(torch.float64))}
