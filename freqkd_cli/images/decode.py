"""What data sets made of files share: decoding with Pillow, checking label values, a hash of the contents."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import ExifTags, Image

from freqkd_cli.errors import DataBroken
from freqkd_cli.images.label_values import (
    INVALID,
    NO_ADVICE,
    Advice,
    LabelRule,
    pack,
    packed,
    stored_values,
)
from freqkd_cli.images.pairs import Pair

_NEED = "one grey value or palette index per pixel"

_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
"""Pillow's modes of at most 8 bits a channel that it turns into RGB rightly; of 16 bits a channel it would keep what is below 256."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what shows the picture upright; from 5 on, height and width change places."""

_PNG_TELLS = frozenset({"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"})
"""Where a PNG tells its orientation; one that holds none of them need not be decoded to know that."""

# What Pillow raises on damaged files, beyond OSError.
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

T = TypeVar("T")


@dataclass(frozen=True)
class Mask:
    """A label image as it lies on disk, for those who judge it.

    Attributes:
        values: stored value, or 0xRRGGBB of a ``coloured`` mask, -> number of pixels.
        coloured: it holds colours where the data set reads values.
        labels: train ids ``[H, W]`` int16, :data:`INVALID` where a value must not occur; None for a coloured mask.
        palette: index -> 0xRRGGBB of the indices that occur, where there is a palette.
        lowest: like ``values``, in the lowest quarter.
    """

    values: dict[int, int]
    coloured: bool
    labels: np.ndarray | None
    palette: dict[int, int]
    lowest: dict[int, int]


