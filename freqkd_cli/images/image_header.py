"""Checks of an image's header: pages, frames, bands and modes that would be misread."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from freqkd_cli.errors import DataBroken
from freqkd_cli.images.conversion import Conversion
from freqkd_cli.images.deep_pixels import readable, stored_bits
from freqkd_cli.images.file_kinds import filled
from freqkd_cli.images.tiff_header import MOST_PAGES, TiffPage, tiff_pages
from freqkd_cli.images.unreadable import unsupported_tiff

_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
"""Pillow's modes of at most 8 bits a channel, which it converts to RGB correctly."""

_ANIMATED = frozenset({"GIF", "PNG", "WEBP", "AVIF"})
"""Formats whose further frames are an animation. A JPEG of a phone may hold a preview as well."""


def first_page(image: Image.Image, path: Path) -> TiffPage | None:
    """Return the page of a TIFF that Pillow reads, None for another format.

    Raises:
        DataBroken: another page is an image of its own, or the first is only a preview.
    """
    pages = tiff_pages(path) if image.format == "TIFF" else []
    if not pages:
        return None
    first, *others = pages
    if first.raw or (first.reduced and not others):
        raise unsupported_tiff(path, first)
    height, width = (0, 0) if first.reduced else first.size
    stack = [
        page
        for page in others
        if not (page.reduced or page.mask) and page.size[0] >= height and page.size[1] >= width
    ]
    if stack:
        more = " or more" if len(pages) == MOST_PAGES else ""
        raise DataBroken(
            f"cannot read {path}",
            got=f"a TIFF of {len(pages)}{more} pages, which are not previews of the first",
            need="one page per file",
            tip="write each page to a file: " + filled("magick {file} {stem}_%03d.tif", path),
        )
    return first


def refuse_unreadable(
    image: Image.Image, page: TiffPage | None, path: Path, conversion: Conversion
) -> None:
    """Refuse an image that would be read wrongly.

    Raises:
        DataBroken: it is an animation, or has bands or a mode that cannot be read.
    """
    frames = getattr(image, "n_frames", 1) if image.format in _ANIMATED else 1
    if frames > 1:
        raise DataBroken(
            f"cannot read {path}",
            got=f"an animation of {frames} frames",
            need="an image of one frame",
            tip="write its frames as images: " + filled("magick {file} {stem}_%03d.png", path),
        )
    if page is not None:
        _refuse_bands(image, page, path, conversion)
    deep = stored_bits(image, page, path) > 8
    if deep and not readable(image, page) and page is not None:
        raise unsupported_tiff(path, page)
    if (deep and not readable(image, page)) or (not deep and image.mode not in _MODES):
        bits = f"{stored_bits(image, page, path)} bits a channel" if deep else f"mode {image.mode}"
        raise DataBroken(
            f"cannot read {path}",
            got=f"pixels of {bits} in the format {image.format}, which is not supported",
            need="grey or RGB of 8 bits a channel, or a 16-bit PNG or TIFF",
            tip=filled("magick {file} -colorspace sRGB {stem}.png", path),
        )


def _refuse_bands(image: Image.Image, page: TiffPage, path: Path, conversion: Conversion) -> None:
    """
    Raises:
        DataBroken: bands of a TIFF that Pillow would take for others.
    """
    if page.kind == "signed " and page.bits <= 8:  # Pillow reads -1 as 255
        raise unsupported_tiff(path, page)
    if not page.undeclared or conversion.bands is not None:
        return
    tip = conversion.tip("bands", (1, 2, 3))
    if tip is None:
        raise unsupported_tiff(path, page)
    raise DataBroken(
        f"cannot read {path}",
        got=f"{page.bands} bands, of which the fourth is not declared as alpha",
        need="the bands that are red, green and blue",
        tip=f"{tip} if the first three are",
        key="bands",
    )
