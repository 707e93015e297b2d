"""Boundary IoU: how well outlines match, insensitive to the size of what they enclose.

Source: Cheng, Girshick, Dollar, Berg, Kirillov, "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR 2021, eq. 2,
with the region of the authors' code: a mask without its d-fold erosion by a 3x3 square, the outside of the image counting as background.
Departures: one intersection and one union per class are summed over the whole split, as for mIoU, and void pixels (255) are left out of
both: they belong to no mask, so the edge of a void area is an outline in the labels, and the prediction is set void there as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from freqkd_cli.errors import ShapeError
from freqkd_cli.labels import IGNORE
from freqkd_cli.metrics.confusion import mean_of, ratios

SHARE_OF_DIAGONAL = 0.02


def distance(height: int, width: int, share: float = SHARE_OF_DIAGONAL) -> int:
    """Width of the boundary region in pixels: a share of the image diagonal, rounded, at least 1."""
    return max(1, round(share * (height**2 + width**2) ** 0.5))


def boundary_region(labels: Tensor, pixels: int) -> Tensor:
    """Where a pixel lies within ``pixels`` of the outline of its own class, for all classes at once.

    d erosions by a 3x3 square keep a pixel when the (2 d + 1) square around it holds its own class only. So the boundary regions of all
    masks together are the pixels whose square has a minimum unlike its maximum, and class k's region is that set where the label is k.

    Args:
        labels: whole numbers 0 .. 255, ``[..., H, W]``; what lies outside the image is a class of its own.
        pixels: d, the number of erosions.
    """
    framed = F.pad(labels.to(torch.int16), (pixels, pixels, pixels, pixels), value=-1)
    side = 2 * pixels + 1
    low, high = framed, framed
    for axis in (-1, -2):
        low, high = _windows(low, side, axis, torch.minimum), _windows(high, side, axis, torch.maximum)
    return low != high


def _windows(values: Tensor, side: int, axis: int, of_two: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Minimum or maximum of every run of ``side`` neighbours along an axis, in log2(side) passes: runs overlap, so they may be joined."""
    reach = 1
    while reach < side:
        step = min(reach, side - reach)
        length = values.shape[axis] - step
        values = of_two(values.narrow(axis, 0, length), values.narrow(axis, step, length))
        reach += step
    return values


@dataclass
class BoundaryIoU:
    """Boundary IoU of a split, picture by picture.

    Attributes:
        classes: K.
        share: width of the boundary region as a share of the picture's diagonal.
    """

    classes: int
    share: float = SHARE_OF_DIAGONAL
    intersection: Tensor = field(init=False)
    union: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.intersection = torch.zeros(self.classes, dtype=torch.int64)
        self.union = torch.zeros(self.classes, dtype=torch.int64)

    def update(self, prediction: Tensor, labels: Tensor) -> None:
        """Count pictures of one size: whole numbers ``[..., H, W]`` twice, at the pictures' own size without padding.

        Raises:
            ShapeError: shapes that differ, or a number outside the classes where the label is not void.
        """
        if prediction.shape != labels.shape or labels.ndim < 2:
            raise ShapeError("prediction and labels differ in shape", got=f"{tuple(prediction.shape)} and {tuple(labels.shape)}")
        guess = prediction.masked_fill(labels == IGNORE, IGNORE)
        for what, values in (("labels", labels), ("predictions", guess)):
            inside = (values >= 0) & (values < self.classes) | (labels == IGNORE)
            if not bool(inside.all()):
                odd = values[~inside].unique().tolist()
                raise ShapeError(f"{what} outside the classes", got=odd, need=f"0 .. {self.classes - 1}, or 255")
        pixels = distance(*labels.shape[-2:], share=self.share)
        counted = labels != IGNORE
        ours, theirs = boundary_region(guess, pixels) & counted, boundary_region(labels, pixels) & counted
        both = self._count(labels, ours & theirs & (guess == labels))
        self.intersection += both
        self.union += self._count(guess, ours) + self._count(labels, theirs) - both

    def _count(self, values: Tensor, where: Tensor) -> Tensor:
        return torch.bincount(values[where].to(torch.int64), minlength=self.classes).cpu()

    def per_class(self) -> list[float | None]:
        """IoU of the boundary regions of every class, None where their union is empty."""
        return ratios(self.intersection.to(torch.float64), self.union.to(torch.float64))

    def value(self) -> float | None:
        """Mean over the classes with a non-empty union; None where there is none."""
        return mean_of(self.per_class())
