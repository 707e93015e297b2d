"""A view as data: crop, scale and colors of an image, and how they are drawn from a key.

The key of a view is (view_seed, index, draw). It seeds a counter-based generator (Philox) whose
uniform numbers have fixed places. So a view is the same on every machine, in every worker and in
every batch, and switching one change off does not affect the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

import numpy as np

from freqkd_cli.errors import UsageError

MULTIPLE = 32
"""The view ``whole`` is padded to multiples of this: then all grids cover the same extent."""

BOX_SIDES = (48, 96)
"""Smallest and largest side, in pixels, of the box that ``isolate`` keeps."""

LARGEST_BLUR = 4.0
"""Largest standard deviation of the blur, in pixels of the view."""

_GEOMETRY, _COLOR, _PLACES = 1, 2, 8


@dataclass(frozen=True)
class ViewSpec:
    """How views are drawn.

    Attributes:
        size: height and width of a view in pixels.
        scale: smallest and largest zoom; 1 = the image's own pixels.
        flip: mirror half of the views.
        color: strength c of the color changes: brightness, contrast and saturation within 1 +- c,
            hue within +- c / 4 turns.
        blur: probability of a Gaussian blur with a standard deviation up to 4 px.
        isolate: probability that only a random box of 48 to 96 px stays visible; the rest is grey,
            void and not valid.
        teacher_sees: ``same`` image as the student, or ``clean``: geometry only. With clean the
            student's colors are redrawn every epoch.

    Raises:
        UsageError: a number outside its range.
    """

    size: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    flip: bool = True
    color: float = 0.0
    blur: float = 0.0
    isolate: float = 0.0
    teacher_sees: Literal["same", "clean"] = "same"

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise UsageError(
                "data.size is not a height and a width",
                got=self.size,
                need="two positive whole numbers",
                key="size",
            )
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise UsageError(
                "augment.scale is not a range",
                got=self.scale,
                need="0 < smallest <= largest",
                key="augment.scale",
            )
        for name in ("color", "blur", "isolate"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(
                    f"augment.{name} is outside its range",
                    got=getattr(self, name),
                    need="a number from 0 to 1",
                    key=f"augment.{name}",
                )
        if self.teacher_sees not in ("same", "clean"):
            raise UsageError(
                "data.teacher_sees is unknown",
                got=self.teacher_sees,
                need="same or clean",
                key="teacher_sees",
            )


@dataclass(frozen=True)
class View:
    """One view of one image, as plain numbers.

    Geometry comes first, in this order: the image is zoomed by ``scale``, the box (top, left,
    height, width) of the zoomed image is cropped, and the result is mirrored. A box may extend
    beyond the image: pixels outside are grey 0.5, void and not valid. ``kept`` is the box (top,
    left, height, width) of the finished view that stays visible, or None for all of it.

    Colors follow, in the order of the fields: factors with 1 = unchanged, ``hue`` in turns,
    ``blur`` as a standard deviation in pixels.
    """

    scale: float
    top: int
    left: int
    height: int
    width: int
    flip: bool = False
    kept: tuple[int, int, int, int] | None = None
    brightness: float = field(default=1.0, metadata={"color": True})
    contrast: float = field(default=1.0, metadata={"color": True})
    saturation: float = field(default=1.0, metadata={"color": True})
    hue: float = field(default=0.0, metadata={"color": True})
    blur: float = field(default=0.0, metadata={"color": True})

    @property
    def changes_color(self) -> bool:
        return any(
            getattr(self, f.name) != f.default for f in fields(self) if f.metadata.get("color")
        )


def zoomed(image_size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Return height and width of the zoomed image, rounded half up."""
    return max(1, int(image_size[0] * scale + 0.5)), max(1, int(image_size[1] * scale + 0.5))


def draw(
    spec: ViewSpec,
    image_size: tuple[int, int],
    *,
    view_seed: int,
    index: int,
    draw: int,
    color_draw: int | None = None,
) -> View:
    """Return the view of the key (view_seed, index, draw).

    Args:
        spec: what may change and by how much.
        image_size: height and width of the image.
        view_seed: ``data.view_seed``.
        index: number of the image in its split.
        draw: how often the image was drawn before, modulo ``data.views`` where views are stored.
        color_draw: the same for the colors, if they are redrawn more often than the geometry;
            default ``draw``.
    """
    u = _uniform(_GEOMETRY, view_seed, index, draw)
    height, width = spec.size
    scale = spec.scale[0] + (spec.scale[1] - spec.scale[0]) * u[0]
    rows, columns = zoomed(image_size, scale)
    top, left = _place(u[1], rows - height), _place(u[2], columns - width)
    flip = bool(spec.flip and u[3] < 0.5)
    kept = None
    if u[4] < spec.isolate:
        left_in_view = left if not flip else columns - width - left
        kept = _box(u[5:8], (height, width), (-top, -left_in_view, rows, columns))
    colors = _colors(spec, view_seed, index, draw if color_draw is None else color_draw)
    return View(scale, top, left, height, width, flip=flip, kept=kept, **colors)


def whole(image_size: tuple[int, int]) -> View:
    """Return the whole image, padded at the bottom and on the right to multiples of 32."""
    height, width = (-(-side // MULTIPLE) * MULTIPLE for side in image_size)
    return View(1.0, 0, 0, height, width)


def _uniform(purpose: int, view_seed: int, index: int, draw: int) -> list[float]:
    key = [purpose, view_seed & (2**64 - 1), index, draw]
    return (
        np.random.Generator(np.random.Philox(np.random.SeedSequence(key))).random(_PLACES).tolist()
    )


def _place(u: float, slack: int) -> int:
    """Return a whole number between 0 and ``slack``, ends included.

    A negative slack puts a small image somewhere inside the view.
    """
    return min(0, slack) + int(u * (abs(slack) + 1))


def _box(
    u: list[float], size: tuple[int, int], image: tuple[int, int, int, int]
) -> tuple[int, int, int, int]:
    """Return a square box in the visible part of the image.

    Along an axis where that part is smaller, the box is all of it.
    """
    side = BOX_SIDES[0] + int(u[0] * (BOX_SIDES[1] - BOX_SIDES[0] + 1))
    spans = []
    for place, extent, start, length in zip(u[1:], size, image[:2], image[2:], strict=True):
        first, last = max(0, start), min(extent, start + length)
        spans.append((first + _place(place, max(0, last - first - side)), min(side, last - first)))
    return spans[0][0], spans[1][0], spans[0][1], spans[1][1]


def _colors(spec: ViewSpec, view_seed: int, index: int, draw: int) -> dict[str, float]:
    if not (spec.color or spec.blur):
        return {}
    u = _uniform(_COLOR, view_seed, index, draw)
    around = [spec.color * (2 * x - 1) for x in u[:4]]
    return {
        "brightness": 1 + around[0],
        "contrast": 1 + around[1],
        "saturation": 1 + around[2],
        "hue": around[3] / 4,
        "blur": LARGEST_BLUR * u[5] if u[4] < spec.blur else 0.0,
    }
