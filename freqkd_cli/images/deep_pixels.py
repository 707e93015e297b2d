"""Pixels of more than 8 bits a channel, at full depth.

Pillow opens 16-bit colors as 8-bit ones and keeps the high byte alone. The low byte is read by
decoding the file once more with the bytes of each value exchanged.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from freqkd_cli.images.tiff_header import TiffPage

_SIXTEEN = re.compile(r";16(?=[LBN]$)")
_EXCHANGED = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}

_GREY_ALPHA = "LA;16B"
"""Pillow reads its pixels of 4 bytes as RGBA, by the high bytes."""


def stored_bits(image: Image.Image, page: TiffPage | None, path: Path) -> int:
    """Return the bits a channel of an image file by its header; 8 where there are fewer.

    Args:
        page: the page of a TIFF.
        path: the file, or a cell of a table, of which Pillow knows no name.
    """
    if page is not None:
        return max(page.bits, 8)
    if image.format == "JPEG2000":
        return _jpeg2000_bits(path)
    if image.format == "PPM" and image.mode != "F":
        largest = [_args(tile)[-1] for tile in _tiles(image)]
        deep = any(isinstance(value, int) and value > 255 for value in largest)
        return 16 if deep or image.mode == "I" else 8
    if image.mode in ("I", "F"):
        return 32
    return 16 if image.mode.startswith("I;16") or any(map(_raw_mode, _tiles(image))) else 8


def readable(image: Image.Image, page: TiffPage | None) -> bool:
    """Return whether :func:`deep_values` can read an image of more than 8 bits a channel."""
    if len(image.getbands()) == 1:
        return True
    return bool(_tiles(image)) and not (page and page.planar) and all(map(_raw_mode, _tiles(image)))


def deep_values(image: Image.Image, path: Path) -> np.ndarray:
    """Return stored values, ``[H, W]`` or ``[H, W, C]``, of an image that is ``readable``.

    Args:
        path: the file, or a cell of a table.
    """
    if len(image.getbands()) == 1:
        values = np.array(image)
        return values.astype(values.dtype.newbyteorder("="))
    if _args(image.tile[0])[0] == _GREY_ALPHA:
        _replace_raw_modes(image, "RGBA")
        pairs = np.array(image)
        return pairs[..., 0].astype(np.uint16) << 8 | pairs[..., 1]
    with path.open("rb") as file, Image.open(file) as again:
        if again.mode != image.mode:
            again._mode = image.mode
        high, raw_mode = np.array(image), _raw_mode(again.tile[0])
        if image.mode == "RGBA":
            raw_mode = raw_mode.replace("RGBX", "RGBA")
        _replace_raw_modes(again, raw_mode[:-1] + _EXCHANGED[raw_mode[-1]])
        low = np.array(again)
    return high.astype(np.uint16) << 8 | low


def keep_fourth_band(image: Image.Image) -> None:
    """Let an RGB image with a fourth band, which Pillow drops, be decoded as RGBA."""
    image._mode = "RGBA"
    image.tile = [
        tile._replace(args=_with_raw_mode(tile, _args(tile)[0].replace("RGBX", "RGBA")))
        for tile in image.tile  # type: ignore[attr-defined]
    ]


def _tiles(image: Image.Image) -> list[Any]:
    return getattr(image, "tile", [])


def _args(tile: Any) -> tuple[Any, ...]:
    return tile.args if isinstance(tile.args, tuple) else (tile.args,)


def _raw_mode(tile: Any) -> str:
    """Return the raw mode of a tile whose values have 16 bits, else an empty text."""
    args = _args(tile)
    return args[0] if args and isinstance(args[0], str) and _SIXTEEN.search(args[0]) else ""


def _with_raw_mode(tile: Any, raw_mode: str) -> Any:
    return (raw_mode, *tile.args[1:]) if isinstance(tile.args, tuple) else raw_mode


def _replace_raw_modes(image: Image.Image, raw_mode: str) -> None:
    image.tile = [tile._replace(args=_with_raw_mode(tile, raw_mode)) for tile in image.tile]  # type: ignore[attr-defined]


def _jpeg2000_bits(path: Path) -> int:
    """Return the bits of the first channel, from the marker SIZ that begins the code stream."""
    with path.open("rb") as file:
        start = file.read(65536)
    place = start.find(b"\xff\x4f\xff\x51") + 42
    return max(8, (start[place] & 0x7F) + 1) if 42 <= place < len(start) else 8
