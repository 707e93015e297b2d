"""What data sets made of files share: decoding with Pillow, pairing by stem, checking label values, a hash of the contents."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageOps

from freqkd_cli.errors import DataBroken, DataMissing
from freqkd_cli.labels import IGNORE

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
LABEL_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
INVALID = -1
"""Entry of a label table for values that must not occur."""

# What Pillow raises on damaged files, beyond OSError.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, TypeError, struct.error, zlib.error, Image.DecompressionBombError)

T = TypeVar("T")


@dataclass(frozen=True)
class Pair:
    """A picture and its label image, or None."""

    stem: str
    image: Path
    label: Path | None


@dataclass(frozen=True)
class LabelRule:
    """How stored label values become train ids.

    Attributes:
        table: int16 ``[256]``, stored value -> train id, 255 for ignore, :data:`INVALID` for values that must not occur.
        need: the allowed values, in words.
        tip: what to try when others turn up.
    """

    table: np.ndarray
    need: str
    tip: str


class FileDataset:
    """A split of image files with or without label images: the ``Dataset`` protocol of this drawer.

    Args:
        identity: ``name``, ``split`` and ``arguments`` for the manifest.
        pairs: the files, in the order of their numbers. Either all have labels or none has.
        classes: names in the order of the train ids.
        palette: ``[K, 3]`` uint8.
        rule: how stored label values are read.
    """

    def __init__(
        self, identity: dict[str, Any], pairs: Sequence[Pair], classes: Sequence[str], palette: np.ndarray, rule: LabelRule
    ) -> None:
        self.identity, self.pairs, self.rule = identity, tuple(pairs), rule
        self.classes, self.palette = tuple(classes), palette
        self.labelled = all(pair.label is not None for pair in self.pairs)
        self._sizes: dict[int, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        return self.pairs[index].stem

    def image_size(self, index: int) -> tuple[int, int]:
        if index not in self._sizes:
            self._sizes[index] = _opened(self.pairs[index].image, lambda picture: (picture.height, picture.width))
        return self._sizes[index]

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        pair = self.pairs[index]
        image = _opened(pair.image, lambda picture: np.array(picture.convert("RGB")))
        return image, None if pair.label is None else self._labels(pair.label, pair.image, image.shape[:2])

    def manifest(self) -> dict[str, Any]:
        """The identity with the number of pictures, the classes and a sha256 over stems, sizes and contents of all files."""
        total = hashlib.sha256()
        for pair in sorted(self.pairs, key=lambda p: p.stem):
            for part in (pair.stem, *digest(pair.image), *(digest(pair.label) if pair.label else ("none",))):
                total.update(f"{part}\0".encode())
        return {**self.identity, "number": len(self), "classes": list(self.classes), "sha256": total.hexdigest()}

    def _labels(self, path: Path, image: Path, size: tuple[int, ...]) -> np.ndarray:
        stored = _opened(path, _stored_values)
        if stored.dtype.kind not in "ui" or stored.ndim != 2:
            got = "fractions" if stored.ndim == 2 else f"{stored.shape[-1]} channels"
            raise DataBroken(f"{path} is not a label image", got=got, need="one grey value or palette index per pixel")
        if stored.shape != tuple(size):
            raise DataBroken(
                f"{path} does not fit its picture {image.name}", got=f"{stored.shape[0]}x{stored.shape[1]}", need=f"{size[0]}x{size[1]}"
            )
        small = stored.astype(np.uint8) if stored.dtype != np.uint8 else stored
        labels = self.rule.table[small]
        if labels.min(initial=0) == INVALID or (stored is not small and not np.array_equal(small, stored)):
            odd = [int(v) for v in np.unique(stored) if not (0 <= v <= 255) or self.rule.table[int(v)] == INVALID]
            listed = ", ".join(map(str, odd[:12])) + (" ..." if len(odd) > 12 else "")
            raise DataBroken(f"{path} holds label values outside the classes", got=listed, need=self.rule.need, tip=self.rule.tip)
        return labels.astype(np.uint8)


def label_rule(ids: Iterable[int], ignore: Iterable[int], tip: str) -> LabelRule:
    """Stored ``ids`` become 0, 1, 2 ... in the order given, ``ignore`` becomes 255; anything else must not occur."""
    table = np.full(256, INVALID, dtype=np.int16)
    ids, ignore = list(ids), sorted(set(ignore))
    table[ids] = range(len(ids))
    table[ignore] = IGNORE
    run = f"{ids[0]} .. {ids[-1]}" if ids and ids == list(range(ids[0], ids[0] + len(ids))) else ", ".join(map(str, ids))
    return LabelRule(table, f"{run}, or {' or '.join(map(str, ignore))} to ignore" if ignore else run, tip)


def stems(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """The files of a folder with one of these suffixes, by stem, sorted; hidden files are passed over.

    Raises:
        DataBroken: two files share a stem.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in suffixes or path.name.startswith(".") or not path.is_file():
            continue
        if path.stem in found:
            both = f"{found[path.stem].name} and {path.name}"
            raise DataBroken(f"two files of {folder} share a stem", got=both, need="one file per stem")
        found[path.stem] = path
    return found


def pair_by_stem(images: Path, labels: Path | None) -> list[Pair]:
    """Pictures of a folder with the label images of the same stem in another.

    Raises:
        DataMissing: no picture in ``images``.
        DataBroken: pictures without a label image, where there is a folder for them.
    """
    pictures = stems(images, IMAGE_SUFFIXES)
    if not pictures:
        raise DataMissing(f"no pictures in {images}", need="files ending in " + " ".join(IMAGE_SUFFIXES))
    if labels is None:
        return [Pair(stem, path, None) for stem, path in pictures.items()]
    masks = stems(labels, LABEL_SUFFIXES)
    alone = [stem for stem in pictures if stem not in masks]
    if alone:
        raise DataBroken(
            f"{len(alone)} of {len(pictures)} pictures in {images} have no label image in {labels}",
            got="no " + ", ".join(alone[:3]) + (" ..." if len(alone) > 3 else ""),
            need="a file of the same stem ending in " + " ".join(LABEL_SUFFIXES),
        )
    return [Pair(stem, path, masks[stem]) for stem, path in pictures.items()]


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
    return _opened(path, _stored_values)


def read_upright(path: Path) -> np.ndarray:
    """A picture of no data set, ``[H, W, 3]`` uint8 RGB: turned as its EXIF orientation says, transparency dropped, the first frame.

    Raises:
        DataBroken: it cannot be read, or has more than 8 bits a channel.
    """
    return _opened(path, _upright)


def _upright(picture: Image.Image) -> np.ndarray:
    if picture.mode.startswith(("I", "F")):
        raise ValueError(f"{picture.mode} pixels; 8 bits a channel are read")
    return np.array(ImageOps.exif_transpose(picture).convert("RGB"))


def _opened(path: Path, use: Callable[[Image.Image], T]) -> T:
    """What ``use`` makes of the picture, with every way in which a file can be damaged as one DataBroken."""
    try:
        with Image.open(path) as picture:
            return use(picture)
    except _DAMAGED as error:
        what = "no such file" if isinstance(error, FileNotFoundError) else str(error).replace(str(path), path.name)
        raise DataBroken(f"cannot read {path}", got=what, tip="restore the file or take it out of the split") from error


def _stored_values(picture: Image.Image) -> np.ndarray:
    """Grey values or palette indices as stored, never expanded to colours; an array of another rank for anything else."""
    values = np.array(picture)
    return values.astype(np.uint8) if values.dtype == bool else values
