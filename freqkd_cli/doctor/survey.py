"""What the label doctor looks at: the headers of many label images, and the pixels of some."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from freqkd_cli.errors import DataBroken
from freqkd_cli.images.decode import FileDataset, Mask
from freqkd_cli.images.label_values import INVALID
from freqkd_cli.views.labels import IGNORE

MASKS = 32
"""Label images whose pixels are read, spread over the split."""

HEADERS = 2000
"""Label images whose size is compared with their picture's, spread over the split."""

COLOURED = 4
"""Label images read beyond the sample because their header says that they hold colours."""


@dataclass
class Survey:
    """What was seen. Indices are those of the pictures.

    Attributes:
        headers, read: how many label images were looked at, by header and by pixel.
        broken: files that cannot be read, as their errors.
        misfits: index -> (size of the label image, size of the picture).
        coloured: label images with several channels where one is read; ``colours`` counts the pixels of those that were read.
        odd: index -> stored values that must not occur.
        seen: stored values of label images with one channel, counted in pixels; ``ground`` those in their lowest quarter.
        void: label images without a single pixel of a class.
        palettes: index -> the colours of the palette indices that occur.
        pixels, masks: by train id, how many pixels and in how many label images.
    """

    classes: int
    headers: int = 0
    read: int = 0
    broken: list[DataBroken] = field(default_factory=list)
    misfits: dict[int, tuple[tuple[int, int], tuple[int, int]]] = field(default_factory=dict)
    coloured: list[int] = field(default_factory=list)
    colours: Counter[int] = field(default_factory=Counter)
    odd: dict[int, list[int]] = field(default_factory=dict)
    seen: Counter[int] = field(default_factory=Counter)
    ground: Counter[int] = field(default_factory=Counter)
    void: list[int] = field(default_factory=list)
    palettes: dict[int, dict[int, int]] = field(default_factory=dict)
    pixels: np.ndarray = field(init=False)
    masks: np.ndarray = field(init=False)
    void_pixels: int = 0

    def __post_init__(self) -> None:
        self.pixels = np.zeros(self.classes, np.int64)
        self.masks = np.zeros(self.classes, np.int64)


def survey(dataset: FileDataset, *, every: bool = False) -> Survey:
    """Look at a split with labels: a spread sample of it, or with ``every`` at all of it."""
    found = Survey(len(dataset.classes))
    for index in spread(len(dataset), len(dataset) if every else HEADERS):
        _header(found, dataset, index)
    sample = spread(len(dataset), len(dataset) if every else MASKS)
    more = [index for index in found.coloured if index not in set(sample)][:COLOURED]
    for index in (*sample, *more):
        _pixels(found, dataset, index)
    return found


def spread(length: int, number: int) -> list[int]:
    """At most ``number`` indices below ``length``, evenly spread, the first and the last among them."""
    return (
        np.unique(np.linspace(0, length - 1, min(number, length)).round().astype(int)).tolist()
        if length
        else []
    )


def _header(found: Survey, dataset: FileDataset, index: int) -> None:
    found.headers += 1
    try:
        picture = dataset.image_size(index)
        size, channels = dataset.mask_header(index)
    except DataBroken as error:
        found.broken.append(error)
        return
    if size != picture:
        found.misfits[index] = (size, picture)
    if channels > 1 and dataset.rule.colours is None:
        found.coloured.append(index)


def _pixels(found: Survey, dataset: FileDataset, index: int) -> None:
    try:
        mask = dataset.mask(index)
    except DataBroken as error:
        if error.what not in {one.what for one in found.broken}:
            found.broken.append(error)
        return
    found.read += 1
    if mask.labels is None:
        found.colours.update(mask.values)
        if index not in found.coloured:
            found.coloured.append(index)
        return
    found.seen.update(mask.values)
    if mask.palette:
        found.palettes[index] = mask.palette
    _count(found, dataset, index, mask)


def _count(found: Survey, dataset: FileDataset, index: int, mask: Mask) -> None:
    assert mask.labels is not None
    odd = [value for value in mask.values if not dataset.rule.takes([value])]
    if odd:
        found.odd[index] = odd
    counts = np.bincount(mask.labels.ravel() - INVALID, minlength=IGNORE - INVALID + 1)
    ids = counts[-INVALID : found.classes - INVALID]
    found.pixels += ids
    found.masks += ids > 0
    found.void_pixels += int(counts[IGNORE - INVALID])
    if not odd and not ids.any():
        found.void.append(index)
    if dataset.advice.ground is not None:
        found.ground.update(mask.lowest)
