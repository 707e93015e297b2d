"""The images of an int8 export: training images to calibrate on, and a split to score on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from freqkd_cli import recipe as recipes
from freqkd_cli.build.training_parts import training_parts
from freqkd_cli.errors import DataMissing, UsageError
from freqkd_cli.score.evaluate import check_labelled
from freqkd_cli.score.scored_split import ScoredSplit

if TYPE_CHECKING:
    from freqkd_cli.images.dataset import Dataset


@dataclass(frozen=True)
class Int8Images:
    """The images of an int8 export.

    Attributes:
        train: the images that were trained on, for calibration.
        scored: the validation split, or the held-out images of ``data.hold_out``.
    """

    train: Dataset
    scored: ScoredSplit


def open_images(source: Path, recipe: str | None, root: Path | None, limit: int) -> Int8Images:
    """Open the images of a recipe. With ``data.hold_out``, the validation split is not read.

    Args:
        source: folder of the model, whose recipe is used where ``recipe`` is None.
        root: folder of the data set, instead of the recipe's.
        limit: images that are scored; 0 = all.

    Raises:
        UsageError: there is no recipe, or the validation split has no labels.
        RecipeError: no image can be held out.
        DataMissing: the images are not there.
    """
    beside = source / "recipe.yaml"
    if recipe is None and not beside.is_file():
        raise UsageError(
            "--int8 needs images to calibrate and to score on",
            got=f"{source} without a recipe.yaml",
            need="--recipe RECIPE",
            key="recipe",
        )
    loaded = recipes.load(recipe or str(beside), (), {"data.root": str(root) if root else None})
    try:
        parts = training_parts(loaded, root)
        scored = ScoredSplit.of_run(parts, loaded, root, limit)
    except DataMissing as error:
        raise DataMissing(
            "--int8 needs training images to calibrate on and labelled images to score on",
            got=error.line,
            need="the data set of the recipe",
            tip="--data-root DIR, or --recipe RECIPE",
            key="data.root",
        ) from error
    check_labelled(scored.dataset)
    return Int8Images(parts.trained, scored)
