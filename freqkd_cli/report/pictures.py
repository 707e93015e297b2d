"""Label maps side by side with the image they belong to, in the data set's colours, with a legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from freqkd_cli.files import write_aside
from freqkd_cli.labels import IGNORE

VOID = (32, 32, 36)
"""Colour of ignored pixels."""

_GAP, _MARGIN, _SWATCH = 8, 16, 18
_TITLE, _TEXT, _LINE = 20, 16, 26
"""Pixels of a heading, of other text, and from line to line: readable at half the size."""
_PAPER, _INK, _QUIET = (255, 255, 255), (24, 24, 28), (110, 110, 118)

Panels = Mapping[str, np.ndarray]
Colour = tuple[int, ...]


def colour(labels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """``[H, W]`` labels as ``[H, W, 3]`` uint8 RGB; 255 and labels beyond the palette are void."""
    table = np.empty((256, 3), np.uint8)
    table[:] = VOID
    known = min(len(palette), IGNORE)
    table[:known] = palette[:known]
    return table[np.clip(labels, 0, IGNORE).astype(np.uint8)]


def comparison(rows: Sequence[Panels], classes: Sequence[str], palette: np.ndarray, path: Path, *, width: int = 256) -> None:
    """Write a PNG: one line per image, one column per panel, a legend of the classes that occur.

    Args:
        rows: for each image, heading -> picture ``[H, W, 3]`` uint8 or label map ``[h, w]``, in the order of the columns; a heading
            may have a second line after a line break. All rows have the headings of the first.
        classes, palette: names, and ``[K, 3]`` uint8 RGB.
        width: pixels of a column; panels keep the shape of the row's first one.
    """
    headings = list(rows[0])
    shapes = [next(iter(row.values())).shape for row in rows]
    sizes = [(width, round(width * shape[0] / shape[1])) for shape in shapes]
    total_width = 2 * _MARGIN + len(headings) * (width + _GAP) - _GAP
    label_maps = [panel for row in rows for panel in row.values() if panel.ndim == 2]
    names, plain = _legend(label_maps, classes, palette), ImageFont.load_default(_TEXT)
    legend = _flow(names, plain, total_width - 2 * _MARGIN)
    top = _MARGIN + _LINE * max(heading.count("\n") + 1 for heading in headings)
    bottom = _MARGIN + (legend[-1][1] + _LINE if legend else 0)
    height = top + sum(size[1] + _GAP for size in sizes) + bottom
    sheet = Image.new("RGB", (total_width, height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, heading in enumerate(headings):
        _draw_heading(pen, heading, (_MARGIN + column * (width + _GAP), _MARGIN - 6), width)
    y = top
    for row, size in zip(rows, sizes, strict=True):
        for column, heading in enumerate(headings):
            sheet.paste(_panel(row[heading], palette, size), (_MARGIN + column * (width + _GAP), y))
        y += size[1] + _GAP
    _draw_legend(pen, legend, y)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_aside(path, lambda file: sheet.save(file, "PNG", optimize=True))


def _legend(
    label_maps: Sequence[np.ndarray], classes: Sequence[str], palette: np.ndarray
) -> list[tuple[str, Colour]]:
    """Name and colour of every class that occurs, and of ignored pixels where there are any."""
    present = sorted({int(label) for labels in label_maps for label in np.unique(labels)})
    known = [label for label in present if label < len(classes)]
    names = [(classes[label], tuple(int(c) for c in palette[label])) for label in known]
    return names if len(known) == len(present) else [*names, ("ignored", VOID)]


def _draw_heading(pen: ImageDraw.ImageDraw, heading: str, at: tuple[int, int], width: int) -> None:
    """The first line large, the others small and grey; too wide a line is set smaller."""
    for number, text in enumerate(heading.split("\n")):
        size = _TEXT if number else _TITLE
        while size > 8 and ImageFont.load_default(size).getlength(text) > width:
            size -= 1
        place = (at[0], at[1] + _LINE * number)
        pen.text(place, text, fill=_QUIET if number else _INK, font=ImageFont.load_default(size))


def _draw_legend(
    pen: ImageDraw.ImageDraw, legend: Sequence[tuple[int, int, str, Colour]], top: int
) -> None:
    for x, down, name, rgb in legend:
        left, upper = _MARGIN + x, top + 4 + down
        box = (left, upper, left + _SWATCH, upper + _SWATCH)
        pen.rounded_rectangle(box, 3, fill=rgb, outline=_QUIET)
        font = ImageFont.load_default(_TEXT)
        pen.text((left + _SWATCH + 6, upper - 1), name, fill=_INK, font=font)


def _panel(panel: np.ndarray, palette: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Photographs are resampled smoothly; labels keep their borders and invent no colour."""
    if panel.ndim == 2:
        return Image.fromarray(colour(panel, palette)).resize(size, Image.Resampling.NEAREST)
    return Image.fromarray(np.ascontiguousarray(panel)).resize(size, Image.Resampling.LANCZOS)


def _flow(names: Sequence[tuple[str, Colour]], font: ImageFont.FreeTypeFont, width: int) -> list[tuple[int, int, str, Colour]]:
    """Legend entries as (x, y, name, colour), broken into lines of at most ``width`` pixels."""
    placed, x, y = [], 0, 0
    for name, rgb in names:
        wide = _SWATCH + 6 + round(font.getlength(name)) + 18
        if x and x + wide - 18 > width:
            x, y = 0, y + _LINE
        placed.append((x, y, name, rgb))
        x += wide
    return placed
