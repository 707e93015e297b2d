"""Why a file cannot be read as an image, in words, and what to do about it."""

from __future__ import annotations

import logging
from pathlib import Path

from PIL import Image

from freqkd_cli.errors import DataBroken, quoted
from freqkd_cli.images.file_kinds import RAW, filled, first_bytes, kind_of, looks_like_image
from freqkd_cli.images.tiff_header import TiffPage, tiff_pages

MOST_PIXELS = 5 * 10**8
"""Larger images are refused: reading one takes more than 8 GB of memory."""

RESTORE = "restore the file, or leave it out"
"""What to do about a damaged file, and only about those."""

NEED = "an image: PNG, JPEG, TIFF, WebP or BMP"

TILES = "gdal_retile.py -ps 2048 2048 -targetDir {stem}_tiles {file}"
RGB8 = "gdal_translate -b 1 -b 2 -b 3 -ot Byte -scale -co PHOTOMETRIC=RGB {file} {stem}_rgb.tif"
GREY8 = "gdal_translate -b 1 -ot Byte -scale {file} {stem}_8bit.tif"


def unreadable(path: Path, error: BaseException) -> DataBroken:
    """Return the error of a file that could not be read, from what its content is."""
    logging.getLogger(__name__).debug("%s: %r", path, error)
    what = f"cannot read {path}"
    if isinstance(error, MemoryError):
        return too_large(path, "too large for the memory that is free")
    if isinstance(error, OSError) and error.errno is not None:
        missing = isinstance(error, FileNotFoundError)
        got = "no such file" if missing else error.strerror
        return DataBroken(what, got=got, tip=RESTORE if missing else None)
    try:
        start, kind = first_bytes(path), kind_of(path)
    except OSError as later:
        return DataBroken(what, got=later.strerror)
    if not start.strip(b"\0"):
        size = path.stat().st_size
        got = f"nothing but {size} zero bytes" if size else "an empty file"
        return DataBroken(what, got=got, need=NEED, tip=RESTORE)
    if kind is not None:
        return DataBroken(what, got=kind[0], need=NEED, tip=kind[1])
    if looks_like_image(start):
        return _of_an_image(path, error)
    got = f"a file of an unknown kind, which begins with the bytes {start[:8].hex(' ')}"
    return DataBroken(what, got=got, need=NEED, tip="convert it to PNG, or leave it out")


def too_large(path: Path, got: str) -> DataBroken:
    """Return the error of an image with more pixels than can be read, with a way to cut it."""
    need = f"at most {MOST_PIXELS // 10**6} million pixels, and memory for them"
    tip = f"cut image and mask into tiles, such as with: {filled(TILES, path)}"
    return DataBroken(f"cannot read {path}", got=got, need=need, tip=tip)


def unsupported_tiff(path: Path, page: TiffPage) -> DataBroken:
    """Return the error of a TIFF whose bands or bits cannot be read."""
    if page.raw:
        kind, way = RAW
        return DataBroken(f"cannot read {path}", got=kind, need=NEED, tip=filled(way, path))
    return DataBroken(
        f"cannot read {path}",
        got=f"a TIFF with {page}, which is not supported",
        need="1 band, or 3 interleaved bands, of 8 or 16 bits",
        tip=filled(RGB8 if page.bands > 2 else GREY8, path),
    )


def _of_an_image(path: Path, error: BaseException) -> DataBroken:
    pages = tiff_pages(path, most=1)
    if pages and 0 < pages[0].end <= path.stat().st_size:
        page = pages[0]
        if page.raw or page.packed or isinstance(error, Image.UnidentifiedImageError):
            return unsupported_tiff(path, page)
        if page.planar and page.bands > 1:
            return unsupported_tiff(path, page)
    damaged = isinstance(error, Image.UnidentifiedImageError)
    got = "a damaged header" if damaged else quoted(error).replace(str(path), path.name)
    return DataBroken(f"cannot read {path}", got=got, tip=RESTORE)
