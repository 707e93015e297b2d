"""Zoom an image or labels, computing only the part that is shown.

The result has the bits of torchvision's ``resize`` of the whole image, followed by the crop. torch
puts the center of output pixel i at ``(i + 0.5) * length / zoomed length``, counted from the first
pixel. So what follows the part is left out, and rows of the image that it does not need.
"""

from __future__ import annotations

import math
import platform

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def zoomed_image(image: np.ndarray, size: tuple[int, int], rows: slice, columns: slice) -> Tensor:
    """Return a part of a zoomed image, uint8 ``[3, h, w]``.

    Args:
        image: uint8 RGB ``[H, W, 3]``; zoomed bilinearly, with antialiasing where it gets smaller.
        size: height and width of the whole zoomed image.
        rows, columns: the part of the zoomed image, of at least one pixel.
    """
    if size == image.shape[:2]:
        shown = np.require(image[rows, columns], requirements=["W"])
        return torch.from_numpy(shown).permute(2, 0, 1)
    (height, width), (zoomed_height, zoomed_width) = image.shape[:2], size
    top, bottom = _needed(height, zoomed_height, rows)
    if width == zoomed_width:
        pixels = _as_tensor(image[top:bottom, columns])
    else:
        right = _needed(width, zoomed_width, columns)[1]
        pixels = _as_tensor(image[top:bottom, :right])
        pixels = _resized(pixels, 1, columns.stop, width / zoomed_width)[:, columns]
    if height != zoomed_height:
        if top > 0:
            part, pixels = pixels, pixels.new_empty(bottom, *pixels.shape[1:])
            pixels[top:] = part
        pixels = _resized(pixels, 0, rows.stop, height / zoomed_height)[rows]
    if pixels.is_floating_point():
        pixels = pixels.round_().to(torch.uint8)
    return pixels.permute(2, 0, 1)


def zoomed_labels(
    labels: np.ndarray, size: tuple[int, int], rows: slice, columns: slice
) -> np.ndarray:
    """Return a part of zoomed labels ``[H, W]``; a pixel gets the label whose center is nearest."""
    height, width = labels.shape
    if size == (height, width):
        return labels[rows, columns]
    return labels[_nearest(height, size[0])[rows]][:, _nearest(width, size[1])[columns]]


def _needed(length: int, zoomed_length: int, part: slice) -> tuple[int, int]:
    """Return the first pixel of an axis that a part of the zoomed axis reads, and the end."""
    if length == zoomed_length:
        return part.start, part.stop
    scale = length / zoomed_length
    reach = max(scale, 1.0) + 1
    first = math.floor((part.start + 0.5) * scale - reach)
    end = math.ceil((part.stop - 0.5) * scale + reach)
    return max(first, 0), min(end, length)


def _as_tensor(pixels: np.ndarray) -> Tensor:
    """Return ``[h, w, 3]`` pixels in the number format in which torchvision resizes them here."""
    tensor = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))
    return tensor if _RESIZES_BYTES else tensor.to(torch.float32)


_RESIZES_BYTES = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") or (
    platform.machine() in ("aarch64", "arm64")
)


def _resized(pixels: Tensor, axis: int, end: int, scale: float) -> Tensor:
    """Return the first ``end`` pixels of a zoomed axis of ``[h, w, 3]``."""
    size = list(pixels.shape[:2])
    # A kernel that gets an axis of the length that it should have leaves it as it is.
    size[axis] = end + (end == size[axis])
    factors = [None, None]
    factors[axis] = _inverse(scale)
    channels_last = pixels[None].permute(0, 3, 1, 2)
    zoomed = torch.ops.aten._upsample_bilinear2d_aa(channels_last, size, False, *factors)
    return zoomed[0].permute(1, 2, 0).narrow(axis, 0, end)


def _inverse(scale: float) -> float:
    """Return the number whose inverse is ``scale`` or next to it."""
    inverse = 1 / scale
    near = (inverse, math.nextafter(inverse, 0), math.nextafter(inverse, math.inf))
    return min(near, key=lambda factor: abs(1 / factor - scale))


def _nearest(length: int, zoomed_length: int) -> np.ndarray:
    """Return the pixel of an axis that each pixel of the zoomed axis shows."""
    # In two dimensions torch rounds otherwise than in one. float32 holds 2^24 whole numbers.
    places = torch.arange(length, dtype=torch.float32).view(1, 1, length, 1)
    return F.interpolate(places, (zoomed_length, 1), mode="nearest-exact").long().flatten().numpy()
