"""What the street of ``scenes`` is painted on: keyed dice, grain, and a canvas of materials.

Labels must come out equal on every machine. So the dice take raw words of Philox (numpy keeps those fixed, unlike the streams of its
distributions), geometry is + - * / alone (correctly rounded by IEEE 754), and no drawing library is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np

DESIGN = (192, 256)
"""(H, W) of the sheet that all coordinates are given on; other sizes stretch it."""

GRAIN, ASPHALT, FOLIAGE, CLOUD = range(4)
"""Textures. A material has one; the same texture on two classes is what makes them alike from near."""

Colour = tuple[int, int, int]
T = TypeVar("T")


class Dice:
    """Whole numbers from (seed, stream, index), the same everywhere and whatever was drawn before for other images."""

    def __init__(self, seed: int, stream: int, index: int) -> None:
        key = np.array([seed & 0xFFFF_FFFF_FFFF_FFFF, (stream << 56) | index], dtype=np.uint64)
        self._source = np.random.Philox(key=key)
        self._words: list[int] = []

    def between(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        if not self._words:
            self._words = (self._source.random_raw(512) >> np.uint64(32)).tolist()
        return low + ((self._words.pop() * (high - low + 1)) >> 32)

    def chance(self, percent: int) -> bool:
        return self.between(0, 99) < percent

    def pick(self, options: Sequence[T]) -> T:
        return options[self.between(0, len(options) - 1)]

    def vary(self, colour: Colour, by: int) -> Colour:
        """The colour, a little lighter or darker and a little off in each channel."""
        lift = self.between(-by, by)
        half = by // 2
        r, g, b = colour
        return (
            r + lift + self.between(-half, half),
            g + lift + self.between(-half, half),
            b + lift + self.between(-half, half),
        )


def _smooth(field: np.ndarray, radius_y: int, radius_x: int) -> np.ndarray:
    """Box mean on a torus, in whole numbers."""
    for axis, radius in ((0, radius_y), (1, radius_x)):
        width = 2 * radius + 1
        wrapped = np.concatenate(
            [field.take(range(-radius, 0), axis), field, field.take(range(radius + 1), axis)], axis
        )
        total = np.cumsum(wrapped, axis=axis, dtype=np.int64)
        total = np.concatenate([np.zeros_like(total.take([0], axis)), total], axis)
        n = field.shape[axis]
        field = (total.take(range(width, width + n), axis) - total.take(range(n), axis)) // width
    return field


def _spread(field: np.ndarray, amplitude: int) -> np.ndarray:
    """Centre a field and scale its mean deviation to ``amplitude`` grey levels, in whole numbers."""
    field = field - int(field.sum()) // field.size
    mean_deviation = max(1, int(np.abs(field).sum()) // field.size)
    return np.clip(field * amplitude // mean_deviation, -3 * amplitude, 3 * amplitude)


MARGIN = 128
"""How far the textures can be shifted, in pixels."""


@lru_cache(maxsize=4)
def textures(height: int, width: int) -> np.ndarray:
    """``[4, H + MARGIN, W + MARGIN]`` int8 brightness offsets, one layer per texture; an image takes a window of them.

    Every material has the fine grain of layer 0; the other layers hold what their texture adds to it.
    """
    shape = (height + MARGIN, width + MARGIN)
    words = np.random.Philox(key=np.array([2, 71], dtype=np.uint64)).random_raw(
        4 * shape[0] * shape[1]
    )
    white = ((words >> np.uint64(44)).astype(np.int64) - (1 << 19)).reshape(4, *shape)
    unit = max(1, round(min(height / DESIGN[0], width / DESIGN[1])))
    fine = _spread(white[0], 3)
    leaves = _smooth(_smooth(white[2], 2 * unit, 2 * unit), unit, unit)
    clouds = _smooth(_smooth(white[3], 5 * unit, 16 * unit), 4 * unit, 12 * unit)
    layers = [
        fine,
        _spread(white[1], 4) + _spread(_smooth(white[2], 3 * unit, 3 * unit), 3) - fine,
        _spread(leaves, 13),
        _spread(clouds, 6),
    ]
    return np.stack(layers).astype(np.int8)


BRIGHT = 4096
"""Stored in place of brightness offset 0, so that no stack of shadows borrows from the label."""


def cell(material: int, label: int) -> int:
    """A cell of the canvas without brightness offset: 10 bits of material, 8 of label, the rest brightness."""
    return material | label << 10 | BRIGHT << 18


MATERIAL = (1 << 10) - 1


@lru_cache(maxsize=4)
def _axis(pixels: int, length: int, unit: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each pixel of an axis: where its middle lies on the design sheet, and +1 or -1, alternating every ``unit`` pixels."""
    index = np.arange(pixels)
    middles = ((index + 0.5) / (pixels / length)).astype(np.float32)
    signs = (1 - 2 * (index // unit & 1)).astype(np.int32)
    middles.flags.writeable = signs.flags.writeable = False
    return middles, signs


class Canvas:
    """A map of cells, each a material, a label and a brightness offset in one number, so that a stroke of paint is a single write.

    Colours are looked up once, at the end, which keeps an image within its milliseconds. ``blend`` says how far a material with two
    colours is at the second (256 = wholly). Coordinates are those of the design sheet, x to the right and y down; later paint covers
    earlier paint. ``ys`` [H, 1] and ``xs`` [W] are the middles of the pixels on the sheet; ``down`` [H, 1] and ``across`` [W] the signs
    of the fine patterns, which alternate every 2 pixels of the sheet. ``paint`` and ``shade`` work at once; all other
    strokes wait for ``finish``, which measures all ellipses together: many small calls of numpy would take most of the time.
    """

    _wide: np.ndarray
    _high: np.ndarray

    def __init__(self, size: tuple[int, int]) -> None:
        self.height, self.width = size
        self.fy, self.fx = size[0] / DESIGN[0], size[1] / DESIGN[1]
        self.cells = np.zeros(size, np.int32)
        self.blend = np.zeros((size[0], 1), np.int16)
        unit = max(1, int(min(self.fy, self.fx) * 2 + 0.5))
        ys, down = _axis(self.height, DESIGN[0], unit)
        self.ys, self.down = ys[:, None], down[:, None]
        self.xs, self.across = _axis(self.width, DESIGN[1], unit)
        self._strokes: list[Callable[[], None]] = []
        self._discs: list[tuple[float, float, float, float]] = []
        self._known: dict[tuple[Colour, Colour, int], int] = {}

    def material(self, colour: Colour, other: Colour | None = None, texture: int = GRAIN) -> int:
        """The number of a material (4 n + its texture); where ``blend`` is 256 it shows its ``other`` colour."""
        return self._known.setdefault(
            (colour, other or colour, texture), 4 * len(self._known) + texture
        )

    def span(self, low: float, high: float, vertical: bool) -> slice:
        """Pixels from low to high, at least one wide; it may reach beyond the sheet, where indexing ends it."""
        factor = self.fy if vertical else self.fx
        first = int(low * factor + 0.5) if low > 0 else 0
        last = int(high * factor + 0.5) if high > 0 else 0
        if last <= first and high > low >= 0:
            last = first + 1
        return slice(first, last)

    def box(self, x0: float, y0: float, x1: float, y1: float) -> tuple[slice, slice]:
        return self.span(y0, y1, True), self.span(x0, x1, False)

    def paint(self, area: tuple[slice, slice], material: int, label: int, mask: np.ndarray) -> None:
        """Cover the part of an area where ``mask`` is true."""
        np.copyto(self.cells[area], cell(material, label), where=mask)

    def shade(
        self, area: tuple[slice, slice], levels: int | np.ndarray, mask: np.ndarray | bool = True
    ) -> None:
        """Make the part of an area where ``mask`` is true brighter by ``levels`` grey levels."""
        view = self.cells[area]
        np.add(view, levels * (1 << 18), out=view, where=mask)

    def later(self, stroke: Callable[[], None]) -> None:
        """Do this when its turn comes among the strokes that wait."""
        self._strokes.append(stroke)

    def rect(self, x0: float, y0: float, x1: float, y1: float, material: int, label: int) -> None:
        area, paint = self.box(x0, y0, x1, y1), cell(material, label)
        self.later(lambda: self.cells.__setitem__(area, paint))

    def ellipse(
        self, x0: float, y0: float, x1: float, y1: float, material: int, label: int
    ) -> None:
        area, number = self._disc(x0, y0, x1, y1)
        self.later(lambda: self.paint(area, material, label, self._inside(number, area)))

    def shadow(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """An ellipse in which all is darker."""
        area, number = self._disc(x0, y0, x1, y1)
        self.later(lambda: self.shade(area, -26, self._inside(number, area)))

    def _disc(self, x0: float, y0: float, x1: float, y1: float) -> tuple[tuple[slice, slice], int]:
        self._discs.append((x0, y0, x1, y1))
        return self.box(x0, y0, x1, y1), len(self._discs) - 1

    def _inside(self, number: int, area: tuple[slice, slice]) -> np.ndarray:
        return self._wide[number, area[1]] <= self._high[number, area[0]]

    def finish(self) -> None:
        """Do the strokes that wait, once, after the last. A pixel is in an ellipse if (ry / rx)^2 dx^2 <= ry^2 - dy^2."""
        x0, y0, x1, y1 = np.array(self._discs, np.float64).reshape(-1, 4, 1).swapaxes(0, 1)
        rx, ry = (x1 - x0) / 2, (y1 - y0) / 2
        # One side per column [N, W], the other per row [N, H, 1], in the order of operations that the labels hang on.
        dx, dy = (
            at - middle.astype(np.float32)
            for at, middle in ((self.xs, (x0 + x1) / 2), (self.ys[:, 0], (y0 + y1) / 2))
        )
        self._wide = dx * dx * (ry * ry / (rx * rx)).astype(np.float32)
        self._high = ((ry * ry).astype(np.float32) - dy * dy)[:, :, None]
        for stroke in self._strokes:
            stroke()
        self._strokes.clear()  # they hold the canvas: without this only the cycle collector would free it

    def render(self, shift: tuple[int, int], mirrored: bool) -> tuple[np.ndarray, np.ndarray]:
        """The picture, ``[H, W, 3]`` uint8, and the labels, ``[H, W]`` uint8."""
        colours = np.zeros((2, 3, 4 * len(self._known)), np.int16)
        both = np.array([(near, far) for near, far, _ in self._known], np.int16)
        colours[:, :, list(self._known.values())] = both.transpose(1, 2, 0)
        cells = self.cells[:, ::-1].copy() if mirrored else self.cells
        materials = (cells & MATERIAL).astype(np.int16)
        numbers = materials.astype(np.intp)
        labels = (cells >> 10).astype(np.uint8)
        grain = (cells >> 18).astype(np.int16)
        grain -= BRIGHT
        grain += self._texture(materials, shift)
        two = [n for (near, far, _), n in self._known.items() if near != far]
        steps = [
            (
                (materials == n).astype(np.int16),
                (self.blend * (colours[1, :, n] - colours[0, :, n])) >> 8,
            )
            for n in two
        ]
        picture, plane = np.empty((self.height, self.width, 3), np.uint8), np.empty_like(grain)
        for channel in range(3):  # plane by plane: numpy is slow on an innermost axis of three
            colours[0, channel].take(numbers, mode="clip", out=plane)
            plane += grain
            for mask, step in steps:
                plane += mask * step[:, channel : channel + 1]
            np.clip(plane, 0, 255, out=plane)
            picture[:, :, channel] = plane
        return picture, labels

    def _texture(self, materials: np.ndarray, shift: tuple[int, int]) -> np.ndarray:
        layers = textures(self.height, self.width)[
            :, shift[0] : shift[0] + self.height, shift[1] : shift[1] + self.width
        ]
        kinds = materials.astype(np.int8) & 3
        texture = layers[GRAIN].copy()
        for kind in (ASPHALT, FOLIAGE, CLOUD):
            texture += (kinds == kind).view(np.int8) * layers[kind]
        return texture
