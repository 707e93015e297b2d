"""A view applied to a picture: pure functions of the view and the pixels."""

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
"""What stands where a view shows no picture."""


def apply_geometry(
    view: View, image: np.ndarray, labels: np.ndarray | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Zoom, cut out, mirror and, where the view says so, isolate a box.

    Args:
        view: what to show.
        image: uint8 RGB ``[H, W, 3]``; zoomed bilinearly with antialiasing.
        labels: uint8 ``[H, W]`` train ids with 255 = ignore, or None; zoomed to the nearest pixel centre.

    Returns:
        image float32 ``[3, h, w]`` in [0, 1]; labels int64 ``[h, w]`` or None; valid bool ``[h, w]``.

    Raises:
        ShapeError: labels of another size than the image.
    """
    if labels is not None and labels.shape != image.shape[:2]:
        raise ShapeError(
            "an image and its labels differ in size", got=f"{image.shape[:2]} and {labels.shape}"
        )
    pixels = _cut(
        view,
        torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1),
        InterpolationMode.BILINEAR,
    )
    shown = torch.zeros(view.height, view.width, dtype=torch.bool)
    rows, columns = _visible(view, image.shape[:2])
    shown[rows, columns] = True
    seen = torch.full((3, view.height, view.width), GREY)
    seen[:, rows, columns] = pixels.to(torch.float32).div_(255)
    truth = None
    if labels is not None:
        truth = torch.full((view.height, view.width), IGNORE, dtype=torch.int64)
        truth[rows, columns] = _cut(
            view,
            torch.from_numpy(np.ascontiguousarray(labels))[None],
            InterpolationMode.NEAREST_EXACT,
        )[0].long()
    if view.flip:
        seen, shown, truth = (
            seen.flip(-1),
            shown.flip(-1),
            None if truth is None else truth.flip(-1),
        )
    if view.kept is not None:
        hidden = _outside(view)
        shown = shown & ~hidden
        seen = seen.masked_fill(hidden, GREY)
        truth = None if truth is None else truth.masked_fill(hidden, IGNORE)
    return seen, truth, shown


def apply_photometric(view: View, image: Tensor, valid: Tensor | None = None) -> Tensor:
    """Change colours and sharpness of ``[3, h, w]`` RGB in [0, 1]; the result stays in [0, 1].

    Where ``valid`` is given, the pixels outside it come out as the plain grey that they were. The hue is turned linearly, around the grey
    axis of RGB, which keeps the mean of the three channels and costs a fortieth of a round trip through HSV.
    """
    if not view.changes_colour:
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
    """Rotate the colours of ``[3, h, w]`` around the grey axis, clamped to [0, 1]; a third of a turn makes red green."""
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
    """The part of the view, before it is mirrored, where the zoomed picture is."""
    rows, columns = zoomed((image_size[0], image_size[1]), view.scale)
    return (
        slice(max(0, -view.top), max(0, min(view.height, rows - view.top))),
        slice(max(0, -view.left), max(0, min(view.width, columns - view.left))),
    )


def _cut(view: View, pixels: Tensor, how: InterpolationMode) -> Tensor:
    """Zoom ``[C, H, W]`` and cut out what the view shows of it."""
    size = zoomed((pixels.shape[-2], pixels.shape[-1]), view.scale)
    if size != tuple(pixels.shape[-2:]):
        pixels = F.resize(pixels, list(size), how, antialias=True)
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
    """One pass per axis: the same Gaussian as one square kernel at a quarter of its price."""
    reach = min(math.ceil(3 * sigma), min(image.shape[-2:]) - 1)
    if reach < 1:
        return image
    for kernel in ([1, 2 * reach + 1], [2 * reach + 1, 1]):
        image = F.gaussian_blur(image, kernel, [sigma, sigma])
    return image
