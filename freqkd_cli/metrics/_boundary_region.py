"""Pixels near the outline of their class, for all classes at once.

Source: Cheng, Girshick, Dollar, Berg, Kirillov, "Boundary IoU: Improving Object-Centric Image
Segmentation Evaluation", CVPR 2021. The region is that of the authors' code: a mask without its
d-fold erosion by a 3x3 square, where the outside of the image counts as background.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from freqkd_cli.metrics._windows import any_of, mixed_blocks

SHARE_OF_DIAGONAL = 0.02

_OUTSIDE = -1
"""Stands for the class of the area outside the image."""


def distance(height: int, width: int, share: float = SHARE_OF_DIAGONAL) -> int:
    """Width of the boundary region: a share of the image diagonal in pixels, at least 1."""
    return max(1, round(share * (height**2 + width**2) ** 0.5))


def boundary_region(labels: Tensor, pixels: int) -> Tensor:
    """Mark pixels within ``pixels`` of the outline of their own class.

    A pixel survives d erosions by a 3x3 square if the (2 d + 1) square around it holds one class.
    The boundary regions of all masks together are therefore the pixels whose square holds two
    classes, and the region of class k is this set where the label is k. A square holds two classes
    if one of its 2x2 blocks does.

    Args:
        labels: whole numbers 0 .. 65535, ``[..., H, W]``; the outside is a class of its own.
        pixels: d, the number of erosions, at least 1.
    """
    # A GPU is not waited for, to find out whether the labels fit into 16 bits.
    small = labels.device.type == "cpu" and labels.max() < 2**15
    kind = torch.int16 if small else torch.int32
    framed = F.pad(labels.to(kind), (pixels, pixels, pixels, pixels), value=_OUTSIDE)
    return any_of(mixed_blocks(framed), 2 * pixels).view(torch.bool)
