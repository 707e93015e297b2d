"""Apply a view to an image: pure functions of the view and the pixels."""

from __future__ import annotations

import math

import numpy as np
import torch
import torchvision.transforms.v2.functional as F
from torch import Tensor

from freqkd_cli.errors import ShapeError
from freqkd_cli.views.labels import IGNORE
from freqkd_cli.views.view import View, zoomed
from freqkd_cli.views.zoom import zoomed_image, zoomed_labels

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
    size = zoomed((image.shape[0], image.shape[1]), view.scale)
    (rows, from_rows), (columns, from_columns) = (
        _shown(view.top, view.height, size[0]),
        _shown(view.left, view.width, size[1]),
    )
    valid = torch.zeros(view.height, view.width, dtype=torch.bool)
    valid[rows, columns] = True
    shown = torch.full((3, view.height, view.width), GREY)
    if valid.any():
        inside = shown[:, rows, columns]
        inside.copy_(zoomed_image(image, size, from_rows, from_columns)).div_(255)
    if labels is None:
        return shown, None, valid
    targets = torch.full((view.height, view.width), ignore, dtype=torch.int64)
    part = zoomed_labels(labels, size, from_rows, from_columns)
    targets[rows, columns] = torch.from_numpy(part.astype(np.int64))
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


def _shown(start: int, length: int, zoomed_length: int) -> tuple[slice, slice]:
    """Return the part of a view's axis, before mirroring, that the zoomed image covers.

    The second slice is the same part in the zoomed image.
    """
    first, end = max(0, start), min(zoomed_length, start + length)
    end = max(first, end)
    return slice(first - start, end - start), slice(first, end)


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
