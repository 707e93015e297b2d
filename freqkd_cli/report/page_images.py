"""Predictions for a page: image, ground truth, baseline, best run, teacher, and where they err."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from freqkd_cli import recipe as recipes
from freqkd_cli.build.exported_model import load_file_or_folder
from freqkd_cli.build.training_parts import training_parts
from freqkd_cli.errors import FreqKDError
from freqkd_cli.images.dataset import spread
from freqkd_cli.report.comparison_image import VOID
from freqkd_cli.report.page_panels import (
    Panel,
    error_legend,
    error_panel,
    hex_color,
    label_panel,
    photo,
)
from freqkd_cli.report.page_roles import ShownRun
from freqkd_cli.runtime.precision import pick_device
from freqkd_cli.runtime.progress import Progress, bar
from freqkd_cli.score.predicted_labels import predicted
from freqkd_cli.score.scored_split import ScoredSplit
from freqkd_cli.teacher.teacher_classes import build_scored_teacher

if TYPE_CHECKING:
    import torch
    from torch import nn

    from freqkd_cli.images.dataset import Dataset
    from freqkd_cli.recipe.sections import Recipe


@dataclass(frozen=True)
class ImageRow:
    """The panels of one image."""

    name: str
    panels: list[Panel]


@dataclass(frozen=True)
class PageImages:
    """All images of a page.

    Attributes:
        classes, errors: (name, color) of the label images and of the error maps.
        notes: what was left out and why.
    """

    rows: list[ImageRow]
    classes: list[tuple[str, str]]
    errors: list[tuple[str, str]]
    notes: list[str]


@dataclass(frozen=True)
class _Model:
    name: str
    model: nn.Module


def page_images(
    runs: Sequence[ShownRun],
    count: int,
    progress: Progress,
    *,
    data_root: Path | None = None,
    device: str | None = None,
) -> PageImages:
    """Predict ``count`` of the images that the runs were scored on, spread over them.

    What is missing here (data, weights, a teacher) becomes a note, since a page is worth having
    without it.
    """
    notes: list[str] = []
    try:
        recipe = recipes.load(runs[-1].folder / "recipe.yaml")
        split = ScoredSplit.of_run(training_parts(recipe, data_root), recipe, data_root)
        models = [_Model(run.name, _loaded(run, split)) for run in runs]
        chosen = spread(len(split.dataset), count)
        teacher = _teacher([recipes.load(run.folder / "recipe.yaml") for run in runs], split, notes)
        models += [_Model("teacher", teacher)] if teacher is not None else []
        return _drawn(models, len(runs), split, chosen, progress, pick_device(device), notes)
    except (FreqKDError, OSError) as error:
        return PageImages([], [], [], [*notes, f"No predictions are shown: {in_one_line(error)}."])


def in_one_line(error: Exception) -> str:
    """Return the message of an error as one line without a full stop."""
    text = error.line if isinstance(error, FreqKDError) else str(error)
    return text.rstrip(".")


def _loaded(run: ShownRun, split: ScoredSplit) -> nn.Module:
    model = load_file_or_folder(run.folder)
    split.check_classes(model, str(run.folder), "use runs on the same data")
    return model


def _teacher(
    run_recipes: Sequence[Recipe], split: ScoredSplit, notes: list[str]
) -> nn.Module | None:
    """Return the teacher of the last recipe that has one; otherwise a note says why not."""
    recipe = next((recipe for recipe in reversed(run_recipes) if recipe.teacher), None)
    if recipe is None:
        notes.append("These recipes have no teacher.")
        return None
    try:
        teacher = build_scored_teacher(recipe, split.dataset.classes)
        split.check_classes(teacher, "the teacher", "map its classes in the recipe")
        return teacher.eval()
    except (FreqKDError, OSError) as error:
        notes.append(f"The teacher is left out: {in_one_line(error)}.")
        return None


def _drawn(
    models: Sequence[_Model],
    runs: int,
    split: ScoredSplit,
    chosen: Sequence[int],
    progress: Progress,
    device: torch.device,
    notes: list[str],
) -> PageImages:
    """Return the panels; the error map is that of the first ``runs`` models, one or two."""
    for model in models:
        model.model.to(device).eval().ready(device)
    rows, present = [], set()
    with bar(progress, "image", len(chosen)):
        for done, index in enumerate(chosen, start=1):
            rows.append(_row(models, runs, split.dataset, index, present))
            progress.advance(done)
    errors = error_legend([model.name for model in models[:runs]])
    return PageImages(rows, _class_legend(present, split.dataset), errors, notes)


def _row(
    models: Sequence[_Model], runs: int, dataset: Dataset, index: int, present: set[int]
) -> ImageRow:
    """Return the panels of one image; the labels that occur are added to ``present``."""
    image, truth = dataset.read(index)
    image, name = np.asarray(image), dataset.name(index)
    labels = [predicted(model.model, image, name) for model in models]
    maps = [np.asarray(truth), *labels] if truth is not None else labels
    present |= {int(label) for one in maps for label in np.unique(one)}
    headings = ["ground truth"] * (truth is not None) + [model.name for model in models]
    panels = [photo(image, name)]
    for heading, one in zip(headings, maps, strict=True):
        panels.append(label_panel(heading, one, truth, name, dataset))
    if truth is not None:
        names = [model.name for model in models[:runs]]
        classes = len(dataset.classes)
        panels.append(error_panel(names, labels[:runs], np.asarray(truth), classes, name))
    return ImageRow(name, panels)


def _class_legend(present: set[int], dataset: Dataset) -> list[tuple[str, str]]:
    """Return the names and colors of the labels that occur."""
    known = [k for k in sorted(present) if k < len(dataset.classes)]
    ignored = [("ignored", hex_color(VOID))] if len(known) < len(present) else []
    return [(dataset.classes[k], hex_color(dataset.palette[k])) for k in known] + ignored
