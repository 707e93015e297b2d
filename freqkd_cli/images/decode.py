"""Decode image files with Pillow: upright RGB pixels, sizes from headers, hashes of contents."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps

from freqkd_cli.errors import DataBroken, FreqKDError
from freqkd_cli.images.conversion import AS_STORED, Conversion, range_text, value_range
from freqkd_cli.images.deep_pixels import deep_values, keep_fourth_band, stored_bits
from freqkd_cli.images.file_kinds import filled
from freqkd_cli.images.image_header import first_page, refuse_unreadable
from freqkd_cli.images.unreadable import MOST_PIXELS, RGB8, too_large, unreadable
from freqkd_cli.runtime import file_hashes

_PNG_ORIENTATION = frozenset({"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"})
"""Header entries of a PNG that may hold an orientation. Without them no pixel needs decoding."""

# with_image has a limit of its own, with another message.
Image.MAX_IMAGE_PIXELS = None
# Warnings about metadata, such as a damaged EXIF block, do not concern the pixels. What Pillow
# logs about a file that it cannot read is part of an error.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)

T = TypeVar("T")


@dataclass(frozen=True)
class Header:
    """What the header of an image file shows.

    Attributes:
        size: (H, W) of what :func:`read_upright` returns.
        bits: bits a channel, 8 where there are fewer.
        alpha: it has an alpha channel.
    """

    size: tuple[int, int]
    bits: int
    alpha: bool


def read_upright(path: Path, conversion: Conversion = AS_STORED) -> np.ndarray:
    """Return an image as ``[H, W, 3]`` uint8 RGB.

    It is turned by its EXIF orientation. Transparency is dropped.

    Raises:
        DataBroken: it cannot be read, has several pages or frames, or has bits or bands that
            need a key of ``conversion``.
    """
    return with_image(path, lambda image: _upright(image, path, conversion))


def header_of(path: Path, conversion: Conversion = AS_STORED) -> Header:
    """Return the header of an image, without decoding it.

    Raises:
        DataBroken: as :func:`read_upright`, except that missing keys for more than 8 bits a
            channel are not noticed.
    """

    def header(image: Image.Image) -> Header:
        page = first_page(image, path)
        refuse_unreadable(image, page, path, conversion)
        size = (image.height, image.width)
        upright = size[::-1] if _orientation(image) >= 5 else size
        return Header(upright, stored_bits(image, page, path), "A" in image.getbands())

    return with_image(path, header)


def read_range(path: Path) -> tuple[float, float, bool]:
    """Return the smallest and largest value of an image, and whether they are fractions.

    Raises:
        DataBroken: it cannot be read.
    """

    def values(image: Image.Image) -> np.ndarray:
        if stored_bits(image, first_page(image, path), path) <= 8:
            return np.array(image.convert("RGB"))
        return _color(deep_values(image, path), None, path)

    return with_image(path, lambda image: value_range(values(image)))


def read_alpha(path: Path) -> np.ndarray:
    """Return the alpha channel of an image that has one, ``[H, W]`` uint8.

    Raises:
        DataBroken: it cannot be read.
    """
    return with_image(path, lambda image: np.array(image.getchannel("A")))


def with_image(path: Path, use: Callable[[Image.Image], T]) -> T:
    """Open an image file and return ``use(image)``.

    Raises:
        DataBroken: the file is missing, too large, damaged, or not an image.
    """
    try:
        # Cells of a table offer ``open`` too; Pillow opens a file itself, so that it may close it.
        source = path if isinstance(path, Path) else path.open("rb")
        with Image.open(source) as image:
            if isinstance(image, ImageFile.StubImageFile):  # such as HDF5: a header without pixels
                raise unreadable(path, Image.UnidentifiedImageError())
            if image.width * image.height > MOST_PIXELS:
                size = f"{image.height}x{image.width} pixels (height x width)"
                raise too_large(path, size)
            return use(image)
    except FreqKDError:
        raise
    except Exception as error:  # damaged files let Pillow raise errors of any type
        raise unreadable(path, error) from error


def file_size(path: Path) -> str:
    """Return the size of a file as :func:`digest` does; the file is not read.

    Raises:
        DataBroken: there is no such file.
    """
    try:
        return str(path.stat().st_size)
    except OSError as error:
        raise DataBroken(f"cannot read {path}", got=error.strerror) from error


def digest(path: Path) -> tuple[str, str]:
    """Return size and sha256 of a file, which is read once and then remembered.

    Raises:
        DataBroken: it cannot be read.
    """
    try:
        status = path.stat()
        if not isinstance(path, Path):
            return str(status.st_size), file_hashes.sha256_of_cell(path, status.st_mtime_ns)
        return str(status.st_size), file_hashes.sha256_of(path, status)
    except OSError as error:
        raise DataBroken(f"cannot read {path}", got=error.strerror) from error


def _upright(image: Image.Image, path: Path, conversion: Conversion) -> np.ndarray:
    page = first_page(image, path)
    refuse_unreadable(image, page, path, conversion)
    orientation, bands = _orientation(image), conversion.bands
    if bands and 4 in bands and page is not None and page.undeclared and image.mode == "RGB":
        keep_fourth_band(image)
    if (bits := stored_bits(image, page, path)) > 8:
        values = _convert(_color(deep_values(image, path), bands, path), bits, path, conversion)
        values = 255 - values if page and page.inverted else values
        pixels = Image.fromarray(values).convert("RGB")
    elif bands and (image.mode in ("RGB", "RGBA") or (page and image.mode == "CMYK")):
        pixels = Image.fromarray(_color(np.array(image), bands, path))
    else:
        pixels = image.convert("RGB")
    if orientation == 1:
        return np.array(pixels)
    # Only the orientation is passed on: Pillow rewrites all other EXIF data when it turns an
    # image, and fails where these are damaged.
    pixels.info = {}
    pixels.getexif()[ExifTags.Base.Orientation] = orientation
    return np.array(ImageOps.exif_transpose(pixels))


def _color(values: np.ndarray, bands: tuple[int, int, int] | None, path: Path) -> np.ndarray:
    """Return grey values ``[H, W]`` as they are, and of channels red, green and blue.

    Raises:
        DataBroken: a band that the image does not have.
    """
    if values.ndim == 2:
        return values
    number = values.shape[2]
    if bands and max(bands) > number:
        raise DataBroken(
            f"cannot read {path}",
            got=f"{number} bands that can be read, and bands: {list(bands)}",
            need=f"bands from 1 to {number}",
            tip=filled(RGB8, path) + ", with -b for each band",
            key="bands",
        )
    return np.ascontiguousarray(values[..., [band - 1 for band in bands or (1, 2, 3)]])


def _convert(values: np.ndarray, bits: int, path: Path, conversion: Conversion) -> np.ndarray:
    """Return values of more than 8 bits as uint8.

    Raises:
        DataBroken: the conversion has no key for them, or one that does not fit.
    """
    what = f"cannot read {path}"
    if conversion.reads_deep:
        try:
            return conversion.to_uint8(values)
        except DataBroken as error:
            parts = {"got": error.got, "need": error.need, "tip": error.tip}
            raise DataBroken(what, **parts, key="bits") from error
    low, high, fractions = value_range(values)
    raise DataBroken(
        what,
        got=range_text(bits, low, high, fractions),
        need="8 bits a channel" + (", or the range of the values" if conversion.form else ""),
        tip=conversion.range_tip(low, high, fractions),
        key="bits",
    )


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
    except Exception:  # damaged EXIF data let Pillow raise errors of many types
        return 1
    return orientation if orientation in range(1, 9) else 1