class FileDataset:
    """A split of image files with or without label images: the ``Dataset`` protocol of this drawer.

    Args:
        identity: ``name``, ``split`` and ``arguments`` for the manifest.
        pairs: the files, in the order of their numbers. Either all have labels or none has.
        classes: names in the order of the train ids.
        palette: ``[K, 3]`` uint8.
        rule: how stored label values are read.
        advice: what may be wrong with them.
    """

    def __init__(
        self,
        identity: dict[str, Any],
        pairs: Sequence[Pair],
        classes: Sequence[str],
        palette: np.ndarray,
        rule: LabelRule,
        advice: Advice = NO_ADVICE,
    ) -> None:
        self.identity, self.pairs, self.rule, self.advice = identity, tuple(pairs), rule, advice
        self.classes, self.palette = tuple(classes), palette
        self.labelled = all(pair.label is not None for pair in self.pairs)
        self._sizes: dict[int, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        return self.pairs[index].stem

    def image_size(self, index: int) -> tuple[int, int]:
        if index not in self._sizes:
            self._sizes[index] = _opened(self.pairs[index].image, _upright_size)
        return self._sizes[index]

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        pair = self.pairs[index]
        image = read_upright(pair.image)
        return image, None if pair.label is None else self._labels(
            pair.label, pair.image, image.shape[:2]
        )

    def manifest(self) -> dict[str, Any]:
        """The identity with the number of pictures, the classes and a sha256 over stems, sizes and contents of all files."""
        total = hashlib.sha256()
        for pair in sorted(self.pairs, key=lambda p: p.stem):
            for part in (
                pair.stem,
                *digest(pair.image),
                *(digest(pair.label) if pair.label else ("none",)),
            ):
                total.update(f"{part}\0".encode())
        return {
            **self.identity,
            "number": len(self),
            "classes": list(self.classes),
            "sha256": total.hexdigest(),
        }

    def mask_header(self, index: int) -> tuple[tuple[int, int], int]:
        """(H, W) of a picture's label image and its number of channels, found without decoding it."""
        path = self.pairs[index].label
        assert path is not None
        return _opened(
            path, lambda picture: ((picture.height, picture.width), len(picture.getbands()))
        )

    def mask(self, index: int) -> Mask:
        """The label image of a picture, whatever it holds.

        Raises:
            DataBroken: it cannot be read, or holds fractions.
        """
        path = self.pairs[index].label
        assert path is not None
        stored, palette = _opened(
            path, lambda picture: (self.rule.stored(picture), _palette(picture))
        )
        coloured = stored.ndim != 2
        if coloured:
            stored = _opened(path, packed)
        elif stored.dtype.kind not in "ui":
            raise DataBroken(f"{path} is not a label image", got="fractions", need=_NEED)
        held = _counts(stored)
        used = {value: palette[value] for value in held if value in palette} if not coloured else {}
        return Mask(
            held,
            coloured,
            None if coloured else self.rule.ids(stored),
            used,
            _counts(stored[3 * len(stored) // 4 :]),
        )

    def _labels(self, path: Path, image: Path, size: tuple[int, ...]) -> np.ndarray:
        stored = _opened(path, self.rule.stored)
        if stored.dtype.kind not in "ui" or stored.ndim != 2:
            coloured = stored.ndim != 2
            got = f"{stored.shape[-1]} channels" if coloured else "fractions"
            tip = self.advice.for_colours(_counts(_opened(path, packed))) if coloured else None
            raise DataBroken(f"{path} is not a label image", got=got, need=_NEED, tip=tip)
        if stored.shape != tuple(size):
            raise DataBroken(
                f"{path} does not fit its picture {image.name}",
                got=f"{stored.shape[0]}x{stored.shape[1]}",
                need=f"{size[0]}x{size[1]}",
            )
        labels = self.rule.ids(stored)
        if labels.min(initial=0) == INVALID:
            odd = np.unique(stored[labels == INVALID]).tolist()
            tip = self.advice.for_values(np.unique(stored).tolist(), self.rule)
            raise DataBroken(
                f"{path} holds label values outside the classes",
                got=self.rule.spelled(odd),
                need=self.rule.need,
                tip=tip,
            )
        return labels.astype(np.uint8)


def digest(path: Path) -> tuple[str, str]:
    """Size and sha256 of a file; a file that did not change is read once per process."""
    try:
        status = path.stat()
        return str(status.st_size), _sha256(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise DataBroken(f"cannot read {path}", got=error.strerror) from error


@lru_cache(maxsize=200_000)
def _sha256(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_values(path: Path) -> np.ndarray:
    """A label image's grey values or palette indices as stored, ``[H, W]``; an array of another rank for anything else.

    Raises:
        DataBroken: it cannot be read.
    """
    return _opened(path, stored_values)


def read_upright(path: Path) -> np.ndarray:
    """A picture, ``[H, W, 3]`` uint8 RGB: turned as its EXIF orientation says, transparency dropped, the first frame.

    Raises:
        DataBroken: it cannot be read, or is not of 8 bits a channel.
    """
    return _opened(path, _upright)


def _upright(picture: Image.Image) -> np.ndarray:
    _check_mode(picture)
    turn = _TURNS.get(_orientation(picture))
    shown = picture.convert("RGB")
    return np.array(shown if turn is None else shown.transpose(turn))


def _upright_size(picture: Image.Image) -> tuple[int, int]:
    """(H, W) of what :func:`_upright` gives, from the header."""
    _check_mode(picture)
    size = (picture.height, picture.width)
    return size[::-1] if _orientation(picture) > 4 else size


def _orientation(picture: Image.Image) -> int:
    """EXIF orientation, 1 where there is none that can be read; Pillow turns a TIFF itself."""
    if picture.format == "TIFF" or (
        picture.format == "PNG" and not _PNG_TELLS & picture.info.keys()
    ):
        return 1
    try:
        found = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except _DAMAGED:
        return 1
    return found if found in _TURNS else 1


def _check_mode(picture: Image.Image) -> None:
    if picture.mode not in _MODES:
        raise DataBroken(
            f"cannot read {getattr(picture, 'filename', 'the picture')}",
            got=f"pixels of mode {picture.mode}, not 8 bits a channel",
            need="8 bits a channel, grey or RGB",
            tip="write it again with its values scaled to 0 .. 255",
        )


def _opened(path: Path, use: Callable[[Image.Image], T]) -> T:
    """What ``use`` makes of the picture, with every way in which a file can be damaged as one DataBroken."""
    try:
        with Image.open(path) as picture:
            return use(picture)
    except _DAMAGED as error:
        what = (
            "no such file"
            if isinstance(error, FileNotFoundError)
            else str(error).replace(str(path), path.name)
        )
        raise DataBroken(
            f"cannot read {path}", got=what, tip="restore the file or take it out of the split"
        ) from error


def _palette(picture: Image.Image) -> dict[int, int]:
    if picture.mode != "P":
        return {}
    colours = picture.getpalette("RGB") or []
    return {k: pack(colours[3 * k : 3 * k + 3]) for k in range(len(colours) // 3)}


def _counts(values: np.ndarray) -> dict[int, int]:
    """Value -> how often it occurs."""
    if values.dtype == np.uint8:
        counts = np.bincount(values.ravel(), minlength=256)
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))
