"""The bytes of one decoded image with its labels: the unit of :mod:`freqkd_cli.images.keep`.

A header of 64 bytes is followed by the labels, if any, and the pixels. It has the key of what was
decoded and a checksum. So bytes of another image, of an older file or a damaged one are recognized.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np

_HEADER = struct.Struct("<8s32sIIII8x")
_MAGIC = b"freqkd 1"
HEADER_BYTES = _HEADER.size

Content = tuple[np.ndarray, np.ndarray | None]
"""Image ``[H, W, 3]`` uint8, and labels ``[H, W]`` uint8 or uint16, or None."""


@dataclass(frozen=True)
class Slot:
    """A decoded image as bytes: the header, and what follows it."""

    header: bytes
    parts: tuple[memoryview, ...]

    @property
    def size(self) -> int:
        return len(self.header) + sum(part.nbytes for part in self.parts)


def slot_size(height: int, width: int, label_bytes: int) -> int:
    """Return the bytes of a slot; ``label_bytes`` per pixel, 0 without labels."""
    return HEADER_BYTES + height * width * (3 + label_bytes)


def packed(content: Content, key: bytes) -> Slot:
    """Return an image and its labels as bytes; ``key`` has 32 bytes."""
    image, labels = content
    arrays = [array for array in (labels, image) if array is not None]
    parts = tuple(memoryview(np.ascontiguousarray(array)).cast("B") for array in arrays)
    label_bytes = 0 if labels is None else labels.itemsize
    checksum = _checksum(parts)
    header = _HEADER.pack(_MAGIC, key, checksum, *image.shape[:2], label_bytes)
    return Slot(header, parts)


def has_key(data: memoryview | bytes, key: bytes) -> bool:
    """Return whether bytes begin with the header of ``key``."""
    return data[:40] == _MAGIC + key


def unpacked(data: memoryview, key: bytes, *, check: bool) -> Content | None:
    """Return read-only arrays in the memory of ``data``.

    None where ``data`` is not a slot of ``key``. Only with ``check`` is the checksum compared.
    """
    if len(data) < HEADER_BYTES or not has_key(data, key):
        return None
    *_, checksum, height, width, label_bytes = _HEADER.unpack(data[:HEADER_BYTES])
    end = slot_size(height, width, label_bytes)
    if label_bytes > 2 or len(data) < end:
        return None
    if check and _checksum([data[HEADER_BYTES:end]]) != checksum:
        return None
    middle = HEADER_BYTES + height * width * label_bytes
    image = np.frombuffer(data[middle:end], np.uint8).reshape(height, width, 3)
    if not label_bytes:
        return image, None
    labels = np.frombuffer(data[HEADER_BYTES:middle], f"u{label_bytes}")
    return image, labels.reshape(height, width)


def _checksum(parts: tuple[memoryview, ...] | list[memoryview]) -> int:
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return checksum
