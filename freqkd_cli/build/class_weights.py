"""Class weights from the labels of the training split: pixels are counted, a rule is applied."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from freqkd_cli.images.dataset import spread
from freqkd_cli.images.file_dataset import FileDataset
from freqkd_cli.images.held_out import labelled_images

if TYPE_CHECKING:
    from freqkd_cli.images.dataset import Dataset
    from freqkd_cli.recipe.sections import LossLine, Recipe
    from freqkd_cli.runtime.progress import Progress

log = logging.getLogger(__name__)

MASKS = 5000
"""Masks that are counted. Of a larger split they are spread over it, and more of them are read
only while a class has no pixel yet."""

ALIKE = 1.01
"""Largest weight over the smallest one up to which ``effective`` makes no difference."""


@dataclasses.dataclass(frozen=True)
class Frequencies:
    """How often each class occurs, void left out.

    Attributes:
        pixels: ``[K]``, pixels of each class.
        around: ``[K]``, labelled pixels of all images in which the class occurs.
        masks: number of masks that were counted.
    """

    pixels: np.ndarray
    around: np.ndarray
    masks: int


def rules(recipe: Recipe) -> dict[str, LossLine]:
    """Return the loss lines, by their id, whose ``class_weights`` is a rule and not numbers."""
    return {
        line.id: line
        for line in recipe.losses
        if line.weight > 0 and isinstance(line.arguments.get("class_weights"), str)
    }


def with_weights(recipe: Recipe, weights: Mapping[str, Mapping[str, float]]) -> Recipe:
    """Return the recipe with numbers in place of rules; ``weights`` is id -> class -> weight."""
    losses = tuple(
        line.model_copy(
            update={
                "arguments": line.arguments | {"class_weights": list(weights[line.id].values())}
            }
        )
        if line.id in weights
        else line
        for line in recipe.losses
    )
    return dataclasses.replace(recipe, losses=losses)


def count_pixels(dataset: Dataset, classes: int, progress: Progress) -> Frequencies:
    """Count the labelled pixels of a split.

    Raises:
        DataBroken: a mask cannot be read.
    """
    pixels, around, masks = np.zeros(classes, np.int64), np.zeros(classes, np.int64), 0
    labelled = labelled_images(dataset)
    progress.begin("mask", min(MASKS, labelled))
    try:
        for index in _order(labelled):
            if masks >= MASKS and pixels.all():
                break
            of_mask = _pixels_of(dataset, index, classes)
            pixels += of_mask
            around += np.where(of_mask > 0, of_mask.sum(), 0)
            masks += 1
            progress.advance(min(masks, MASKS))
    finally:
        progress.end()
    return Frequencies(pixels, around, masks)


def _order(length: int) -> Iterator[int]:
    """Yield every index below ``length``, at first :data:`MASKS` of them spread evenly."""
    first = spread(length, MASKS)
    yield from first
    yield from np.setdiff1d(np.arange(length), first).tolist()


def _pixels_of(dataset: Dataset, index: int, classes: int) -> np.ndarray:
    """Return the pixels of each class in one mask; the image is decoded only where it must be."""
    labels = dataset.mask(index).labels if isinstance(dataset, FileDataset) else None
    if labels is None or labels.min(initial=0) < 0:
        labels = dataset.read(index)[1]  # raises the error of a mask that cannot be used
    assert labels is not None
    return np.bincount(labels.ravel(), minlength=classes)[:classes]


def class_weights(rule: str, frequencies: Frequencies, beta: float) -> np.ndarray:
    """Return the weight of every class, ``[K]`` float64; 0 for classes without a pixel.

    Args:
        rule: ``auto``, ``median``, ``inverse`` or ``effective``; see ``losses/cross_entropy.py``.
        beta: b of ``effective``.
    """
    occurs = frequencies.pixels > 0
    pixels = frequencies.pixels[occurs].astype(np.float64)
    weights = np.zeros(len(occurs))
    if not occurs.any():
        return weights
    if rule == "inverse":
        weights[occurs] = pixels.sum() / (len(pixels) * pixels)
    elif rule == "effective":
        # 1 - b^n without the rounding of b^n near 1; with b = 0 every class has the weight 1.
        each = -1 / np.expm1(pixels * math.log(beta)) if beta > 0 else np.ones_like(pixels)
        weights[occurs] = each / each.mean()
    else:
        share = pixels / frequencies.around[occurs]
        weights[occurs] = np.median(share) / share
    return weights


def counted_weights(
    recipe: Recipe, classes: tuple[str, ...], dataset: Dataset, progress: Progress
) -> dict[str, dict[str, float]]:
    """Return id -> class -> weight for every rule of a recipe, and log them.

    Nothing is counted where the recipe has no rule.
    """
    lines = rules(recipe)
    if not lines:
        return {}
    frequencies = count_pixels(dataset, len(classes), progress)
    absent = [name for name, n in zip(classes, frequencies.pixels, strict=True) if n == 0]
    if absent:
        log.warning(
            "no pixel of %s in the training split: the class weight is 0", ", ".join(absent)
        )
    weights: dict[str, dict[str, float]] = {}
    for id, line in lines.items():
        weights[id] = _of_line(line.arguments, frequencies, classes, f"losses.{id}")
        each = ", ".join(f"{name} {weight:.4g}" for name, weight in weights[id].items())
        rule, masks = line.arguments["class_weights"], frequencies.masks
        counted = f"{masks} of {labelled_images(dataset)} masks"
        progress.note(f"class weights of {id} ({rule}, {counted}): {each}")
    return weights


def _of_line(
    arguments: Mapping[str, Any], frequencies: Frequencies, classes: tuple[str, ...], key: str
) -> dict[str, float]:
    """Return class -> weight of one loss line; warn where ``effective`` makes no difference."""
    rule, beta = arguments["class_weights"], arguments["class_beta"]
    weights = class_weights(rule, frequencies, beta)
    occurring = weights[weights > 0]
    pixels = frequencies.pixels[frequencies.pixels > 0]
    alike = len(occurring) and occurring.max() / occurring.min() < ALIKE
    if rule == "effective" and alike and pixels.max() > 2 * pixels.min():
        better = 1 - 10.0 ** -math.ceil(math.log10(float(np.median(pixels))))
        log.warning(
            "class_weights effective: with class_beta %s all classes weigh the same, since they "
            "have too many pixels; try --set '%s.class_beta=%r'",
            beta,
            key,
            round(better, 15),
        )
    return dict(zip(classes, weights.tolist(), strict=True))
