"""``FileDataset``: a split made of image files and label files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from freqkd_cli.errors import DataBroken
from freqkd_cli.images.conversion import AS_STORED, Conversion
from freqkd_cli.images.dataset import Origin
from freqkd_cli.images.decode import Header, digest, file_size, header_of, read_upright
from freqkd_cli.images.label_advice import NO_ADVICE, Advice
from freqkd_cli.images.label_refusal import refusal
from freqkd_cli.images.label_rules import INVALID, LabelRule
from freqkd_cli.images.pairs import Pair
from freqkd_cli.images.stored_labels import NEED, count_values, read_header, read_labels
from freqkd_cli.runtime import file_hashes
from freqkd_cli.views.labels import IGNORE


@dataclass(frozen=True)
class Mask:
    """The content of a label image, for the label doctor.

    Attributes:
        values: stored value, or 0xRRGGBB of a ``colored`` mask, -> number of pixels.
        colored: it holds colors where the data set reads values.
        grey_rgb: it has several channels, all equal, which are read as one.
        labels: train ids ``[H, W]`` int32, :data:`INVALID` where a value must not occur; None
            for a colored mask.
        palette: index -> 0xRRGGBB of the indices that occur, where there is a palette.
        lowest: like ``values``, in the lowest quarter.
    """

    values: dict[float, int]
    colored: bool
    grey_rgb: bool
    labels: np.ndarray | None
    palette: dict[int, int]
    lowest: dict[float, int]


class FileDataset:
    """A split of image files with or without label images; implements ``Dataset``.

    Args:
        identity: ``name``, ``split`` and ``arguments`` for the manifest.
        pairs: the files, in the order of their numbers. Either all have labels or none has.
        classes: names in the order of the train ids.
        palette: ``[K, 3]`` uint8.
        rule: how stored label values are read.
        advice: how they may be misread.
        conversion: how images become 8-bit RGB.

    Attributes:
        rest: images of the same split without a label image, where the data set keeps them apart
            (``data.unlabelled: pool``); None elsewhere.
    """

    rest: FileDataset | None = None

    def __init__(
        self,
        identity: dict[str, Any],
        pairs: Sequence[Pair],
        classes: Sequence[str],
        palette: np.ndarray,
        rule: LabelRule,
        advice: Advice = NO_ADVICE,
        conversion: Conversion = AS_STORED,
    ) -> None:
        self.identity, self.pairs, self.rule, self.advice = identity, tuple(pairs), rule, advice
        self.classes, self.palette = tuple(classes), palette
        self.labelled = all(pair.label is not None for pair in self.pairs)
        self.conversion = conversion
        self._headers: dict[int, Header] = {}

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        return self.pairs[index].stem

    def image_size(self, index: int) -> tuple[int, int]:
        return self.header(index).size

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        pair = self.pairs[index]
        image = self.image(index)
        if pair.label is None:
            return image, None
        return image, self._labels(pair.label, pair.image, image.shape[:2])

    def origin(self, index: int) -> Origin | None:
        """Return the files of an image with what decides how they are read; None for cells.

        Raises:
            OSError: a file is missing.
        """
        pair = self.pairs[index]
        if not isinstance(pair.image, Path):
            return None
        files = [pair.image] if pair.label is None else [pair.image, pair.label]
        states = [file.stat() for file in files]
        place = [self._settings, *(str(file.absolute()) for file in files)]
        return Origin(
            place, [[s.st_size, s.st_mtime_ns] for s in states], labelled=pair.label is not None
        )

    @cached_property
    def _settings(self) -> str:
        """A hash of the keys that decide what pixels and labels a file gives."""
        rule = self.rule
        levels = rule.levels and [
            rule.levels.ids.tolist(),
            rule.levels.threshold,
            rule.levels.scale,
        ]
        colors = rule.colors and sorted(rule.colors.items())
        keys = [self.conversion.arguments(), colors, levels, rule.void, len(self.classes)]
        return hashlib.sha256(rule.table.tobytes() + json.dumps(keys).encode()).hexdigest()

    def manifest(self, indices: Sequence[int] | None = None) -> dict[str, Any]:
        """Return the identity with number, classes and a sha256 over all files, or of ``indices``.

        The hash covers stems, sizes and contents, in the order of the numbers: rows of a cache and
        views are stored and drawn by number.
        """
        pairs = self.pairs if indices is None else [self.pairs[index] for index in indices]
        total = hashlib.sha256()
        for pair in pairs:
            label = digest(pair.label) if pair.label else ("none",)
            for part in (pair.stem, *digest(pair.image), *label):
                total.update(os.fsencode(part) + b"\0")  # a stem need not be UTF-8
        file_hashes.keep_new()
        return {
            **self.identity,
            "number": len(self),
            "classes": list(self.classes),
            "sha256": total.hexdigest(),
        }

    def files(self) -> dict[str, tuple[str, str | None]]:
        """Return the name of each image -> the start of its hash and of that of its label image."""
        return {
            pair.stem: (
                digest(pair.image)[1][:16],
                digest(pair.label)[1][:16] if pair.label else None,
            )
            for pair in self.pairs
        }

    def images_alone(self) -> FileDataset:
        """Return the same images without their label files."""
        return self._with([Pair(pair.stem, pair.image, None) for pair in self.pairs])

    def part(self, numbers: Sequence[int]) -> FileDataset:
        """Return some images with their label files, counted from 0."""
        return self._with([self.pairs[number] for number in numbers])

    def _with(self, pairs: Sequence[Pair]) -> FileDataset:
        own = (self.classes, self.palette, self.rule, self.advice, self.conversion)
        return FileDataset(self.identity, pairs, *own)

    def numbers_of_equal_files(self, other: FileDataset) -> frozenset[int]:
        """Return the numbers of the images whose file has the content of one of ``other``.

        Raises:
            DataBroken: a file cannot be read.
        """
        digests = {digest(pair.image) for pair in other.pairs}
        sizes = {size for size, _ in digests}
        return frozenset(
            number
            for number, pair in enumerate(self.pairs)
            if file_size(pair.image) in sizes and digest(pair.image) in digests
        )

    def header(self, index: int) -> Header:
        """Return what the header of an image file shows, without decoding it."""
        if index not in self._headers:
            self._headers[index] = header_of(self.pairs[index].image, self.conversion)
        return self._headers[index]

    def image(self, index: int) -> np.ndarray:
        """Return the upright image, ``[H, W, 3]`` uint8 RGB, without its labels.

        Raises:
            DataBroken: it cannot be read.
        """
        return read_upright(self.pairs[index].image, self.conversion)

    def mask_header(self, index: int) -> tuple[tuple[int, int], int, bool]:
        """Return (H, W) of an image's label image, its channels, and whether it has 1 bit."""
        return read_header(self._label_path(index))

    def mask(self, index: int) -> Mask:
        """Return the content of an image's label image, valid or not.

        Raises:
            DataBroken: it cannot be read.
        """
        read_colors = self.rule.colors is not None
        stored = read_labels(self._label_path(index), colors=read_colors, white=self.rule.white)
        colored = stored.rgb and not read_colors
        counts = count_values(stored.values)
        return Mask(
            counts,
            colored,
            stored.grey_rgb,
            None if colored else self.rule.ids(stored.values),
            {int(k): stored.palette[int(k)] for k in counts if k in stored.palette},
            count_values(stored.values[3 * len(stored.values) // 4 :]),
        )

    def _label_path(self, index: int) -> Path:
        path = self.pairs[index].label
        assert path is not None
        return path

    def _labels(self, path: Path, image: Path, size: tuple[int, ...]) -> np.ndarray:
        read_colors = self.rule.colors is not None
        stored = read_labels(path, colors=read_colors, white=self.rule.white)
        if stored.rgb and not read_colors:
            tip = self.advice.for_colors(count_values(stored.values))
            raise DataBroken(f"{path} is not a label image", got="RGB colors", need=NEED, tip=tip)
        if stored.values.shape != tuple(size):
            raise DataBroken(
                f"{path} and its image {image.name} differ in size",
                got=f"{stored.values.shape[0]}x{stored.values.shape[1]} (height x width)",
                need=f"{size[0]}x{size[1]}",
            )
        labels = self.rule.ids(stored.values)
        if labels.min(initial=0) == INVALID:
            counts = count_values(stored.values)
            reason = refusal(counts, self.rule, self.advice, len(self.classes))
            parts = {"got": reason.got, "need": reason.need, "tip": reason.tip}
            raise DataBroken(f"{path} {reason.one}", **parts)
        return labels.astype(np.uint8 if len(self.classes) <= IGNORE else np.uint16)
