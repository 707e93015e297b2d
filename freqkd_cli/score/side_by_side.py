"""Runs side by side: scored on the same images in the same way, with predictions to draw."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from freqkd_cli import recipe as recipes
from freqkd_cli.build.exported_model import load_file_or_folder
from freqkd_cli.errors import Missing, RecipeError, UsageError, WeightsMissing
from freqkd_cli.images.dataset import spread
from freqkd_cli.recipe.data_section import held_out_data
from freqkd_cli.recipe.resolved import resolved
from freqkd_cli.runtime.precision import pick_device
from freqkd_cli.runtime.processes import Processes
from freqkd_cli.runtime.progress import Progress
from freqkd_cli.score.predicted_labels import predicted
from freqkd_cli.score.scored_split import ScoredSplit
from freqkd_cli.score.supervision import Supervision, supervision
from freqkd_cli.teacher.teacher_classes import build_scored_teacher

if TYPE_CHECKING:
    from torch import nn

    from freqkd_cli.images.dataset import Dataset
    from freqkd_cli.recipe.sections import Recipe

log = logging.getLogger(__name__)

TEACHER = "teacher"
"""Its name in the table."""

Panels = dict[str, np.ndarray]
"""Of one image: heading -> image or label map, in the order of the columns."""


@dataclass(frozen=True)
class ComparedModel:
    """A model to score; ``trained_with`` is None where that is not known."""

    name: str
    model: nn.Module
    trained_with: Supervision | None = None


@dataclass(frozen=True)
class Comparison:
    """Scores and predictions of several models.

    Attributes:
        rows: one JSON object per model, the teacher last.
        panels: of each image that is drawn; the second line of a heading names what the model was
            trained with.
    """

    rows: list[dict[str, Any]]
    panels: list[Panels]
    classes: tuple[str, ...]
    palette: np.ndarray


def compare(
    runs: Sequence[Path],
    progress: Progress,
    *,
    names: Sequence[str] = (),
    split: str = "val",
    limit: int = 0,
    images: int = 4,
    data_root: Path | None = None,
    device: str | None = None,
    batch_size: int | None = None,
) -> Comparison:
    """Score several runs, and the teacher of the first that has one, on the same images.

    Args:
        names: what the table calls the runs, one each; by default their folders.
        limit: score only the first images, 0 = all.
        images: number of images in ``panels``, spread over the whole split whatever the limit.

    Raises:
        WeightsMissing: a folder is not a run.
        UsageError: the runs have different data, lack a name, or have other classes than the data.
        DataBroken: the labels do not match the recipe.
    """
    if names and len(names) != len(runs):
        what = "--name is given once for each run, or not at all"
        raise UsageError(what, got=len(names), need=len(runs))
    run_recipes = {run: _recipe(run) for run in runs}
    _require_same_data(run_recipes, data_root)
    scored = ScoredSplit.open(run_recipes[runs[0]], split, data_root, limit, batch_size)
    processes = Processes(pick_device(device))
    models: list[ComparedModel] = []
    for run, name in zip(runs, names or _names(runs), strict=True):
        model = load_file_or_folder(run)
        scored.check_classes(model, str(run), "use data with the model's classes")
        models.append(ComparedModel(name, model, supervision(run_recipes[run], data_root)))
    models += _teacher(run_recipes.values(), scored)
    scored.check_labels(progress)
    for compared in models:
        compared.model.ready(processes.device)
    dataset = scored.dataset
    panels = {number: _truth(dataset, number) for number in spread(len(dataset), images)}
    rows = [_row(compared, scored, panels, progress, processes) for compared in models]
    return Comparison(rows, list(panels.values()), dataset.classes, dataset.palette)


def _teacher(run_recipes: Iterable[Recipe], scored: ScoredSplit) -> list[ComparedModel]:
    """The teacher of the first recipe that has one, if it is here and has the data's classes."""
    recipe = next((recipe for recipe in run_recipes if recipe.teacher), None)
    if recipe is None:
        return []
    try:
        teacher = build_scored_teacher(recipe, scored.dataset.classes)
    except (Missing, RecipeError) as error:  # such as a head that is new
        log.warning("the teacher is left out: %s", error.what)
        return []
    classes = len(scored.dataset.classes)
    if teacher.classes != classes:
        text = "the teacher has %d classes and the data %d, so the teacher is left out"
        log.info(text, teacher.classes, classes)
        return []
    scored.check_classes(teacher, "the teacher", "map its classes in the recipe")
    return [ComparedModel(TEACHER, teacher)]


def _row(
    compared: ComparedModel,
    scored: ScoredSplit,
    panels: Mapping[int, Panels],
    progress: Progress,
    processes: Processes,
) -> dict[str, Any]:
    """A model's row; its predictions of the images in ``panels`` (by number) are added there."""
    model, trained_with = compared.model, compared.trained_with
    result = scored.score(model, compared.name, progress, processes)
    heading = _heading(compared, result.values["miou"])
    for number, panel in panels.items():
        panel[heading] = predicted(model, panel["image"], scored.dataset.name(number))
    return {
        "name": compared.name,
        "trained_with": trained_with and asdict(trained_with),
        **result.values,
        "iou": dict(zip(scored.dataset.classes, result.tally.per_class()["iou"], strict=True)),
        **scored.cost(model, processes),
        "images": result.images,
    }


def _heading(compared: ComparedModel, miou: float | None) -> str:
    """Name and score, and below them what the model was trained with."""
    first = compared.name if miou is None else f"{compared.name}  {100 * miou:.1f} mIoU"
    return f"{first}\n{compared.trained_with.in_words()}" if compared.trained_with else first


def _names(runs: Sequence[Path]) -> list[str]:
    """The shortest ends of the runs' paths that differ from one another and from the teacher."""
    parts = [Path(os.path.abspath(run)).parts for run in runs]
    names: list[str] = []
    for number in range(1, max(map(len, parts)) + 1):
        names = [str(Path(*path[-number:])) for path in parts]
        if len({*names, TEACHER}) == len({*parts}) + 1:
            break
    return names


def _recipe(run: Path) -> Recipe:
    if not (run / "recipe.yaml").is_file():
        raise WeightsMissing(f"{run} is not a run", need="a folder that freqkd distill wrote")
    return recipes.load(run / "recipe.yaml")


def _require_same_data(run_recipes: Mapping[Path, Recipe], root: Path | None) -> None:
    """
    Raises:
        UsageError: two runs were trained on different data; the message has what differs.
    """
    (first, recipe), *others = run_recipes.items()
    wanted = held_out_data(resolved(recipe)["data"], root)
    for run, other in others:
        data = held_out_data(resolved(other)["data"], root)
        keys = [key for key in {**wanted, **data} if wanted.get(key) != data.get(key)]
        if keys:
            raise UsageError(
                f"{first} and {run} were trained on different data",
                got="; ".join(f"data.{key} {wanted.get(key)} and {data.get(key)}" for key in keys),
                need="runs with the same held-out images",
                tip="--data-root DIR scores them on one folder" if keys == ["root"] else None,
            )


def _truth(dataset: Dataset, number: int) -> Panels:
    image, labels = dataset.read(number)
    return {"image": image} if labels is None else {"image": image, "ground truth": labels}
