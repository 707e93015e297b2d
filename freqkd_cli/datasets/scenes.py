"""Synthetic street scenes, generated from (seed, index): endless, and no files to download.

The images and labels are the same on every machine. Of the twelve classes, some differ by global
layout alone: ``road`` and ``pavement`` share one asphalt, ``sky`` and ``water`` share colors and
clouds (:data:`GLOBAL_CLASSES`). Others differ by fine structure alone: a ``pole`` is a row of light
and dark bands, a ``railing`` a solid ``panel`` with bars, a ``sign`` a plain board with a pattern.
Each has the mean color of the class that it resembles (:data:`DETAIL_CLASSES`). So a student needs
both low and high frequencies, and the effect of a band loss can be measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from freqkd_cli.datasets._scenes_canvas import MARGIN, Canvas
from freqkd_cli.datasets._scenes_dice import Dice
from freqkd_cli.datasets._scenes_facades import paint_facades
from freqkd_cli.datasets._scenes_street import CLASSES, paint_open, plan
from freqkd_cli.datasets._scenes_things import place_things
from freqkd_cli.errors import UsageError
from freqkd_cli.images.dataset import SPLITS, Origin, Split

VERSION = 1
"""Version of the generator: raised whenever an image or a label changes."""

LAYOUT = "no files: the images are generated, --data-root is not needed"

GLOBAL_CLASSES = ("road", "pavement", "sky", "water")
"""Classes that a small patch of the image cannot tell from their partner."""

DETAIL_CLASSES = ("pole", "railing", "sign")
"""Classes that a blurred image cannot tell from their background or from a plain panel."""

PALETTE = (
    (96, 88, 130),
    (226, 150, 178),
    (122, 190, 232),
    (34, 96, 170),
    (168, 128, 98),
    (84, 160, 84),
    (218, 76, 62),
    (250, 180, 60),
    (250, 240, 110),
    (60, 206, 190),
    (206, 60, 200),
    (160, 164, 172),
)


def draw(
    seed: int, split: Split, index: int, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return one image ``[H, W, 3]`` uint8 RGB and its labels ``[H, W]`` uint8.

    Kerb stones are void (255).
    """
    dice = Dice(seed, SPLITS.index(split), index)
    canvas = Canvas(size)
    street = plan(dice)
    mirrored, shift = dice.chance(50), (dice.between(0, MARGIN), dice.between(0, MARGIN))
    paint_open(canvas, street, dice)
    boards = paint_facades(canvas, street, dice)
    place_things(canvas, street, dice, boards)
    return canvas.render(shift, mirrored)


READS_FOLDER = False
"""``data.root`` and ``--data-root`` have no meaning here."""


class Scenes:
    """A split of scenes; implements :class:`freqkd_cli.images.dataset.Dataset`.

    ``read`` takes any index from 0, also beyond the length.
    """

    labelled = True
    classes: tuple[str, ...] = CLASSES

    def __init__(
        self,
        split: Split,
        size: tuple[int, int],
        seed: int,
        number: int,
        labelled: int | None = None,
    ) -> None:
        self.split, self.size, self.seed, self.number = split, size, seed, number
        self.first_labelled = labelled
        self.palette = np.array(PALETTE, np.uint8)

    def __len__(self) -> int:
        return self.number

    @property
    def labelled_images(self) -> int:
        """Number of images with labels; those are the first ones."""
        return self.number if self.first_labelled is None else min(self.first_labelled, self.number)

    def name(self, index: int) -> str:
        return f"{self.split}_{index:06d}"

    def image_size(self, index: int) -> tuple[int, int]:
        return self.size

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        if index < 0:
            raise IndexError(index)
        image, labels = draw(self.seed, self.split, index, self.size)
        return image, labels if self._has_labels(index) else None

    def _has_labels(self, index: int) -> bool:
        return self.first_labelled is None or index < self.first_labelled

    def origin(self, index: int) -> Origin:
        origin = Origin([{**self.manifest(), "number": None}, index])
        return origin if self._has_labels(index) else origin.without_labels()

    def manifest(self) -> dict[str, Any]:
        arguments: dict[str, Any] = {"size": list(self.size), "seed": self.seed}
        if self.first_labelled is not None:
            arguments["labelled"] = self.first_labelled
        return {
            "name": "scenes",
            "split": self.split,
            "arguments": arguments,
            "number": self.number,
            "generator": VERSION,
        }


def build(
    *,
    split: Split,
    root: Path | None = None,
    size: tuple[int, int] = (192, 256),
    seed: int = 0,
    length: Annotated[int, Field(gt=0, le=10**7)] = 1024,
    held_out: Annotated[int, Field(gt=0, le=10**7)] = 200,
    labelled: Annotated[int, Field(gt=0, le=10**7)] | None = None,
) -> Scenes:
    """Return a split of synthetic street scenes.

    Args:
        split: train, val or test; three streams without a common image.
        root: not used.
        size: (H, W) of the images in pixels; the design sheet of 192x256 is stretched to it.
        seed: another seed gives other scenes.
        length: images in an epoch of train.
        held_out: images in val and in test.
        labelled: only the first N training images have labels, the others are used like those of a
            pool; all have labels by default.

    Raises:
        UsageError: an unknown split, or a size that is too small for a street.
    """
    if split not in SPLITS:
        raise UsageError(f"scenes has no split {split!r}", need=f"one of {', '.join(SPLITS)}")
    if min(size) < 16:
        raise UsageError(
            "data.size is too small for scenes",
            got=f"{size[0]}x{size[1]}",
            need="at least 16x16 pixels",
            key="size",
        )
    shape = (int(size[0]), int(size[1]))
    if split == "train":
        return Scenes(split, shape, seed, length, labelled)
    return Scenes(split, shape, seed, held_out)


def classes(**arguments: Any) -> tuple[str, ...]:
    """Return the twelve names; no argument changes them."""
    return CLASSES
