"""Boundary IoU: how well outlines match, insensitive to the size of what they enclose.

Source: Cheng, Girshick, Dollar, Berg, Kirillov, "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR 2021, eq. 2,
with the region of the authors' code: a mask without its d-fold erosion by a 3x3 square, the outside of the image counting as background.
Departures: one intersection and one union per class are summed over the whole split, as for mIoU, and void pixels (255) are left out of
both: they belong to no mask, so the edge of a void area is an outline in the labels, and the prediction is set void there as well.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SHARE_OF_DIAGONAL = 0.02

_OUTSIDE = -1
"""Stands for the class of what lies outside the image."""


def distance(height: int, width: int, share: float = SHARE_OF_DIAGONAL) -> int:
    """Width of the boundary region in pixels: a share of the image diagonal, rounded, at least 1."""
    return max(1, round(share * (height**2 + width**2) ** 0.5))


def boundary_region(labels: Tensor, pixels: int) -> Tensor:
    """Where a pixel lies within ``pixels`` of the outline of its own class, for all classes at once.

    d erosions by a 3x3 square keep a pixel when the (2 d + 1) square around it holds its own class only. So the boundary regions of all
    masks together are the pixels whose square holds two classes, and class k's region is that set where the label is k. A square holds
    two classes where one of its 2x2 blocks does.

    Args:
        labels: whole numbers 0 .. 255, ``[..., H, W]``; what lies outside the image is a class of its own.
        pixels: d, the number of erosions, at least 1.
    """
    framed = F.pad(labels.to(torch.int16), (pixels, pixels, pixels, pixels), value=_OUTSIDE)
    across, down = framed[..., 1:] != framed[..., :-1], framed[..., 1:, :] != framed[..., :-1, :]
    mixed = (across[..., :-1, :] | across[..., 1:, :] | down[..., :-1]).view(torch.uint8)
    for axis in (-1, -2):
        mixed = _any(mixed, 2 * pixels, axis)
    return mixed.view(torch.bool)


def _any(flags: Tensor, side: int, axis: int) -> Tensor:
    """Whether any of ``side`` neighbours along an axis is set, in log2(side) passes: runs overlap, so they may be joined."""
    reach = 1
    while reach < side:
        step = min(reach, side - reach)
        length = flags.shape[axis] - step
        flags = flags.narrow(axis, 0, length) | flags.narrow(axis, step, length)
        reach += step
    return flags
