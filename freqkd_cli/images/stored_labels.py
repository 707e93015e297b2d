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
from freqkd_cli.images.deep_pixels import deep_values, readable, stored_bits
from freqkd_cli.images.tiff_header import tiff_pages

LOSSY_SUFFIXES = (".jpg", ".jpeg")
LABEL_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif", ".webp", *LOSSY_SUFFIXES)

NEED = "one grey value or palette index per pixel"

_LOSSY = frozenset({"JPEG", "WEBP"})
_LOSSY_SPREAD = 16
"""Difference of red, green and blue of a grey pixel that lossy formats may cause."""


@dataclass(frozen=True)
class StoredLabels:
    """The content of a label file.

    Attributes:
        values: ``[H, W]`` numbers: grey values, palette indices or 0xRRGGBB. They are floats only
            where some are not whole.
        rgb: the file holds RGB colors.
        grey_rgb: the file has several channels, all equal, which are read as one.
        palette: index -> 0xRRGGBB, empty without a palette.
    """

    values: np.ndarray
    rgb: bool
    palette: dict[int, int]
    grey_rgb: bool = False


def read_labels(path: Path, *, colors: bool = False, white: int = 1) -> StoredLabels:
    """Read a label file.

    Grey values and palette indices stay as they are, never expanded to colors. Channels that are
    all equal are one grey value. With ``colors`` everything is read as 0xRRGGBB. The bits of a file
    of 1 bit are 0 and ``white``.

    Raises:
        DataBroken: it cannot be read, has several pages, holds NaN, or its mask is the alpha
            channel.
    """

    def read(image: Image.Image) -> StoredLabels:
        _check_pages(image, path)
        deep = None if colors else _deep_grey(image, path)
        if deep is not None and np.ptp(deep.values):
            return deep
        stored = stored_values(image)
        rgb = stored.ndim != 2
        if rgb:
            _check_alpha(image, path)
        if colors:
            return StoredLabels(packed(image), rgb, {})
        if rgb:
            grey = deep or _equal_channels(image)
            return StoredLabels(packed(image), True, {}) if grey is None else grey
        return _indices(image, stored * np.uint8(white) if image.mode == "1" else stored)

    labels = with_image(path, read)
    if labels.values.dtype.kind not in "uif":
        raise DataBroken(f"{path} is not a label image", got=labels.values.dtype, need=NEED)
    if labels.values.dtype.kind == "f":
        return StoredLabels(_whole(labels.values, path), labels.rgb, labels.palette)
    return labels


def read_header(path: Path) -> tuple[tuple[int, int], int, bool]:
    """Return (H, W) of a label file, its channels, and whether it has 1 bit; it is not decoded.

    Raises:
        DataBroken: it cannot be read.
    """

    def header(image: Image.Image) -> tuple[tuple[int, int], int, bool]:
        return (image.height, image.width), len(image.getbands()), image.mode == "1"

    return with_image(path, header)


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


def count_values(values: np.ndarray) -> dict[float, int]:
    """Return value -> how often it occurs; fractions are rounded to a thousandth of the range."""
    if values.dtype == np.uint8:
        counts = np.bincount(values.ravel(), minlength=256)
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    if values.dtype.kind == "f" and values.size:
        digits = 3 - int(np.ceil(np.log10(max(float(np.abs(values).max()), 1e-9))))
        values = np.where(values == np.rint(values), values, np.round(values, digits))
    distinct, counts = np.unique(values, return_counts=True)
    return dict(zip(distinct.tolist(), counts.tolist(), strict=True))


def _check_pages(image: Image.Image, path: Path) -> None:
    """
    Raises:
        DataBroken: the file has several pages or frames; which of them is the mask is unknown.
    """
    pages = getattr(image, "n_frames", 1)
    if pages > 1 and image.format != "MPO":
        raise DataBroken(
            f"{path} is not a label image",
            got=f"{pages} pages or frames",
            need="one page: all classes in one image",
            tip="save the classes of all pages as one mask, 0, 1, 2 ...",
        )


def _check_alpha(image: Image.Image, path: Path) -> None:
    """
    Raises:
        DataBroken: all pixels have one color, and the alpha channel has several values.
    """
    bands = image.getbands()
    if bands[-1] not in ("A", "a") or "P" in bands:
        return
    *color, alpha = image.getextrema()
    if all(low == high for low, high in color) and alpha[0] != alpha[1]:
        raise DataBroken(
            f"{path} is not a label image",
            got=f"one color, and transparency (alpha) from {alpha[0]} to {alpha[1]}",
            need=NEED,
            tip="save the alpha channel as the mask: Image.open(FILE).getchannel('A').save(FILE)",
        )


def _deep_grey(image: Image.Image, path: Path) -> StoredLabels | None:
    """Return the grey values of an image of 16 bits whose color channels are all equal, else None.

    Pillow keeps the high byte alone. The file is opened again, and ``image`` is not decoded.
    """
    if image.mode not in ("LA", "RGB", "RGBA"):
        return None
    page = next(iter(tiff_pages(path, most=1)), None) if image.format == "TIFF" else None
    if stored_bits(image, page, path) <= 8 or not readable(image, page):
        return None
    values = with_image(path, lambda again: deep_values(again, path))
    color = values[..., None] if values.ndim == 2 else values[..., :3]
    equal = (color == color[..., :1]).all()
    return StoredLabels(color[..., 0].copy(), False, {}, grey_rgb=True) if equal else None


def _equal_channels(image: Image.Image) -> StoredLabels | None:
    """Return the grey values of an image whose channels are all equal, else None."""
    if image.mode in ("LA", "La"):
        return StoredLabels(np.array(image.getchannel(0)), False, {}, grey_rgb=True)
    if image.mode not in ("RGB", "RGBA", "RGBX", "CMYK", "YCbCr"):
        return None
    color = np.array(image.convert("RGB"))
    grey = color[..., 1].copy()
    spread = int((color.max(axis=-1) - color.min(axis=-1)).max(initial=0))
    noise = image.format in _LOSSY and spread <= min(_LOSSY_SPREAD, int(np.ptp(grey)) // 4)
    return StoredLabels(grey, False, {}, grey_rgb=True) if not spread or noise else None


def _indices(image: Image.Image, stored: np.ndarray) -> StoredLabels:
    """Return grey values or palette indices.

    A GIF has no grey values. Programs save them as a palette of the greys that occur.
    """
    palette = _palette(image)
    if image.format == "GIF" and palette:
        used = np.unique(stored).tolist()
        if all(palette.get(k, -1) == 0x010101 * (palette.get(k, 0) & 255) for k in used):
            greys = np.zeros(256, np.uint8)
            greys[used] = [palette[k] & 255 for k in used]
            return StoredLabels(greys[stored], False, {})
    return StoredLabels(stored, False, palette)


def _whole(values: np.ndarray, path: Path) -> np.ndarray:
    """Return floats as integers where all of them are whole.

    Raises:
        DataBroken: some of them are no numbers.
    """
    missing = int((~np.isfinite(values)).sum())
    if missing:
        raise DataBroken(
            f"{path} contains values that are no numbers",
            got=f"NaN or infinity in {missing:,} of {values.size:,} pixels",
            need="a number in every pixel",
            tip="save the masks again with 255 in these pixels if they mean void",
        )
    return values.astype(np.int64) if (values == np.rint(values)).all() else values


def _palette(image: Image.Image) -> dict[int, int]:
    if image.mode != "P":
        return {}
    colors = image.getpalette("RGB") or []
    return {k: pack(colors[3 * k : 3 * k + 3]) for k in range(len(colors) // 3)}
