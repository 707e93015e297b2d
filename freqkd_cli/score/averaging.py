"""Optional averaging at test time: mirrored, at several scales, in windows.

The default everywhere else is one pass over the whole image. What is averaged are softmax
probabilities:

- The image is padded as for a plain pass (gray, at the bottom and right, to multiples of 32). The
  model sees it at every scale, as it is and mirrored.
- The logits are upsampled to the size that the model saw (bilinear, align_corners False) and turned
  into probabilities. Those of windows are averaged where windows overlap.
- The map is mirrored back and resized (bilinear, align_corners False) to the padded image. All maps
  have the same weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqkd_cli.build.exported_model import returns_labels
from freqkd_cli.errors import UsageError
from freqkd_cli.views.upsample import most_likely, require_finite, upsampled

MULTIPLE = 32
"""Sides of windows and scaled images are multiples of this, so that every grid covers them."""
WINDOW = f"H,W, both multiples of {MULTIPLE}, such as 256,256"
SCALES = "numbers from 0.1 to 8, each once, such as 0.75,1.0,1.25"
STRIDE = "H,W in pixels, such as 128,128"

Size = tuple[int, int]


@dataclass(frozen=True)
class Averaging:
    """What is averaged.

    Attributes:
        flip: also the image mirrored left to right.
        scales: of the image; sides are rounded to multiples of 32.
        window: (H, W) of the windows that an image is cut into, or None for the whole image. An
            image that is smaller is one window.
        stride: pixels from one window to the next.
    """

    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    window: Size | None = None
    stride: Size | None = None

    @property
    def plain(self) -> bool:
        """Whether it is one pass over the whole image."""
        return self == Averaging()

    @property
    def only_windows(self) -> bool:
        """Whether it is one pass over every window."""
        return self.window is not None and not self.flip and self.scales == (1.0,)

    def to_json(self) -> dict[str, Any] | None:
        """``test_time`` of a result; None for a plain pass."""
        if self.plain:
            return None
        return {
            "text": str(self),
            "flip": self.flip,
            "scales": list(self.scales),
            "window": self.window and list(self.window),
            "stride": self.stride and list(self.stride),
            "averaged": "softmax probabilities",
        }

    def __str__(self) -> str:
        parts = ["flip"] if self.flip else []
        if self.scales != (1.0,):
            parts.append(f"scales {' '.join(f'{scale:g}' for scale in self.scales)}")
        if self.window and self.stride:
            parts.append("windows {}x{} every {}x{}".format(*self.window, *self.stride))
        if not parts:
            return "one pass over the whole image"
        return f"{', '.join(parts)}; mean of softmax probabilities"


def parse(flip: bool, scales: str | None, window: str | None, stride: str | None) -> Averaging:
    """Read the options ``--flip --scales --slide --stride``; the default stride is half a window.

    Raises:
        UsageError: no numbers, numbers out of range, or a stride without windows.
    """
    factors = (1.0,) if scales is None else tuple(_numbers("--scales", scales, float, 0, SCALES))
    if not all(0.1 <= factor <= 8 for factor in factors) or len(set(factors)) < len(factors):
        raise UsageError("--scales has numbers that cannot be used", got=scales, need=SCALES)
    if stride is not None and window is None:
        raise UsageError(
            "--stride needs windows", got=f"--stride {stride} without --slide", need="--slide H,W"
        )
    sides = None if window is None else _size("--slide", window, WINDOW)
    if sides and any(side < MULTIPLE or side % MULTIPLE for side in sides):
        raise UsageError("--slide has sides that cannot be used", got=window, need=WINDOW)
    half = (sides[0] // 2, sides[1] // 2) if sides else None
    steps = half if stride is None else _size("--stride", stride, STRIDE)
    pairs = zip(steps, sides, strict=True) if steps and sides else ()
    if not all(1 <= step <= side for step, side in pairs):
        raise UsageError(
            "--stride must not be larger than the window",
            got=f"--stride {stride} --slide {window}",
            need="1 up to the window's side",
        )
    return Averaging(flip, factors, sides, steps)


def require_class_scores(model: nn.Module, averaging: Averaging) -> None:
    """Refuse to average an exported file whose output is labels, except over windows.

    Raises:
        UsageError: ``--flip`` or ``--scales`` was given for such a file.
    """
    if returns_labels(model) and not (averaging.plain or averaging.only_windows):
        raise UsageError(
            f"{model.path} returns labels, which --flip and --scales cannot average",
            need="a file that returns class scores",
            tip="leave them out, or freqkd export RUN --head logits",
        )


def _numbers(option: str, text: str, kind: type, count: int, need: str) -> list[Any]:
    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or (count and len(numbers) != count):
        raise UsageError(f"{option} cannot be read", got=text or "nothing", need=need)
    return numbers


def _size(option: str, text: str, need: str) -> Size:
    height, width = _numbers(option, text, int, 2, need)
    return height, width


class Averaged(nn.Module):
    """A model whose ``logits`` are the logarithm of averaged probabilities, at the images' size.

    It is scored like any other model.
    """

    def __init__(self, model: nn.Module, averaging: Averaging) -> None:
        super().__init__()
        self.model, self.averaging = model, averaging

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """``[B, 3, H, W]`` RGB in [0, 1] -> ``{"logits": [B, K, H, W]}``."""
        size = (images.shape[-2], images.shape[-1])
        total, count = torch.zeros((), device=images.device), 0
        for scale in self.averaging.scales:
            scaled = _scaled(images, scale)
            for mirrored in (False, True) if self.averaging.flip else (False,):
                shares = self._shares(scaled.flip(-1) if mirrored else scaled)
                total = total + upsampled(shares.flip(-1) if mirrored else shares, size)
                count += 1
        # A probability of 0 would have no finite logarithm, which a score refuses.
        return {"logits": (total / count).clamp_min_(torch.finfo(torch.float32).tiny).log_()}

    def _shares(self, images: Tensor) -> Tensor:
        """Probabilities at the size of the images."""
        size, averaging = (images.shape[-2], images.shape[-1]), self.averaging
        total: Tensor | None = None
        count = images.new_zeros(size)
        for rows, columns in windows(size, averaging.window, averaging.stride):
            shares = _shares_of(self.model(images[..., rows, columns])["logits"], rows, columns)
            if total is None:
                total = shares.new_zeros(*shares.shape[:2], *size)
            total[..., rows, columns] += shares
            count[rows, columns] += 1
        assert total is not None
        return total / count


def labels_in_windows(
    model: nn.Module, image: Tensor, window: Size, stride: Size, name: str
) -> Tensor:
    """Labels ``[1, H, W]`` of an image ``[1, 3, H, W]`` of any size, from averaged windows.

    They are those of :class:`Averaged` with the same windows. Only one row of windows is held in
    memory: K times the window's height times the image's width.

    Raises:
        FreqKDError: the logits of the image, called ``name``, are not finite.
    """
    height, width = image.shape[-2:]
    tops = _starts(height, window[0], stride[0])
    band, first, labels = None, 0, []  # the sums of probabilities from row ``first`` on
    for top, following in zip(tops, [*tops[1:], height], strict=True):
        rows = slice(top, min(height, top + window[0]))
        for left in _starts(width, window[1], stride[1]):
            columns = slice(left, min(width, left + window[1]))
            logits = model(image[..., rows, columns])["logits"]
            require_finite(logits, [name])
            shares = _shares_of(logits, rows, columns)
            if band is None:
                band = shares.new_zeros(*shares.shape[:2], 0, width)
            band = F.pad(band, (0, 0, 0, rows.stop - first - band.shape[-2]))
            band[..., top - first : rows.stop - first, columns] += shares
        assert band is not None
        # A pixel's number of windows is the same for all classes: the largest sum decides.
        labels.append(most_likely(band[..., : following - first, :]))
        band, first = band[..., following - first :, :], following
    return torch.cat(labels, dim=1)


def _shares_of(logits: Tensor, rows: slice, columns: slice) -> Tensor:
    """Probabilities at the size of a window."""
    size = (rows.stop - rows.start, columns.stop - columns.start)
    return upsampled(logits, size).softmax(1)


def windows(size: Size, window: Size | None, stride: Size | None) -> Iterator[tuple[slice, slice]]:
    """Windows that cover an image; the last of a row or column is moved back to end with it."""
    if window is None or stride is None:
        yield slice(0, size[0]), slice(0, size[1])
        return
    for top in _starts(size[0], window[0], stride[0]):
        for left in _starts(size[1], window[1], stride[1]):
            bottom, right = min(size[0], top + window[0]), min(size[1], left + window[1])
            yield slice(top, bottom), slice(left, right)


def _starts(side: int, window: int, stride: int) -> list[int]:
    last = max(0, side - window)
    return [*range(0, last, stride), last]


def _scaled(images: Tensor, scale: float) -> Tensor:
    """Images at another scale, their sides rounded to multiples of 32.

    Bilinear, antialiased where they shrink.
    """
    if scale == 1:
        return images
    size = [max(1, round(side * scale / MULTIPLE)) * MULTIPLE for side in images.shape[-2:]]
    return F.interpolate(
        images, size=size, mode="bilinear", align_corners=False, antialias=scale < 1
    )
