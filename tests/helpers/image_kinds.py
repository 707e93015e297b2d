"""Files of images: formats, depths and channels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from deep_files import write_png, write_tiff
from PIL import Image


@dataclass(frozen=True)
class ImageKind:
    """One kind of file.

    Attributes:
        write: path, ``[H, W, 3]`` uint8.
        bits: significant bits a channel, where more than 8.
        refusable: words of a plain "not supported", which is a right answer; empty = it is not.
    """

    name: str
    suffix: str
    write: Callable[[Path, np.ndarray], None]
    bits: int | None = None
    refusable: str = ""


def _saved(mode: str | None = None, **options: object) -> Callable[[Path, np.ndarray], None]:
    def write(path: Path, rgb: np.ndarray) -> None:
        image = Image.fromarray(rgb)
        (image.convert(mode) if mode else image).save(path, **options)

    return write


def _alpha(path: Path, rgb: np.ndarray) -> None:
    """Write an image that is transparent in one corner and keeps its colors there."""
    alpha = np.full(rgb.shape[:2], 255, np.uint8)
    alpha[:20, :30] = 0
    Image.fromarray(np.dstack([rgb, alpha])).save(path)


def _turned(path: Path, rgb: np.ndarray) -> None:
    """Write an image as a camera held upright does: turned, with EXIF orientation 6."""
    image = Image.fromarray(np.rot90(rgb))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(path, exif=exif, quality=92)


def _grey(rgb: np.ndarray) -> np.ndarray:
    return rgb.mean(axis=2).round().astype(np.uint16)


def _deep_png(factor: int, *, grey: bool) -> Callable[[Path, np.ndarray], None]:
    return lambda path, rgb: write_png(
        path, (_grey(rgb) if grey else rgb.astype("u2")) * factor, 16
    )


def _deep_tiff(factor: int, *, grey: bool) -> Callable[[Path, np.ndarray], None]:
    def write(path: Path, rgb: np.ndarray) -> None:
        write_tiff(path, [((_grey(rgb) if grey else rgb) * np.uint16(factor)).astype("u2")])

    return write


def _bands(number: int, dtype: str = "u1") -> Callable[[Path, np.ndarray], None]:
    def write(path: Path, rgb: np.ndarray) -> None:
        more = [255 - rgb[..., k % 3] for k in range(number - 3)]
        write_tiff(path, [np.dstack([rgb, *more]).astype(dtype)])

    return write


def _pages(path: Path, rgb: np.ndarray) -> None:
    write_tiff(path, [rgb, 255 - rgb])


def _float(factor: float) -> Callable[[Path, np.ndarray], None]:
    return lambda path, rgb: write_tiff(path, [(_grey(rgb) * factor).astype("f4")])


IMAGES = (
    ImageKind("jpg", ".jpg", _saved(quality=92)),
    ImageKind("jpeg", ".jpeg", _saved(quality=92)),
    ImageKind("JPG", ".JPG", _saved(quality=92)),
    ImageKind("png", ".png", _saved()),
    ImageKind("grey jpg", ".jpg", _saved("L", quality=92)),
    ImageKind("CMYK jpg", ".jpg", _saved("CMYK", quality=92)),
    ImageKind("turned jpg", ".jpg", _turned),
    ImageKind("grey png", ".png", _saved("L")),
    ImageKind("LA png", ".png", _saved("LA")),
    ImageKind("RGBA png", ".png", _alpha),
    ImageKind("palette png", ".png", _saved("P", palette=Image.Palette.ADAPTIVE)),
    ImageKind("bmp", ".bmp", _saved()),
    ImageKind("webp", ".webp", _saved(quality=92)),
    ImageKind("gif", ".gif", _saved(), refusable=r"\.gif|GIF"),
    ImageKind("jpeg 2000", ".jp2", _saved(), refusable=r"\.jp2|JPEG 2000"),
    ImageKind("tif", ".tif", _saved()),
    ImageKind("LZW tiff", ".tiff", _saved(compression="tiff_lzw")),
    ImageKind("16-bit grey png", ".png", _deep_png(257, grey=True), 16),
    ImageKind("12-bit grey png", ".png", _deep_png(16, grey=True), 12),
    ImageKind("10-bit grey png", ".png", _deep_png(4, grey=True), 10),
    ImageKind("16-bit color png", ".png", _deep_png(257, grey=False), 16),
    ImageKind("12-bit color png", ".png", _deep_png(16, grey=False), 12),
    ImageKind("16-bit grey tif", ".tif", _deep_tiff(257, grey=True), 16),
    ImageKind("12-bit grey tif", ".tif", _deep_tiff(16, grey=True), 12),
    ImageKind("8-bit grey in 16-bit tif", ".tif", _deep_tiff(1, grey=True), 8),
    ImageKind("16-bit color tif", ".tif", _deep_tiff(257, grey=False), 16, refusable="16|bits"),
    ImageKind("12-bit color tif", ".tif", _deep_tiff(16, grey=False), 12, refusable="16|bits"),
    ImageKind("4 bands", ".tif", _bands(4), refusable="band|channel"),
    ImageKind("5 bands", ".tif", _bands(5), refusable="band|channel"),
    ImageKind("6 bands of 16 bits", ".tif", _bands(6, "u2"), refusable="band|channel|16|bits"),
    ImageKind("2 pages", ".tif", _pages, refusable="page|frame"),
    ImageKind("float 0 to 1", ".tif", _float(1 / 255), refusable="float|fraction|mode F|32"),
    ImageKind("float 0 to 255", ".tif", _float(1), refusable="float|fraction|mode F|32"),
)
"""Every kind of image of the study."""
