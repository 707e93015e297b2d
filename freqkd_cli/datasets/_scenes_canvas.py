"""The canvas of ``scenes``: materials, labels, brightness and textures.

Labels must be equal on every machine. So geometry uses + - * / alone (correctly rounded by IEEE
754), and no drawing library.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from freqkd_cli.datasets._scenes_dice import Color

DESIGN = (192, 256)
"""(H, W) of the design sheet, on which coordinates are given. Other sizes stretch it."""

GRAIN, ASPHALT, FOLIAGE, CLOUD = range(4)
"""Textures. Each material has one. Two classes with the same texture look alike from near."""


def _smooth(field: np.ndarray, radius_y: int, radius_x: int) -> np.ndarray:
    """Return the box mean on a torus, in whole numbers."""
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
    """Center a field and scale its mean deviation to ``amplitude`` levels, in whole numbers."""
    field = field - int(field.sum()) // field.size
    mean_deviation = max(1, int(np.abs(field).sum()) // field.size)
    return np.clip(field * amplitude // mean_deviation, -3 * amplitude, 3 * amplitude)


MARGIN = 128  # largest shift of the textures, in pixels


@lru_cache(maxsize=4)
def textures(height: int, width: int) -> np.ndarray:
    """Return ``[4, H + MARGIN, W + MARGIN]`` int8 brightness offsets, one layer per texture.

    An image uses a window of them. Every material has the fine grain of layer 0; the other layers
    hold what their texture adds to it.
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
"""Stored value of brightness offset 0, so that shadows never borrow bits of the label."""


def cell(material: int, label: int) -> int:
    """Return a cell of the canvas without brightness offset.

    It has 10 bits of material and 8 of label; the rest is brightness.
    """
    return material | label << 10 | BRIGHT << 18


MATERIAL = (1 << 10) - 1


@lru_cache(maxsize=4)
def _axis(pixels: int, length: int, unit: int) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each pixel of an axis, its middle on the design sheet and a sign.

    The sign alternates every ``unit`` pixels.
    """
    index = np.arange(pixels)
    middles = ((index + 0.5) / (pixels / length)).astype(np.float32)
    signs = (1 - 2 * (index // unit & 1)).astype(np.int32)
    middles.flags.writeable = signs.flags.writeable = False
    return middles, signs


class Canvas:
    """A map of cells, each a material, a label and a brightness offset in one number.

    So a stroke of paint is a single write, and colors are looked up once, at the end. Coordinates
    are those of the design sheet, x to the right and y down. Later paint covers earlier paint.
    ``paint`` and ``shade`` take effect at once. Other strokes wait for ``finish``, which measures
    all ellipses together: many small numpy calls would be slow.

    Attributes:
        blend: share of the second color in materials that have two (256 = all).
        ys, xs: ``[H, 1]`` and ``[W]``, the middles of the pixels on the sheet.
        down, across: ``[H, 1]`` and ``[W]``, the signs of the fine patterns, which alternate every
            2 pixels of the sheet.
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
        self._known: dict[tuple[Color, Color, int], int] = {}

    def material(self, color: Color, other: Color | None = None, texture: int = GRAIN) -> int:
        """Return the number of a material: 4 n + its texture.

        Where ``blend`` is 256 it shows its ``other`` color.
        """
        return self._known.setdefault(
            (color, other or color, texture), 4 * len(self._known) + texture
        )

    def span(self, low: float, high: float, vertical: bool) -> slice:
        """Return the pixels from low to high, at least one.

        The slice may reach beyond the sheet; indexing cuts it.
        """
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
        """Queue a stroke for ``finish``."""
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
        """Darken an ellipse."""
        area, number = self._disc(x0, y0, x1, y1)
        self.later(lambda: self.shade(area, -26, self._inside(number, area)))

    def _disc(self, x0: float, y0: float, x1: float, y1: float) -> tuple[tuple[slice, slice], int]:
        self._discs.append((x0, y0, x1, y1))
        return self.box(x0, y0, x1, y1), len(self._discs) - 1

    def _inside(self, number: int, area: tuple[slice, slice]) -> np.ndarray:
        return self._wide[number, area[1]] <= self._high[number, area[0]]

    def finish(self) -> None:
        """Paint the queued strokes, once, after the last.

        A pixel is in an ellipse if (ry / rx)^2 dx^2 <= ry^2 - dy^2.
        """
        x0, y0, x1, y1 = np.array(self._discs, np.float64).reshape(-1, 4, 1).swapaxes(0, 1)
        rx, ry = (x1 - x0) / 2, (y1 - y0) / 2
        # One side per column [N, W], the other per row [N, H, 1]. The labels depend on this order
        # of operations.
        dx, dy = (
            at - middle.astype(np.float32)
            for at, middle in ((self.xs, (x0 + x1) / 2), (self.ys[:, 0], (y0 + y1) / 2))
        )
        self._wide = dx * dx * (ry * ry / (rx * rx)).astype(np.float32)
        self._high = ((ry * ry).astype(np.float32) - dy * dy)[:, :, None]
        for stroke in self._strokes:
            stroke()
        # The strokes refer to the canvas: otherwise only the cycle collector would free it.
        self._strokes.clear()

    def render(self, shift: tuple[int, int], mirrored: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return the image, ``[H, W, 3]`` uint8, and the labels, ``[H, W]`` uint8."""
        colors = np.zeros((2, 3, 4 * len(self._known)), np.int16)
        both = np.array([(near, far) for near, far, _ in self._known], np.int16)
        colors[:, :, list(self._known.values())] = both.transpose(1, 2, 0)
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
                (self.blend * (colors[1, :, n] - colors[0, :, n])) >> 8,
            )
            for n in two
        ]
        image, plane = np.empty((*materials.shape, 3), np.uint8), np.empty_like(grain)
        for channel in range(3):  # numpy is slow on an innermost axis of three
            colors[0, channel].take(numbers, mode="clip", out=plane)
            plane += grain
            for mask, step in steps:
                plane += mask * step[:, channel : channel + 1]
            np.clip(plane, 0, 255, out=plane)
            image[:, :, channel] = plane
        return image, labels

    def _texture(self, materials: np.ndarray, shift: tuple[int, int]) -> np.ndarray:
        layers = textures(self.height, self.width)[
            :, shift[0] : shift[0] + self.height, shift[1] : shift[1] + self.width
        ]
        kinds = materials.astype(np.int8) & 3
        texture = layers[GRAIN].copy()
        for kind in (ASPHALT, FOLIAGE, CLOUD):
            texture += (kinds == kind).view(np.int8) * layers[kind]
        return texture
