"""Optional averaging at test time: mirrored, at several scales, in windows. The default everywhere else is one pass over the whole picture.

What is averaged are softmax probabilities. The picture is padded as for a plain pass (grey, at the bottom and right, to multiples of 32)
and shown at every scale, as it is and mirrored. Each time the logits are upsampled to the size that was shown (bilinear, align_corners
False) and turned into probabilities; those of windows are averaged where windows overlap; the map is then mirrored back and resized
(bilinear, align_corners False) to the padded picture. All maps count the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqkd_cli.errors import UsageError
from freqkd_cli.views.upsample import upsampled

MULTIPLE = 32
"""Sides that are shown are multiples of this, so that every grid of a model covers the whole of them."""
WINDOW = f"H,W, both multiples of {MULTIPLE}, such as 256,256"
ZOOMS = "numbers from 0.1 to 8, such as 0.75,1.0,1.25"

Size = tuple[int, int]


@dataclass(frozen=True)
class Averaging:
    """What is averaged.

    Attributes:
        flip: each picture is mirrored left to right as well.
        scales: zooms; sides are rounded to multiples of 32.
        window: (H, W) of the windows that a picture is cut into, or None for the whole picture; a smaller picture is one window.
        stride: pixels from one window to the next.
    """

    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    window: Size | None = None
    stride: Size | None = None

    @property
    def plain(self) -> bool:
        """Whether it is one pass over the whole picture."""
        return self == Averaging()

    def to_json(self) -> dict[str, Any] | None:
        """``test_time`` of a result; None for a plain pass."""
        if self.plain:
            return None
        sides = {
            "window": self.window and list(self.window),
            "stride": self.stride and list(self.stride),
        }
        return {
            "text": str(self),
            "flip": self.flip,
            "scales": list(self.scales),
            **sides,
            "averaged": "softmax probabilities",
        }

    def __str__(self) -> str:
        parts = ["flip"] if self.flip else []
        parts += (
            [f"scales {' '.join(f'{scale:g}' for scale in self.scales)}"]
            if self.scales != (1.0,)
            else []
        )
        if self.window and self.stride:
            parts.append("windows {}x{} every {}x{}".format(*self.window, *self.stride))
        return (
            f"{', '.join(parts)}; mean of softmax probabilities"
            if parts
            else "one pass over the whole picture"
        )


def parse(flip: bool, scales: str | None, window: str | None, stride: str | None) -> Averaging:
    """The options ``--flip --scales --slide --stride``; a stride is half a window unless said.

    Raises:
        UsageError: no numbers, numbers out of range, or a stride without windows.
    """
    zooms = (1.0,) if scales is None else tuple(_numbers("--scales", scales, float, 0))
    if not all(0.1 <= zoom <= 8 for zoom in zooms) or len(set(zooms)) < len(zooms):
        raise UsageError("--scales are zooms, each once", got=scales, need=ZOOMS)
    if stride is not None and window is None:
        raise UsageError("--stride is the step of windows, and there are none", tip="--slide H,W")
    sides = None if window is None else _size("--slide", window, WINDOW)
    if sides and any(side < MULTIPLE or side % MULTIPLE for side in sides):
        raise UsageError(
            "windows have sides that every grid divides", got=f"--slide {window}", need=WINDOW
        )
    half = (sides[0] // 2, sides[1] // 2) if sides else None
    steps = half if stride is None else _size("--stride", stride, "H,W in pixels, such as 128,128")
    if (
        sides
        and steps
        and not all(1 <= step <= side for step, side in zip(steps, sides, strict=True))
    ):
        raise UsageError(
            "windows must meet",
            got=f"--stride {stride} --slide {window}",
            need="a stride from 1 to the window's side",
        )
    return Averaging(flip, zooms, sides, steps)


def _numbers(option: str, text: str, kind: type, count: int, need: str = ZOOMS) -> list[Any]:
    try:
        found = [kind(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or (count and len(found) != count):
        raise UsageError(f"{option} cannot be read", got=text or "nothing", need=need)
    return found


def _size(option: str, text: str, need: str) -> Size:
    height, width = _numbers(option, text, int, 2, need)
    return height, width


class Averaged(nn.Module):
    """A model whose ``logits`` are the logarithm of averaged probabilities, at the size of the images; scored as any other."""

    def __init__(self, model: nn.Module, how: Averaging) -> None:
        super().__init__()
        self.model, self.how = model, how

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """``[B, 3, H, W]`` RGB in [0, 1] -> ``{"logits": [B, K, H, W]}``."""
        size = tuple(images.shape[-2:])
        total, count = torch.zeros((), device=images.device), 0
        for scale in self.how.scales:
            shown = _zoomed(images, scale)
            for mirrored in (False, True) if self.how.flip else (False,):
                seen = self._seen(shown.flip(-1) if mirrored else shown)
                total = total + upsampled(seen.flip(-1) if mirrored else seen, (size[0], size[1]))
                count += 1
        # What no map thinks possible has a share of 0; its logarithm is kept a number, as every other logit is.
        return {"logits": (total / count).clamp_min_(torch.finfo(torch.float32).tiny).log_()}

    def _seen(self, shown: Tensor) -> Tensor:
        """Probabilities of pictures as they are shown, at their size."""
        total: Tensor | None = None
        count = shown.new_zeros(shown.shape[-2:])
        for rows, columns in windows(
            (shown.shape[-2], shown.shape[-1]), self.how.window, self.how.stride
        ):
            part = shown[..., rows, columns]
            found = upsampled(self.model(part)["logits"], (part.shape[-2], part.shape[-1])).softmax(
                1
            )
            if total is None:
                total = found.new_zeros(*found.shape[:2], *shown.shape[-2:])
            total[..., rows, columns] += found
            count[rows, columns] += 1
        assert total is not None
        return total / count


def windows(size: Size, window: Size | None, stride: Size | None) -> Iterator[tuple[slice, slice]]:
    """Windows that cover a picture; the last of a row or a column is moved back to end with it."""
    if window is None or stride is None:
        yield slice(0, size[0]), slice(0, size[1])
        return
    for top in _starts(size[0], window[0], stride[0]):
        for left in _starts(size[1], window[1], stride[1]):
            yield (
                slice(top, min(size[0], top + window[0])),
                slice(left, min(size[1], left + window[1])),
            )


def _starts(side: int, window: int, stride: int) -> list[int]:
    last = max(0, side - window)
    return [*range(0, last, stride), last]


def _zoomed(images: Tensor, scale: float) -> Tensor:
    """Images at another scale: bilinear, antialiased where they shrink, sides rounded to multiples of 32."""
    if scale == 1:
        return images
    size = [max(1, round(side * scale / MULTIPLE)) * MULTIPLE for side in images.shape[-2:]]
    return F.interpolate(
        images, size=size, mode="bilinear", align_corners=False, antialias=scale < 1
    )
