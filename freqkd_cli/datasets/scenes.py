"""Streets made on the fly from (seed, index): endless, the same on every machine, no file read.

Twelve classes. Some can be told apart by global layout alone: ``road`` and ``pavement`` wear the same asphalt, ``sky`` and ``water`` the
same colours and clouds (:data:`LAYOUT`). Some by fine structure alone: a ``pole`` is a row of light and dark bands, a ``railing`` a solid
``panel`` with bars, a ``sign`` a plain board with a pattern, each with the mean colour of what it is taken for (:data:`FINE`). So
a student needs both low and high frequencies, and a band-limited loss has something to show.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from freqkd_cli.datasets._dataset import SPLITS, Split
from freqkd_cli.datasets._scenes_canvas import MARGIN, Canvas, Dice
from freqkd_cli.datasets._scenes_street import CLASSES, paint_facades, paint_open, plan
from freqkd_cli.datasets._scenes_things import place_things
from freqkd_cli.errors import UsageError
from freqkd_cli.labels import IGNORE

VERSION = 1
"""Of the generator: raised whenever a picture or a label changes."""

LAYOUT = ("road", "pavement", "sky", "water")
"""Classes that a small piece of the picture cannot tell from their partner."""

FINE = ("pole", "railing", "sign")
"""Classes that a blurred picture cannot tell from what is behind them or from a plain panel."""

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


def draw(seed: int, split: Split, index: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """One picture ``[H, W, 3]`` uint8 RGB and its labels ``[H, W]`` uint8 (255 = void: kerb stones)."""
    dice = Dice(seed, SPLITS.index(split), index)
    canvas = Canvas(size)
    street = plan(dice)
    mirrored, shift = dice.chance(50), (dice.between(0, MARGIN), dice.between(0, MARGIN))
    paint_open(canvas, street, dice)
    boards = paint_facades(canvas, street, dice)
    place_things(canvas, street, dice, boards)
    return canvas.render(shift, mirrored)


class Scenes:
    """A split of streets; see :class:`freqkd_cli.datasets._dataset.Dataset`. ``read`` takes any index from 0, also beyond the length."""

    labelled = True
    classes: tuple[str, ...] = CLASSES

    def __init__(
        self, split: Split, size: tuple[int, int], seed: int, number: int, first: int | None = None
    ) -> None:
        self.split, self.size, self.seed, self.number = split, size, seed, number
        self.first_labelled = first
        self.palette = np.array(PALETTE, np.uint8)

    def __len__(self) -> int:
        return self.number

    @property
    def labelled_images(self) -> int:
        """How many of the images have labels."""
        return self.number if self.first_labelled is None else min(self.first_labelled, self.number)

    def name(self, index: int) -> str:
        return f"{self.split}_{index:06d}"

    def image_size(self, index: int) -> tuple[int, int]:
        return self.size

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if index < 0:
            raise IndexError(index)
        image, labels = draw(self.seed, self.split, index, self.size)
        if self.first_labelled is not None and index >= self.first_labelled:
            labels = np.full_like(labels, IGNORE)
        return image, labels

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
    """A split of streets.

    Args:
        split: train, val or test; three streams that share no picture.
        root: not read.
        size: (H, W) of the pictures in pixels; the sheet of 192x256 is stretched to it.
        seed: another seed gives another town.
        length: pictures in an epoch of train.
        held_out: pictures in val and in test.
        labelled: only the first N training images have labels, the others are 255 everywhere;
            all have labels by default.

    Raises:
        UsageError: there is no such split, or the size has no room for a street.
    """
    if split not in SPLITS:
        raise UsageError("scenes has no such split", got=repr(split), need=f"one of {', '.join(SPLITS)}")
    if min(size) < 16:
        raise UsageError("too small for a street", got=f"{size[0]}x{size[1]}", need="at least 16 pixels each way")
    shape = (int(size[0]), int(size[1]))
    if split == "train":
        return Scenes(split, shape, seed, length, labelled)
    return Scenes(split, shape, seed, held_out)


def classes(**arguments: Any) -> tuple[str, ...]:
    """The twelve names; no argument changes them."""
    return CLASSES
