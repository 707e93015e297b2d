"""Read label files: their suffixes, and how a file becomes one stored value per pixel.

A further file format needs changes in this file alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from freqkd_cli.errors import DataBroken
from freqkd_cli.images.decode import with_image

LABEL_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")

NEED = "one grey value or palette index per pixel"


@dataclass(frozen=True)
class StoredLabels:
    """The content of a label file.

    Attributes:
        values: ``[H, W]`` integers: grey values, palette indices or 0xRRGGBB.
        rgb: the file holds RGB colors.
        palette: index -> 0xRRGGBB, empty without a palette.
    """

    values: np.ndarray
    rgb: bool
    palette: dict[int, int]


def read_labels(path: Path, *, colors: bool = False) -> StoredLabels:
    """Read a label file.

    Grey values and palette indices stay as they are, never expanded to colors. With ``colors``
    everything is read as 0xRRGGBB.

    Raises:
        DataBroken: it cannot be read, or holds fractions.
    """

    def read(image: Image.Image) -> StoredLabels:
        stored = stored_values(image)
        rgb = stored.ndim != 2
        if colors or rgb:
            return StoredLabels(packed(image), rgb, {})
        return StoredLabels(stored, False, _palette(image))

    labels = with_image(path, read)
    if labels.values.dtype.kind not in "ui":
        raise DataBroken(f"{path} is not a label image", got="fractions", need=NEED)
    return labels


def read_header(path: Path) -> tuple[tuple[int, int], int]:
    """Return (H, W) of a label file and its number of channels, without decoding it.

    Raises:
        DataBroken: it cannot be read.
    """
    return with_image(path, lambda image: ((image.height, image.width), len(image.getbands())))


def read_values(path: Path) -> np.ndarray:
    """Return grey values or palette indices as stored, ``[H, W]``.

    An array of another rank is not a label image.

    Raises:
        DataBroken: it cannot be read.
    """
    return with_image(path, stored_values)


def stored_values(image: Image.Image) -> np.ndarray:
    """Return an image's pixels as stored; bits become 0 and 1."""
    values = np.array(image)
    return values.astype(np.uint8) if values.dtype == bool else values


def packed(image: Image.Image) -> np.ndarray:
    """Return ``[H, W]`` int32 0xRRGGBB. Palettes are looked up, transparency is dropped."""
    red, green, blue = np.moveaxis(np.array(image.convert("RGB"), np.int32), -1, 0)
    return red << 16 | green << 8 | blue


def pack(color: Sequence[int]) -> int:
    """Return (red, green, blue) as 0xRRGGBB."""
    red, green, blue = (int(part) for part in color)
    return red << 16 | green << 8 | blue


def count_values(values: np.ndarray) -> dict[int, int]:
    """Return value -> how often it occurs."""
    if values.dtype == np.uint8:
        counts = np.bincount(values.ravel(), minlength=256)
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    distinct, counts = np.unique(values, return_counts=True)
    return dict(zip(distinct.tolist(), counts.tolist(), strict=True))


def _palette(image: Image.Image) -> dict[int, int]:
    if image.mode != "P":
        return {}
    colors = image.getpalette("RGB") or []
    return {k: pack(colors[3 * k : 3 * k + 3]) for k in range(len(colors) // 3)}
