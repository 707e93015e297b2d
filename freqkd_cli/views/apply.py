"""Apply a view to an image: pure functions of the view and the pixels."""

from __future__ import annotations

import math

import numpy as np
import torch
import torchvision.transforms.v2.functional as F
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode

from freqkd_cli.errors import ShapeError
from freqkd_cli.views.labels import IGNORE
from freqkd_cli.views.view import View, zoomed

GREY = 0.5
"""Value of pixels outside the image."""


def apply_geometry(
    view: View, image: np.ndarray, labels: np.ndarray | None, ignore: int = IGNORE
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Zoom, crop, mirror and, where the view has ``kept``, isolate a box.

    Args:
        view: the view.
        image: uint8 RGB ``[H, W, 3]``; zoomed bilinearly with antialiasing.
        labels: ``[H, W]`` train ids, ``ignore`` on void, or None; zoomed to the nearest pixel
            center.
        ignore: the label of void pixels, and of those outside the image.

    Returns:
        image float32 ``[3, h, w]`` in [0, 1]; labels int64 ``[h, w]`` or None; valid bool
        ``[h, w]``.

    Raises:
        ShapeError: labels of another size than the image.
    """
    if labels is not None and labels.shape != image.shape[:2]:
        raise ShapeError(
            "an image and its labels differ in size",
            got=f"{image.shape[:2]} and {labels.shape} (height, width)",
        )
    shown, targets, valid = _placed(view, image, labels, ignore)
    if view.flip:
        shown, valid = shown.flip(-1), valid.flip(-1)
        targets = None if targets is None else targets.flip(-1)
    if view.kept is not None:
        hidden = _outside(view)
        valid = valid & ~hidden
        shown = shown.masked_fill(hidden, GREY)
        targets = None if targets is None else targets.masked_fill(hidden, ignore)
    return shown, targets, valid


def _placed(
    view: View, image: np.ndarray, labels: np.ndarray | None, ignore: int
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return image, labels and valid mask after zoom and crop, padded to the size of the view."""
    channels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    pixels = _cut(view, channels, InterpolationMode.BILINEAR)
    rows, columns = _visible(view, image.shape[:2])
    valid = torch.zeros(view.height, view.width, dtype=torch.bool)
    valid[rows, columns] = True
    shown = torch.full((3, view.height, view.width), GREY)
    shown[:, rows, columns] = pixels.to(torch.float32).div_(255)
    if labels is None:
        return shown, None, valid
    targets = torch.full((view.height, view.width), ignore, dtype=torch.int64)
    if labels.dtype != np.uint8:  # torch has few operations for 16-bit labels
        labels = labels.astype(np.int32)
    plane = torch.from_numpy(np.ascontiguousarray(labels))[None]
    targets[rows, columns] = _cut(view, plane, InterpolationMode.NEAREST_EXACT)[0].long()
    return shown, targets, valid


def apply_photometric(view: View, image: Tensor, valid: Tensor | None = None) -> Tensor:
    """Change color and sharpness of ``[3, h, w]`` RGB in [0, 1]; the result stays in [0, 1].

    Pixels outside ``valid`` stay plain grey. The hue is rotated linearly, around the grey axis of
    RGB. That keeps the mean of the three channels and costs a fortieth of a round trip through HSV.
    """
    if not view.changes_color:
        return image
    changed = image
    if view.brightness != 1:
        changed = F.adjust_brightness(changed, view.brightness)
    if view.contrast != 1:
        changed = F.adjust_contrast(changed, view.contrast)
    if view.saturation != 1:
        changed = F.adjust_saturation(changed, view.saturation)
    if view.hue != 0:
        changed = turn_hue(changed, view.hue)
    if view.blur > 0:
        changed = _blurred(changed, view.blur)
    return changed if valid is None else changed.masked_fill(~valid, GREY)


def turn_hue(image: Tensor, turns: float) -> Tensor:
    """Rotate the colors of ``[3, h, w]`` around the grey axis, clamped to [0, 1].

    A third of a turn makes red green.
    """
    angle = 2 * math.pi * turns
    same = (1 + 2 * math.cos(angle)) / 3
    left, right = (
        math.sin(angle) / math.sqrt(3) * sign + (1 - math.cos(angle)) / 3 for sign in (1, -1)
    )
    matrix = torch.tensor(
        [[same, right, left], [left, same, right], [right, left, same]], dtype=image.dtype
    )
    return (matrix @ image.flatten(1)).reshape(image.shape).clamp_(0, 1)


def _visible(view: View, image_size: tuple[int, ...]) -> tuple[slice, slice]:
    """Return the part of the view, before mirroring, that the zoomed image covers."""
    rows, columns = zoomed((image_size[0], image_size[1]), view.scale)
    return (
        slice(max(0, -view.top), max(0, min(view.height, rows - view.top))),
        slice(max(0, -view.left), max(0, min(view.width, columns - view.left))),
    )


def _cut(view: View, pixels: Tensor, mode: InterpolationMode) -> Tensor:
    """Zoom ``[C, H, W]`` and crop it to the view."""
    size = zoomed((pixels.shape[-2], pixels.shape[-1]), view.scale)
    if size != tuple(pixels.shape[-2:]):
        pixels = F.resize(pixels, list(size), mode, antialias=True)
    top, left = max(0, view.top), max(0, view.left)
    return pixels[
        :, top : max(top, view.top + view.height), left : max(left, view.left + view.width)
    ]


def _outside(view: View) -> Tensor:
    assert view.kept is not None
    top, left, height, width = view.kept
    hidden = torch.ones(view.height, view.width, dtype=torch.bool)
    hidden[top : top + height, left : left + width] = False
    return hidden


def _blurred(image: Tensor, sigma: float) -> Tensor:
    """Blur in one pass per axis: the Gaussian of one square kernel at a quarter of its cost."""
    reach = min(math.ceil(3 * sigma), min(image.shape[-2:]) - 1)
    if reach < 1:
        return image
    for kernel in ([1, 2 * reach + 1], [2 * reach + 1, 1]):
        image = F.gaussian_blur(image, kernel, [sigma, sigma])
    return image
