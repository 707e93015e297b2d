"""Decode image files with Pillow: upright RGB pixels, sizes from headers, hashes of contents."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps

from freqkd_cli.errors import DataBroken

_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
"""Pillow's modes of at most 8 bits a channel, which it converts to RGB correctly.

Of 16 bits a channel it would keep only values below 256.
"""

_PNG_ORIENTATION = frozenset({"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"})
"""Header entries of a PNG that may hold an orientation. Without them no pixel needs decoding."""

_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    struct.error,
    zlib.error,
    MemoryError,
    Image.DecompressionBombError,
)
"""What Pillow raises on damaged or oversized files."""

T = TypeVar("T")


def read_upright(path: Path) -> np.ndarray:
    """Return an image as ``[H, W, 3]`` uint8 RGB.

    It is turned by its EXIF orientation. Transparency is dropped. Of several frames the first
    is read.

    Raises:
        DataBroken: it cannot be read, or has more than 8 bits a channel.
    """
    return with_image(path, _upright)


def upright_size(path: Path) -> tuple[int, int]:
    """Return (H, W) of what :func:`read_upright` returns, from the header.

    Raises:
        DataBroken: as :func:`read_upright`.
    """
    return with_image(path, _upright_size)


def with_image(path: Path, use: Callable[[Image.Image], T]) -> T:
    """Open an image file and return ``use(image)``.

    Raises:
        DataBroken: the file is missing or damaged, in whichever way Pillow reports it.
    """
    try:
        with Image.open(path) as image:
            return use(image)
    except _DAMAGED as error:
        raise DataBroken(
            f"cannot read {path}",
            got=_reason(error, path),
            tip="restore the file, or remove it from the split",
        ) from error


def digest(path: Path) -> tuple[str, str]:
    """Return size and sha256 of a file. An unchanged file is read once per process.

    Raises:
        DataBroken: it cannot be read.
    """
    try:
        status = path.stat()
        return str(status.st_size), _sha256(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise DataBroken(f"cannot read {path}", got=error.strerror) from error


@lru_cache(maxsize=200_000)
def _sha256(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(error: BaseException, path: Path) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, MemoryError):
        return "too large for the memory that is free"
    return str(error).replace(str(path), path.name)


def _upright(image: Image.Image) -> np.ndarray:
    _check_mode(image)
    orientation = _orientation(image)
    pixels = image.convert("RGB")
    # Only the orientation is passed on: Pillow rewrites all other EXIF data when it turns an
    # image, and fails where these are damaged.
    pixels.info = {}
    pixels.getexif()[ExifTags.Base.Orientation] = orientation
    return np.array(ImageOps.exif_transpose(pixels))


def _upright_size(image: Image.Image) -> tuple[int, int]:
    _check_mode(image)
    size = (image.height, image.width)
    return size[::-1] if _orientation(image) >= 5 else size


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 where there is none that can be read.

    From 5 on, height and width are exchanged. Pillow turns a TIFF itself.
    """
    if image.format == "TIFF":
        return 1
    if image.format == "PNG" and not _PNG_ORIENTATION & image.info.keys():
        return 1
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _DAMAGED:
        return 1
    return orientation if orientation in range(1, 9) else 1


def _check_mode(image: Image.Image) -> None:
    if image.mode not in _MODES:
        raise DataBroken(
            f"cannot read {getattr(image, 'filename', 'the image')}",
            got=f"pixels of mode {image.mode}, not 8 bits a channel",
            need="8 bits a channel, grey or RGB",
            tip="save it again with its values scaled to 0 .. 255",
        )
