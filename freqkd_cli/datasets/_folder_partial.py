"""Splits in which only some images have a mask (``data.unlabelled: pool``).

The rule of names that pairs the most images chooses those with a mask. They must then pair like a
split of their own, so the same names are refused as in a folder where every image has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from freqkd_cli.datasets._folder_closest import closest
from freqkd_cli.datasets._folder_files import File
from freqkd_cli.images.dataset import spread

_SAMPLE = 8
"""Masks whose images are looked for, so that a rule is tried on images that have one."""


class MaskKeys(NamedTuple):
    """The keys of a recipe that decide which images have a mask.

    Attributes:
        pattern: ``data.mask``.
        unlabelled: ``data.unlabelled``; ``all`` for a pool, whose masks are only left out.
    """

    pattern: str | None = None
    unlabelled: Literal["refuse", "pool", "all"] = "refuse"

    @property
    def partial(self) -> bool:
        """Whether images may lack a mask beside others that have one."""
        return self.unlabelled != "refuse"


def images_with_masks(images: Sequence[File], masks: Sequence[File]) -> list[File]:
    """Return the images to which the rule that pairs the most images gives a mask."""
    ordered = dict.fromkeys((*_likely(images, masks), *images))
    absent = set(closest(list(ordered), masks).absent)
    return [file for file in images if file not in absent]


def _likely(images: Sequence[File], masks: Sequence[File]) -> list[File]:
    """Return, for some masks, the image with the longest stem that occurs in the mask's name."""
    chosen = [masks[place].name for place in spread(len(masks), _SAMPLE)]
    fits = ([file for file in images if file.stem in name] for name in chosen)
    return [max(files, key=lambda file: len(file.stem)) for files in fits if files]
