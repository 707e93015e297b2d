"""The part of the training images that is scored and never trained on: ``data.hold_out``.

Images are chosen by a hash of their names. So the part is the same for every seed, machine and
order of files, and one more image moves at most one other image to the other side.

Numbers of images stay those of the whole split, so the view of an image and its row of a cache do
too. A cache of all training images serves every ``data.hold_out``.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

from freqkd_cli.images.dataset import Dataset, Origin, origin_of
from freqkd_cli.images.file_dataset import FileDataset

HELD_OUT = "the held-out part"
"""Name of the part in messages, where otherwise the name of a split stands."""


def labelled_images(dataset: Dataset) -> int:
    """Return the number of images with labels; those are the first ones."""
    every = len(dataset) if dataset.labelled else 0
    return getattr(dataset, "labelled_images", every)  # a data set of which a part is labelled


def held_out_numbers(dataset: Dataset, share: float) -> tuple[int, ...]:
    """Return the numbers of a share of the labelled images, in ascending order.

    At least one image is held out and at least one is left; none where fewer than two are labelled.
    """
    labelled = labelled_images(dataset)
    if labelled < 2:
        return ()
    count = min(max(round(share * labelled), 1), labelled - 1)
    ranked = sorted(range(labelled), key=lambda index: _rank(dataset.name(index)))
    return tuple(sorted(ranked[:count]))


def _rank(name: str) -> tuple[bytes, str]:
    composed = os.fsencode(unicodedata.normalize("NFC", name))  # systems differ in this form
    return hashlib.sha256(b"hold out " + composed).digest(), name


def part(dataset: Dataset, numbers: Sequence[int]) -> Dataset:
    """Return some images of a data set, counted from 0."""
    if isinstance(dataset, FileDataset):
        return dataset.part(numbers)
    return _Part(dataset, numbers)


def same_images(pool: Dataset, held_out: Dataset) -> frozenset[int]:
    """Return the numbers of the images of a pool that are held out.

    Files are compared by content, generated images by name and by the arguments of their data set.
    """
    if isinstance(pool, FileDataset) and isinstance(held_out, FileDataset):
        return pool.numbers_of_equal_files(held_out)
    generated = held_out.dataset if isinstance(held_out, _Part) else held_out
    if _identity(pool) != _identity(generated):
        return frozenset()
    names = {held_out.name(index) for index in range(len(held_out))}
    return frozenset(index for index in range(len(pool)) if pool.name(index) in names)


def _identity(dataset: Dataset) -> dict[str, Any]:
    """Return what two generated data sets share where equal names mean equal images."""
    fields = dataset.manifest()
    arguments = {key: x for key, x in fields.get("arguments", {}).items() if key != "labelled"}
    return {key: x for key, x in fields.items() if key != "number"} | {"arguments": arguments}


class _Part:
    """Some images of a data set that is not made of files; implements ``Dataset``."""

    def __init__(self, dataset: Dataset, numbers: Sequence[int]) -> None:
        self.dataset, self.numbers = dataset, tuple(numbers)
        self.classes, self.palette = dataset.classes, dataset.palette
        self.labelled = dataset.labelled
        self.labelled_images = sum(n < labelled_images(dataset) for n in self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    def name(self, index: int) -> str:
        return self.dataset.name(self.numbers[index])

    def image_size(self, index: int) -> tuple[int, int]:
        return self.dataset.image_size(self.numbers[index])

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        return self.dataset.read(self.numbers[index])

    def origin(self, index: int) -> Origin | None:
        return origin_of(self.dataset, self.numbers[index])

    def manifest(self) -> dict[str, Any]:
        return self.dataset.manifest() | {"part": list(self.numbers)}
