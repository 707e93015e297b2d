"""Label maps beside the image they belong to, in the data set's colors, with a legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from freqkd_cli.runtime.files import write_aside

VOID = (32, 32, 36)
"""Color of ignored pixels."""

_GAP, _MARGIN, _SWATCH, LINE = 8, 16, 18, 26
_TITLE, _TEXT = 20, 16
"""Pixels of a heading's first line and of other text: readable at half the size."""
PAPER, INK, _QUIET = (255, 255, 255), (24, 24, 28), (110, 110, 118)

Panels = Mapping[str, np.ndarray]
Color = tuple[int, ...]


def colored(labels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """``[H, W]`` labels as ``[H, W, 3]`` uint8 RGB; labels beyond the palette are void."""
    table = np.concatenate([palette, np.array([VOID])]).astype(np.uint8)
    return table[np.minimum(labels, len(palette))]


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
        rows: for each image, heading -> image ``[H, W, 3]`` uint8 or label map ``[h, w]``, in the
            order of the columns. A heading may have a second line after a line break. A row that
            lacks a panel, such as labels, has an empty place there.
        classes, palette: names, and ``[K, 3]`` uint8 RGB.
        width: pixels of a column; panels keep the shape of the row's first one.
    """
    headings = list(max(rows, key=len))
    shapes = [next(iter(row.values())).shape for row in rows]
    heights = [max(1, round(width * shape[0] / shape[1])) for shape in shapes]
    label_maps = [panel for row in rows for panel in row.values() if panel.ndim == 2]
    plain = ImageFont.load_default(_TEXT)

    total_width = 2 * _MARGIN + len(headings) * (width + _GAP) - _GAP
    legend = flow(_names(label_maps, classes, palette), plain, total_width - 2 * _MARGIN)
    top = _MARGIN + LINE * max(heading.count("\n") + 1 for heading in headings)
    bottom = _MARGIN + (legend[-1][1] + LINE if legend else 0)
    sheet = Image.new("RGB", (total_width, top + sum(heights) + _GAP * len(rows) + bottom), PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, heading in enumerate(headings):
        _write_heading(pen, heading, (_MARGIN + column * (width + _GAP), _MARGIN - 6), width)
    y = top
    for row, height in zip(rows, heights, strict=True):
        for column, heading in enumerate(headings):
            if heading in row:
                panel = _panel(row[heading], palette, (width, height))
                sheet.paste(panel, (_MARGIN + column * (width + _GAP), y))
        y += height + _GAP
    draw_legend(pen, legend, plain, (_MARGIN, y + 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_aside(path, lambda file: sheet.save(file, "PNG", optimize=True))


def _names(
    label_maps: Sequence[np.ndarray], classes: Sequence[str], palette: np.ndarray
) -> list[tuple[str, Color]]:
    """Name and color of every class that occurs, and of ignored pixels if there are some."""
    values = {int(label) for labels in label_maps for label in np.unique(labels)}
    present = sorted(label for label in values if label < len(classes))
    names = [(classes[label], tuple(int(c) for c in palette[label])) for label in present]
    return names + ([("ignored", VOID)] if len(present) < len(values) else [])


def _write_heading(pen: ImageDraw.ImageDraw, heading: str, at: tuple[int, int], width: int) -> None:
    """Write the first line large, the others small and grey; a line that is too wide is shrunk."""
    for line, text in enumerate(heading.split("\n")):
        size = _TEXT if line else _TITLE
        while size > 8 and ImageFont.load_default(size).getlength(text) > width:
            size -= 1
        font, ink = ImageFont.load_default(size), _QUIET if line else INK
        pen.text((at[0], at[1] + LINE * line), text, fill=ink, font=font)


def _panel(panel: np.ndarray, palette: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """A panel at another size. Images are resampled smoothly; labels keep their colors."""
    if panel.ndim == 2:
        return Image.fromarray(colored(panel, palette)).resize(size, Image.Resampling.NEAREST)
    return Image.fromarray(np.ascontiguousarray(panel)).resize(size, Image.Resampling.LANCZOS)


def flow(
    names: Sequence[tuple[str, Color]], font: ImageFont.FreeTypeFont, width: int, scale: float = 1
) -> list[tuple[int, int, str, Color]]:
    """Legend entries as (x, y, name, color), broken into lines of at most ``width`` pixels.

    Args:
        scale: of all distances; that of the font is given with it.
    """
    placed, x, y = [], 0, 0
    before, gap = round((_SWATCH + 6) * scale), round(18 * scale)
    for name, rgb in names:
        wide = before + round(font.getlength(name))
        if x and x + wide > width:
            x, y = 0, y + round(LINE * scale)
        placed.append((x, y, name, rgb))
        x += wide + gap
    return placed


def draw_legend(
    pen: ImageDraw.ImageDraw,
    legend: Sequence[tuple[int, int, str, Color]],
    font: ImageFont.FreeTypeFont,
    at: tuple[int, int],
    scale: float = 1,
) -> None:
    """Draw the entries of :func:`flow`, the first one at ``at``."""
    side = round(_SWATCH * scale)
    for x, down, name, rgb in legend:
        left, top = at[0] + x, at[1] + round(scale) + down
        box = (left, top, left + side, top + side)
        pen.rounded_rectangle(box, round(3 * scale), fill=rgb, outline=_QUIET)
        text = (left + side + round(6 * scale), at[1] + down)
        pen.text(text, name, fill=INK, font=font)
