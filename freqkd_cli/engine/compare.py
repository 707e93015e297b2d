"""Runs side by side: the same images, the same count, one table and one picture."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from freqkd_cli import recipe as recipes
from freqkd_cli.engine.ground import Ground
from freqkd_cli.engine.precision import pick_device
from freqkd_cli.engine.processes import Processes
from freqkd_cli.engine.progress import Progress
from freqkd_cli.engine.saved import load_model
from freqkd_cli.engine.supervision import Supervision, supervision
from freqkd_cli.engine.teacher_classes import build_scored_teacher
from freqkd_cli.errors import UsageError, WeightsMissing

if TYPE_CHECKING:
    from torch import Tensor, nn

    from freqkd_cli.datasets._dataset import Dataset
    from freqkd_cli.recipe.schema import Recipe

TEACHER = "teacher"
"""Its name in the table."""


@dataclass(frozen=True)
class Subject:
    """A model to score; ``trained_with`` is None where that is not known."""

    name: str
    model: nn.Module
    trained_with: Supervision | None = None


@dataclass(frozen=True)
class Comparison:
    """Scores and predictions of several models.

    Attributes:
        rows: one JSON object per model, the teacher last.
        panels: for each image, heading -> image or label map; the second line of a heading says
            what the model was trained with.
    """


    rows: list[dict[str, Any]]
    panels: list[dict[str, np.ndarray]]
    classes: tuple[str, ...]
    palette: np.ndarray


def compare(
    runs: Sequence[Path],
    progress: Progress,
    *,
    names: Sequence[str] = (),
    split: str = "val",
    limit: int = 0,
    pictures: int = 4,
    data_root: Path | None = None,
    device: str | None = None,
) -> Comparison:
    """Score several runs, and the teacher of the first that has one, on the same images.

    Args:
        names: what the table calls the runs, one each; by default their folders.
        pictures: images whose predictions are returned, spread over the split.

    Raises:
        WeightsMissing: a folder is no run.
        UsageError: the runs differ in data, lack a name, or have other classes than the data.
        DataBroken: the labels are not what the recipe says.
    """
    if names and len(names) != len(runs):
        what = "--name is given once for each run, or not at all"
        raise UsageError(what, got=len(names), need=len(runs))
    recipes_of = {run: _recipe(run) for run in runs}
    _require_same_data(recipes_of, data_root)
    ground = Ground.of(recipes_of[runs[0]], split, data_root, limit)
    processes = Processes(pick_device(device))
    subjects: list[Subject] = []
    for run, name in zip(runs, names or _names(runs), strict=True):
        model = load_model(run)
        ground.require(model, str(run), progress, "data with the model's classes")
        subjects.append(Subject(name, model, supervision(recipes_of[run], data_root)))
    subjects += _teacher(recipes_of.values(), ground, progress)
    ground.look(progress)
    for subject in subjects:
        subject.model.ready(processes.device)
    panels = {index: _truth(ground.dataset, index) for index in _spread(ground.images, pictures)}
    rows = [_row(subject, ground, panels, progress, processes) for subject in subjects]
    return Comparison(rows, list(panels.values()), ground.dataset.classes, ground.dataset.palette)


def _teacher(of: Iterable[Recipe], ground: Ground, progress: Progress) -> list[Subject]:
    """The teacher of the first recipe that has one, under its name in the table; none where its classes are not the data's."""
    taught = next((recipe for recipe in of if recipe.teacher), None)
    if taught is None:
        return []
    teacher = build_scored_teacher(taught, ground.dataset.classes)
    if teacher.classes == len(ground.dataset.classes):
        return [Subject(TEACHER, teacher)]
    progress.note(f"the teacher has {teacher.classes} classes and the data {len(ground.dataset.classes)}, so it is left out")
    return []


def _row(
    subject: Subject,
    ground: Ground,
    panels: Mapping[int, dict[str, np.ndarray]],
    progress: Progress,
    processes: Processes,
) -> dict[str, Any]:
    """A model's row; its predictions of the images in ``panels`` (by number) are added there."""
    kept: dict[int, Tensor] = {}

    def keep(index: int, prediction: Tensor) -> None:
        if index in panels:
            kept[index] = prediction

    result = ground.score(subject.model, subject.name, progress, processes, each=keep)
    miou, trained_with = result.scores.miou, subject.trained_with
    heading = subject.name if miou is None else f"{subject.name}  {100 * miou:.1f} mIoU"
    if trained_with is not None:
        heading += f"\n{trained_with.in_words()}"
    for index, panel in panels.items():
        panel[heading] = kept[index].numpy().astype(np.uint8)
    return {
        "name": subject.name,
        "trained_with": asdict(trained_with) if trained_with else None,
        "miou": miou,
        "boundary_iou": result.tally.boundary_iou(),
        "pixel_accuracy": result.scores.pixel_accuracy,
        **ground.cost(subject.model, processes),
        "images": result.images,
    }


def _names(runs: Sequence[Path]) -> list[str]:
    """The last part of every path, with as many before it as tell the runs apart, from one another and from the teacher."""
    whole = [Path(os.path.abspath(run)).parts for run in runs]
    names: list[str] = []
    for number in range(1, max(map(len, whole)) + 1):
        names = [str(Path(*parts[-number:])) for parts in whole]
        if len({*names, TEACHER}) == len({*whole}) + 1:
            break
    return names


def _recipe(run: Path) -> Recipe:
    if not (run / "recipe.yaml").is_file():
        raise WeightsMissing(f"{run} is no run", need="a folder that freqkd distill wrote")
    return recipes.load(run / "recipe.yaml")


def _require_same_data(recipes_of: Mapping[Path, Recipe], root: Path | None) -> None:
    """
    Raises:
        UsageError: two runs were trained on different data, with what differs.
    """
    (first, recipe), *others = recipes_of.items()
    ours = _data(recipe, root)
    for run, other in others:
        theirs = _data(other, root)
        keys = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
        if keys:
            got = "; ".join(f"data.{key} {ours.get(key)} and {theirs.get(key)}" for key in keys)
            tip = "--data-root DIR, to score them on one folder" if keys == ["root"] else None
            raise UsageError(f"{first} and {run} were trained on different data", got=got, tip=tip)


def _data(recipe: Recipe, root: Path | None) -> dict[str, Any]:
    """What decides the held-out images; the training images and their views may differ."""
    folder = root or recipe.data.root
    training = ("length", "labelled")
    arguments = {key: value for key, value in recipe.data.arguments.items() if key not in training}
    return {"name": recipe.data.name, "root": folder and os.path.realpath(folder), "size": list(recipe.data.size), **arguments}


def _truth(dataset: Dataset, index: int) -> dict[str, np.ndarray]:
    image, labels = dataset.read(index)
    return {"image": image} if labels is None else {"image": image, "ground truth": labels}


def _spread(total: int, number: int) -> list[int]:
    """``number`` indices spread over ``range(total)``."""
    return sorted({round(i * (total - 1) / max(1, number - 1)) for i in range(min(number, total))})
