"""What the label doctor examines: the headers of many label images, and the pixels of some."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from freqkd_cli.errors import DataBroken
from freqkd_cli.images.dataset import spread
from freqkd_cli.images.file_dataset import FileDataset, Mask
from freqkd_cli.images.label_refusal import rejected_values
from freqkd_cli.images.label_rules import INVALID
from freqkd_cli.views.labels import void_label

MASKS = 32
"""Label images whose pixels are read, spread over the split."""

HEADERS = 2000
"""Label images whose size is compared with that of their image, spread over the split."""

COLORED = 4
"""Label images read beyond the sample because their header shows several channels."""


@dataclass
class Survey:
    """Counts and problems of the examined label images. Indices are those of the images.

    Attributes:
        headers, read: how many label images were examined, by header and by pixel.
        broken: files that cannot be read, as their errors.
        misfits: index -> (size of the label image, size of the image).
        bits: label images of 1 bit, by their headers.
        several: label images with several channels, by their headers.
        colored: those of them that hold colors where values are read; ``colors`` counts the pixels
            of those that were read. If one does, all with several channels count as colored.
        grey: label images with several equal channels, which are read as one.
        rejected: index -> stored values that must not occur.
        values: stored values of label images with one channel, counted in pixels; ``ground`` those
            in their lowest quarter.
        void: label images without a pixel of any class.
        palettes: index -> the colors of the palette indices that occur.
        pixels, masks: by train id, how many pixels and in how many label images.
    """

    classes: int
    headers: int = 0
    read: int = 0
    broken: list[DataBroken] = field(default_factory=list)
    misfits: dict[int, tuple[tuple[int, int], tuple[int, int]]] = field(default_factory=dict)
    bits: list[int] = field(default_factory=list)
    several: list[int] = field(default_factory=list)
    colored: list[int] = field(default_factory=list)
    colors: Counter[int] = field(default_factory=Counter)
    grey: list[int] = field(default_factory=list)
    rejected: dict[int, list[float]] = field(default_factory=dict)
    values: Counter[float] = field(default_factory=Counter)
    ground: Counter[float] = field(default_factory=Counter)
    void: list[int] = field(default_factory=list)
    palettes: dict[int, dict[int, int]] = field(default_factory=dict)
    pixels: np.ndarray = field(init=False)
    masks: np.ndarray = field(init=False)
    void_pixels: int = 0

    def __post_init__(self) -> None:
        self.pixels = np.zeros(self.classes, np.int64)
        self.masks = np.zeros(self.classes, np.int64)


def survey(dataset: FileDataset, *, every: bool = False) -> Survey:
    """Examine a spread sample of a split with labels; with ``every`` all of it."""
    result = Survey(len(dataset.classes))
    for index in spread(len(dataset), len(dataset) if every else HEADERS):
        _add_header(result, dataset, index)
    sample = spread(len(dataset), len(dataset) if every else MASKS)
    seen = set(sample)
    more = [index for index in result.several if index not in seen][:COLORED]
    for index in (*sample, *more):
        _add_pixels(result, dataset, index)
    if result.colored:
        result.colored = sorted({*result.colored, *result.several})
        for index in result.grey:
            result.rejected.pop(index, None)
    return result


def _add_header(result: Survey, dataset: FileDataset, index: int) -> None:
    result.headers += 1
    try:
        image_size = dataset.image_size(index)
        size, channels, one_bit = dataset.mask_header(index)
    except DataBroken as error:
        result.broken.append(error)
        return
    if size != image_size:
        result.misfits[index] = (size, image_size)
    if one_bit:
        result.bits.append(index)
    if channels > 1 and dataset.rule.colors is None:
        result.several.append(index)


def _add_pixels(result: Survey, dataset: FileDataset, index: int) -> None:
    try:
        mask = dataset.mask(index)
    except DataBroken as error:
        if error.what not in {known.what for known in result.broken}:
            result.broken.append(error)
        return
    result.read += 1
    if mask.labels is None:
        result.colors.update(mask.values)
        result.colored.append(index)
        return
    if mask.grey_rgb:
        result.grey.append(index)
    result.values.update(mask.values)
    if mask.palette:
        result.palettes[index] = mask.palette
    _count(result, dataset, index, mask)


def _count(result: Survey, dataset: FileDataset, index: int, mask: Mask) -> None:
    assert mask.labels is not None
    rejected = rejected_values(mask.values, dataset.rule)
    if rejected:
        result.rejected[index] = rejected
    void = void_label(result.classes)
    counts = np.bincount(mask.labels.ravel() - INVALID, minlength=void - INVALID + 1)
    ids = counts[-INVALID : result.classes - INVALID]
    result.pixels += ids
    result.masks += ids > 0
    result.void_pixels += int(counts[void - INVALID])
    if not rejected and not ids.any():
        result.void.append(index)
    if dataset.advice.ground is not None:
        result.ground.update(mask.lowest)
