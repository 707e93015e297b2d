"""PNG and TIFF files of depths and channel counts that Pillow does not write."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

_PNG_COLOR = {1: 0, 2: 4, 3: 2, 4: 6}
"""Channels -> color type of a PNG."""


def write_png(path: Path, pixels: np.ndarray, bits: int) -> None:
    """Write ``[H, W]`` or ``[H, W, C]`` integers with 1, 2, 4, 8 or 16 bits a channel."""
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, width * channels)
    if bits == 16:
        packed = rows.astype(">u2").view(np.uint8).reshape(height, -1)
    else:
        every_bit = np.unpackbits(rows.astype(np.uint8)[..., None], axis=-1)[..., 8 - bits :]
        packed = np.packbits(every_bit.reshape(height, -1), axis=1)
    lines = b"".join(b"\0" + row.tobytes() for row in packed)
    header = struct.pack(">IIBBBBB", width, height, bits, _PNG_COLOR[channels], 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in parts))


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def write_tiff(path: Path, pages: Sequence[np.ndarray]) -> None:
    """Write ``[H, W]`` or ``[H, W, C]`` arrays of one dtype, one page each, without compression."""
    content = bytearray(b"II*\0" + struct.pack("<I", 0))
    link = 4
    for pixels in pages:
        data_at = len(content)
        content += np.ascontiguousarray(pixels).tobytes()
        content += b"\0" * (len(content) % 2)
        extra_at = len(content)
        extra, entries = _entries(pixels, data_at, extra_at)
        content += extra
        struct.pack_into("<I", content, link, len(content))
        content += struct.pack("<H", len(entries)) + b"".join(entries)
        link = len(content)
        content += struct.pack("<I", 0)
    path.write_bytes(bytes(content))


def _entries(pixels: np.ndarray, data_at: int, extra_at: int) -> tuple[bytes, list[bytes]]:
    """Return the values that do not fit into a directory entry, and the sorted entries."""
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    tags: dict[int, tuple[int, list[int]]] = {
        256: (3, [width]),
        257: (3, [height]),
        258: (3, [8 * pixels.dtype.itemsize] * channels),
        259: (3, [1]),
        262: (3, [2 if channels >= 3 else 1]),
        273: (4, [data_at]),
        277: (3, [channels]),
        278: (3, [height]),
        279: (4, [pixels.nbytes]),
        284: (3, [1]),
        339: (3, [kind] * channels),
    }
    if channels > 3:
        tags[338] = (3, [0] * (channels - 3))
    extra, entries = b"", []
    for tag, (form, values) in sorted(tags.items()):
        letter = "H" if form == 3 else "I"
        packed = struct.pack(f"<{len(values)}{letter}", *values)
        if len(packed) > 4:
            field = struct.pack("<I", extra_at + len(extra))
            extra += packed + b"\0" * (len(packed) % 2)
        else:
            field = packed.ljust(4, b"\0")
        entries.append(struct.pack("<HHI", tag, form, len(values)) + field)
    return extra, entries
