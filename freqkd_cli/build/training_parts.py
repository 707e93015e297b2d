"""The training split of a recipe in two parts: trained on, and held out by ``data.hold_out``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from freqkd_cli.build import assemble
from freqkd_cli.build.training_images import share_of
from freqkd_cli.images.held_out import held_out_numbers, part, same_images
from freqkd_cli.images.pool import WithPool
from freqkd_cli.views.pool_share import PoolShare

if TYPE_CHECKING:
    from pathlib import Path

    from freqkd_cli.images.dataset import Dataset
    from freqkd_cli.recipe.sections import Recipe


@dataclass(frozen=True)
class TrainingParts:
    """The training split, whose numbering views and caches have, and its two parts.

    Attributes:
        whole: the training split.
        held: numbers of the images that are held out; none without ``data.hold_out``.
    """

    whole: Dataset
    held: tuple[int, ...] = ()

    @cached_property
    def numbers(self) -> Sequence[int]:
        """Numbers of the images that are trained on."""
        held = frozenset(self.held)
        every = range(len(self.whole))
        return tuple(number for number in every if number not in held) if held else every

    @cached_property
    def trained(self) -> Dataset:
        """The images that are trained on, without those of a pool."""
        return part(self.whole, self.numbers) if self.held else self.whole

    @cached_property
    def held_out(self) -> Dataset | None:
        """The images that are scored; None without ``data.hold_out``."""
        return part(self.whole, self.held) if self.held else None

    def pool_share(self, recipe: Recipe, images: Dataset) -> PoolShare | None:
        """Return what batches take of a pool; None without one. Held-out images are left out.

        Args:
            images: :func:`freqkd_cli.build.training_images.training_images` of the split.

        Raises:
            RecipeError: every image of the pool is held out.
        """
        if not isinstance(images, WithPool):
            return None
        first, length = len(self.whole), len(images.pool)
        held = same_images(images.pool, self.held_out) if self.held_out else frozenset()
        if not held:
            return PoolShare(length, share_of(recipe), range(first, first + length))
        if len(held) == length:
            text = "every image of the pool is held out; try --set data.hold_out=null"
            raise recipe.error([("data.hold_out", text)])
        numbers = tuple(first + index for index in range(length) if index not in held)
        return PoolShare(len(numbers), share_of(recipe), numbers)


def training_parts(recipe: Recipe, root: Path | None = None) -> TrainingParts:
    """Return the training split of a recipe and its parts.

    Args:
        root: the folder of the data set, instead of the recipe's.

    Raises:
        DataMissing: the data set is not where the recipe says.
        RecipeError: fewer than two training images have labels, so none can be held out.
    """
    dataset = assemble.build_dataset(recipe, "train", root)
    share = recipe.data.hold_out
    if share is None:
        return TrainingParts(dataset)
    held = held_out_numbers(dataset, share)
    if not held:
        text = "fewer than two training images have labels, so none can be held out and scored"
        raise recipe.error([("data.hold_out", f"{text}; try --set data.hold_out=null")])
    return TrainingParts(dataset, held)
