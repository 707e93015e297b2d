"""A view as data: which part of a picture is seen, at what scale, in what colours; and how its key draws it.

The key of a view is (view_seed, index, draw). It seeds a counter-based generator (Philox) whose uniform numbers have fixed places, so a
view is the same on every machine, in every worker and in every batch, and switching one change off leaves the others where they were.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

import numpy as np

from freqkd_cli.errors import UsageError

MULTIPLE = 32
"""The view ``whole`` is padded to multiples of this, so that grids of every stride cover the same extent."""

BOX_SIDES = (48, 96)
"""Smallest and largest side, in pixels, of the box that ``isolate`` keeps."""

LARGEST_BLUR = 4.0
"""Largest standard deviation of the blur, in pixels of the view."""

_GEOMETRY, _COLOUR, _PLACES = 1, 2, 8


@dataclass(frozen=True)
class ViewSpec:
    """How views are drawn.

    Attributes:
        size: height and width of a view in pixels.
        scale: smallest and largest zoom; 1 = the picture's own pixels.
        flip: mirror half of the views.
        color: strength c of the colour changes: brightness, contrast and saturation within 1 +- c, hue within +- c / 4 turns.
        blur: probability of a Gaussian blur with a standard deviation up to 4 px.
        isolate: probability that only a random box of 48 to 96 px stays visible, the rest being grey, void and not valid.
        teacher_sees: ``same`` picture as the student, or ``clean``: geometry only, and then the student's colours are redrawn every epoch.

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
                "a view needs a height and a width",
                got=self.size,
                need="two positive whole numbers",
            )
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise UsageError(
                "augment.scale is not a range", got=self.scale, need="0 < smallest <= largest"
            )
        for name in ("color", "blur", "isolate"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(
                    f"augment.{name} is outside its range",
                    got=getattr(self, name),
                    need="a number from 0 to 1",
                )
        if self.teacher_sees not in ("same", "clean"):
            raise UsageError(
                "teacher_sees has two values", got=self.teacher_sees, need="same or clean"
            )


@dataclass(frozen=True)
class View:
    """One view of one picture, as plain numbers.

    Geometry happens in this order: the picture is zoomed by ``scale``, the box (top, left, height, width) of the zoomed picture is cut out,
    and the result is mirrored. A box may leave the picture: what lies outside is grey 0.5, void and not valid. ``kept`` is the one
    (top, left, height, width) of the finished view that stays visible, or None for all of it. Then come the colours, in the order of the
    fields: factors with 1 = unchanged, ``hue`` in turns, ``blur`` as a standard deviation in pixels.
    """

    scale: float
    top: int
    left: int
    height: int
    width: int
    flip: bool = False
    kept: tuple[int, int, int, int] | None = None
    brightness: float = field(default=1.0, metadata={"colour": True})
    contrast: float = field(default=1.0, metadata={"colour": True})
    saturation: float = field(default=1.0, metadata={"colour": True})
    hue: float = field(default=0.0, metadata={"colour": True})
    blur: float = field(default=0.0, metadata={"colour": True})

    @property
    def changes_colour(self) -> bool:
        return any(
            getattr(self, f.name) != f.default for f in fields(self) if f.metadata.get("colour")
        )


def zoomed(image_size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Height and width of the zoomed picture, rounded half up."""
    return max(1, int(image_size[0] * scale + 0.5)), max(1, int(image_size[1] * scale + 0.5))


def draw(
    spec: ViewSpec,
    image_size: tuple[int, int],
    *,
    view_seed: int,
    index: int,
    draw: int,
    colour_draw: int | None = None,
) -> View:
    """The view that the key (view_seed, index, draw) stands for.

    Args:
        spec: what may change and by how much.
        image_size: height and width of the picture.
        view_seed: ``data.view_seed``.
        index: number of the picture in its split.
        draw: how often the picture was drawn before, modulo ``data.views`` where views are stored.
        colour_draw: the same for the colours alone, where they are redrawn more often than the geometry; default ``draw``.
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
    colours = _colours(spec, view_seed, index, draw if colour_draw is None else colour_draw)
    return View(scale, top, left, height, width, flip, kept, **colours)


def whole(image_size: tuple[int, int]) -> View:
    """The picture as it is, padded at the bottom and on the right to multiples of 32. No randomness."""
    height, width = (-(-side // MULTIPLE) * MULTIPLE for side in image_size)
    return View(1.0, 0, 0, height, width)


def _uniform(purpose: int, view_seed: int, index: int, draw: int) -> list[float]:
    key = [purpose, view_seed & (2**64 - 1), index, draw]
    return (
        np.random.Generator(np.random.Philox(np.random.SeedSequence(key))).random(_PLACES).tolist()
    )


def _place(u: float, slack: int) -> int:
    """A whole number between 0 and ``slack``, ends included; a negative slack puts a small picture somewhere inside the view."""
    return min(0, slack) + int(u * (abs(slack) + 1))


def _box(
    u: list[float], size: tuple[int, int], picture: tuple[int, int, int, int]
) -> tuple[int, int, int, int]:
    """A square box that lies in the visible part of the picture, or all of that part along an axis where it is smaller."""
    side = BOX_SIDES[0] + int(u[0] * (BOX_SIDES[1] - BOX_SIDES[0] + 1))
    spans = []
    for place, extent, start, length in zip(u[1:], size, picture[:2], picture[2:], strict=True):
        first, last = max(0, start), min(extent, start + length)
        spans.append((first + _place(place, max(0, last - first - side)), min(side, last - first)))
    return spans[0][0], spans[1][0], spans[0][1], spans[1][1]


def _colours(spec: ViewSpec, view_seed: int, index: int, draw: int) -> dict[str, float]:
    if not (spec.color or spec.blur):
        return {}
    u = _uniform(_COLOUR, view_seed, index, draw)
    around = [spec.color * (2 * x - 1) for x in u[:4]]
    return {
        "brightness": 1 + around[0],
        "contrast": 1 + around[1],
        "saturation": 1 + around[2],
        "hue": around[3] / 4,
        "blur": LARGEST_BLUR * u[5] if u[4] < spec.blur else 0.0,
    }
