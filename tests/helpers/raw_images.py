"""PNG and TIFF files written byte by byte, in forms that Pillow does not write."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

GREY, RGB, GREY_ALPHA, RGBA = 0, 2, 4, 6
"""Color types of PNG."""


def png16(path: Path, values: np.ndarray, color: int) -> None:
    """Write ``[H, W, C]`` uint16 as a PNG of 16 bits a channel."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks))


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def tiff(
    path: Path,
    *pages: np.ndarray,
    order: str = "<",
    deflate: bool = False,
    planar: bool = False,
    photometric: int | None = None,
    extra: Sequence[int] = (),
    subfiles: Sequence[int] = (),
    tags: dict[int, tuple[int, list[int]]] | None = None,
) -> None:
    """Write pages ``[H, W, C]`` as a TIFF.

    Args:
        photometric: 1 grey (the default for fewer than three bands), 2 RGB, 5 CMYK.
        extra: the tag ExtraSamples.
        subfiles: the tag NewSubfileType of each page.
        tags: further tags: number -> (type, values), with type 3 for 16 bits and 4 for 32.
    """
    out = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    place = 8
    for number, page in enumerate(pages):
        height, width, bands = page.shape
        planes = np.moveaxis(page, -1, 0) if planar else page[None]
        strips = [plane.astype(plane.dtype.newbyteorder(order)).tobytes() for plane in planes]
        strips = [zlib.compress(strip) for strip in strips] if deflate else strips
        entries = {
            254: (4, [subfiles[number] if subfiles else 0]),
            256: (4, [width]),
            257: (4, [height]),
            258: (3, [8 * page.dtype.itemsize] * bands),
            259: (3, [8 if deflate else 1]),
            262: (3, [photometric if photometric is not None else 1 if bands < 3 else 2]),
            277: (3, [bands]),
            278: (4, [height]),
            284: (3, [2 if planar else 1]),
            339: (3, [{"u": 1, "i": 2, "f": 3}[page.dtype.kind]] * bands),
        }
        entries |= {338: (3, list(extra))} if extra else {}
        entries |= {273: (4, [0] * len(strips)), 279: (4, [len(strip) for strip in strips])}
        entries |= tags or {}
        start = place + 2 + 12 * len(entries) + 4
        values = sum(_padded(kind, part) for kind, part in entries.values())
        ends = np.cumsum([start + values, *(len(strip) for strip in strips)]).tolist()
        entries[273] = (4, ends[:-1])
        after = ends[-1] + ends[-1] % 2
        out += _directory(order, entries, start, after if number + 1 < len(pages) else 0)
        out += b"".join(strips) + b"\0" * (ends[-1] % 2)
        place = after
    path.write_bytes(out)


def _padded(kind: int, values: Sequence[int]) -> int:
    size = len(values) * (2 if kind == 3 else 4)
    return 0 if size <= 4 else size + size % 2


def _directory(
    order: str, entries: dict[int, tuple[int, list[int]]], start: int, following: int
) -> bytes:
    """Return a directory and the values that do not fit into its entries."""
    head, values = struct.pack(order + "H", len(entries)), b""
    for tag, (kind, numbers) in sorted(entries.items()):
        data = struct.pack(f"{order}{len(numbers)}{'H' if kind == 3 else 'I'}", *numbers)
        head += struct.pack(order + "HHI", tag, kind, len(numbers))
        if len(data) <= 4:
            head += data.ljust(4, b"\0")
        else:
            head += struct.pack(order + "I", start + len(values))
            values += data + b"\0" * (len(data) % 2)
    return head + struct.pack(order + "I", following) + values
