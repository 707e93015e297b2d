"""Square windows of label images, for all classes at once: which of them hold two classes.

A window holds two classes if one of its 2x2 blocks does, so the blocks are compared once for all
windows. A window that reaches beyond the image is judged by its pixels inside the image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor


def mixed_blocks(labels: Tensor) -> Tensor:
    """Mark 2x2 blocks with two classes, ``[..., H, W] -> [..., H - 1, W - 1]`` uint8."""
    # The right column need not be compared: it follows from the other three pairs.
    across, down = labels[..., 1:] != labels[..., :-1], labels[..., 1:, :] != labels[..., :-1, :]
    return (across[..., :-1, :] | across[..., 1:, :] | down[..., :-1]).view(torch.uint8)


def any_of(flags: Tensor, side: int) -> Tensor:
    """Whether any flag of a square is set, ``[..., H, W] -> [..., H - side + 1, W - side + 1]``."""
    return _any_along(_any_along(flags, side, -1), side, -2)


def beyond_edges(labels: Tensor, widths: Sequence[int]) -> Tensor:
    """Count the widths d at which the (2 d + 1) square around a pixel holds its class alone.

    The border of the image is no edge.

    Args:
        labels: whole numbers ``[..., H, W]``.
        widths: in pixels, at least 1.

    Returns:
        uint8 ``[..., H, W]``.
    """
    blocks = mixed_blocks(_one_more(labels))
    return _sum(any_of(_framed(blocks, width - 1), 2 * width) ^ 1 for width in widths)


def thickness(labels: Tensor, sides: Sequence[int]) -> Tensor:
    """Count the sides n for which an n x n window of one class covers a pixel.

    An uncovered pixel is one that a morphological opening of the mask of its class takes away.

    Args:
        labels: whole numbers ``[..., H, W]``.
        sides: in pixels, at least 2.

    Returns:
        uint8 ``[..., H, W]``.
    """
    blocks = mixed_blocks(_one_more(labels))
    uniform = ((any_of(_framed(blocks, side - 2), side - 1) ^ 1, side) for side in sides)
    return _sum(any_of(windows, side) for windows, side in uniform)


def _sum(maps: Iterable[Tensor]) -> Tensor:
    """The sum of a few maps, of which one is held at a time."""
    return reduce(torch.add, maps)


def _framed(blocks: Tensor, pixels: int) -> Tensor:
    return F.pad(blocks, (pixels, pixels, pixels, pixels))


def _one_more(labels: Tensor) -> Tensor:
    """Repeat the outermost pixels once on each side."""
    labels = torch.cat([labels[..., :1, :], labels, labels[..., -1:, :]], -2)
    return torch.cat([labels[..., :1], labels, labels[..., -1:]], -1)


def _any_along(flags: Tensor, side: int, axis: int) -> Tensor:
    """Whether any of ``side`` neighbors along an axis is set, in log2(side) passes.

    The runs of neighbors that a pass joins may overlap.
    """
    reach = 1
    while reach < side:
        step = min(reach, side - reach)
        length = flags.shape[axis] - step
        flags = flags.narrow(axis, 0, length) | flags.narrow(axis, step, length)
        reach += step
    return flags
