"""Cut a view out of a map of the whole image, such as saved class probabilities."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from freqkd_cli.views.view import View, zoomed


def cut_map(
    view: View, image_size: tuple[int, int], values: np.ndarray, grid: tuple[int, int]
) -> Tensor:
    """Return the part of a map that a view shows, sampled bilinearly at the centers of its cells.

    Only that part is read, so ``values`` may be a memory map. Cells outside the image get the value
    of the nearest cell inside.

    Args:
        image_size: height and width of the image in pixels.
        values: ``[C, h, w]``, a map of the whole image of any resolution.
        grid: rows and columns of the result.

    Returns:
        float32 ``[C, *grid]``.
    """
    boxes = ((view.top, view.height), (view.left, view.width))
    sides = zoomed(image_size, view.scale)
    places, parts = [], []
    for (start, length), side, cells, number in zip(
        boxes, sides, values.shape[1:], grid, strict=True
    ):
        centers = (torch.arange(number, dtype=torch.float64) + 0.5) * length / number + start
        place = (centers * cells / side - 0.5).clamp(0, cells - 1)
        low, high = math.floor(float(place.min())), math.ceil(float(place.max())) + 1
        places.append(place - low)
        parts.append(slice(low, high))
    rows, columns = places
    part = torch.from_numpy(np.array(values[:, parts[0], parts[1]], dtype=np.float32))
    if view.flip:
        columns = columns.flip(0)
    sampled = _at(part, rows, axis=1)
    return _at(sampled, columns, axis=2)


def _at(values: Tensor, places: Tensor, axis: int) -> Tensor:
    """Return values between cells along an axis, interpolated linearly."""
    low = places.floor().long()
    high = (low + 1).clamp(max=values.shape[axis] - 1)
    shape = [1, 1, 1]
    shape[axis] = -1
    share = (places - low).to(values.dtype).view(shape)
    return torch.lerp(values.index_select(axis, low), values.index_select(axis, high), share)
