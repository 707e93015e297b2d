"""Label maps side by side with the image they belong to, in the data set's colours, with a legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from freqkd_cli.runtime.files import write_aside
from freqkd_cli.views.labels import IGNORE

VOID = (32, 32, 36)
"""Colour of ignored pixels."""

_GAP, _MARGIN, _SWATCH = 8, 16, 14
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


def comparison(
    rows: Sequence[Panels],
    classes: Sequence[str],
    palette: np.ndarray,
    path: Path,
    *,
    width: int = 256,
) -> None:
    """Write a PNG: one line per image, one column per panel, a legend of the classes that occur.

    Args:
        rows: for each image, heading -> picture ``[H, W, 3]`` uint8 or label map ``[h, w]``, in the order of the columns; a heading
            may have a second line after a line break. All rows have the headings of the first.
        classes, palette: names, and ``[K, 3]`` uint8 RGB.
        width: pixels of a column; panels keep the shape of the row's first one.
    """
    headings = list(rows[0])
    heights = [
        round(width * next(iter(row.values())).shape[0] / next(iter(row.values())).shape[1])
        for row in rows
    ]
    label_maps = [panel for row in rows for panel in row.values() if panel.ndim == 2]
    present = sorted(
        {int(label) for labels in label_maps for label in np.unique(labels) if label < len(classes)}
    )
    bold, plain = ImageFont.load_default(15), ImageFont.load_default(13)

    total_width = 2 * _MARGIN + len(headings) * (width + _GAP) - _GAP
    void = any((labels >= len(classes)).any() for labels in label_maps)
    names = [(classes[label], tuple(int(c) for c in palette[label])) for label in present] + (
        [("ignored", VOID)] if void else []
    )
    legend = _flow(names, plain, total_width - 2 * _MARGIN)
    top = _MARGIN + 22 * max(heading.count("\n") + 1 for heading in headings)
    bottom = _MARGIN + (legend[-1][1] + 22 if legend else 0)
    sheet = Image.new("RGB", (total_width, top + sum(heights) + _GAP * len(rows) + bottom), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, heading in enumerate(headings):
        for line, text in enumerate(heading.split("\n")):
            at = (_MARGIN + column * (width + _GAP), _MARGIN - 6 + 20 * line)
            pen.text(at, text, fill=_QUIET if line else _INK, font=plain if line else bold)
    y = top
    for row, height in zip(rows, heights, strict=True):
        for column, heading in enumerate(headings):
            sheet.paste(
                _panel(row[heading], palette, (width, height)),
                (_MARGIN + column * (width + _GAP), y),
            )
        y += height + _GAP
    for x, down, name, rgb in legend:
        pen.rounded_rectangle(
            (_MARGIN + x, y + 4 + down, _MARGIN + x + _SWATCH, y + 4 + down + _SWATCH),
            3,
            fill=rgb,
            outline=_QUIET,
        )
        pen.text((_MARGIN + x + _SWATCH + 6, y + 3 + down), name, fill=_INK, font=plain)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_aside(path, lambda file: sheet.save(file, "PNG", optimize=True))


def _panel(panel: np.ndarray, palette: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Photographs are resampled smoothly; labels keep their borders and invent no colour."""
    if panel.ndim == 2:
        return Image.fromarray(colour(panel, palette)).resize(size, Image.Resampling.NEAREST)
    return Image.fromarray(np.ascontiguousarray(panel)).resize(size, Image.Resampling.LANCZOS)


def _flow(
    names: Sequence[tuple[str, Colour]], font: ImageFont.FreeTypeFont, width: int
) -> list[tuple[int, int, str, Colour]]:
    """Legend entries as (x, y, name, colour), broken into lines of at most ``width`` pixels."""
    placed, x, y = [], 0, 0
    for name, rgb in names:
        wide = _SWATCH + 6 + round(font.getlength(name)) + 18
        if x and x + wide - 18 > width:
            x, y = 0, y + 22
        placed.append((x, y, name, rgb))
        x += wide
    return placed
