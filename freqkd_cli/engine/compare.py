"""Runs side by side: the same images, the same count, one table and one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from freqkd_cli import recipe as recipes
from freqkd_cli.engine import assemble
from freqkd_cli.engine.estimate import parameters
from freqkd_cli.engine.evaluate import score
from freqkd_cli.engine.latency import measure_latency
from freqkd_cli.engine.precision import choose, pick_device
from freqkd_cli.engine.progress import Progress
from freqkd_cli.engine.saved import load_model
from freqkd_cli.engine.teacher_classes import build_scored_teacher
from freqkd_cli.errors import UsageError, WeightsMissing

if TYPE_CHECKING:
    from torch import Tensor, nn

    from freqkd_cli.datasets._dataset import Dataset
    from freqkd_cli.recipe.schema import Recipe


@dataclass(frozen=True)
class Comparison:
    """``rows``: one JSON object per model, the teacher last. ``panels``: for each picture, heading -> image or label map."""

    rows: list[dict[str, Any]]
    panels: list[dict[str, np.ndarray]]
    classes: tuple[str, ...]
    palette: np.ndarray


def compare(
    runs: Sequence[Path],
    progress: Progress,
    *,
    split: str = "val",
    limit: int = 0,
    pictures: int = 4,
    data_root: Path | None = None,
    device: str | None = None,
) -> Comparison:
    """Score several runs, and the teacher of the first that has one, on the same images.

    Raises:
        WeightsMissing: a folder is no run.
        UsageError: runs on different data, which no table can compare.
    """
    loaded = {run: _recipe(run) for run in runs}
    first = loaded[runs[0]]
    for run, recipe in loaded.items():
        if _data(recipe) != _data(first):
            raise UsageError(f"{runs[0]} and {run} were trained on different data", got=f"{_data(first)} and {_data(recipe)}")
    dataset = assemble.build_dataset(first, split, data_root)
    subjects: list[tuple[str, nn.Module]] = [(run.name, load_model(run)) for run in runs]
    taught = next((recipe for recipe in loaded.values() if recipe.teacher), None)
    if taught is not None:
        teacher = build_scored_teacher(taught, dataset.classes)
        if teacher.classes == len(dataset.classes):
            subjects.append(("teacher", teacher))
    shown = _spread(min(limit or len(dataset), len(dataset)), pictures)
    panels = [_truth(dataset, index) for index in shown]
    rows = [_row(name, model, dataset, first, limit, shown, panels, progress, device) for name, model in subjects]
    return Comparison(rows, panels, dataset.classes, dataset.palette)


def _row(
    name: str,
    model: nn.Module,
    dataset: Dataset,
    recipe: Recipe,
    limit: int,
    shown: Sequence[int],
    panels: list[dict[str, np.ndarray]],
    progress: Progress,
    device: str | None,
) -> dict[str, Any]:
    where = pick_device(device)
    kept: dict[int, Tensor] = {}

    def keep(index: int, prediction: Tensor) -> None:
        if index in shown:
            kept[index] = prediction

    progress.begin(name, min(limit or len(dataset), len(dataset)))
    model = model.to(where).eval()
    result = score(
        model,
        dataset,
        choose(where, "float32", "auto"),
        where,
        batch_size=recipe.train.batch_size,
        workers=recipe.data.workers,
        limit=limit,
        each=keep,
        progress=progress.advance,
    )
    progress.end()
    miou = result.scores.miou
    for index, panel in zip(shown, panels, strict=True):
        panel[f"{name}\n{100 * miou:.1f} mIoU" if miou is not None else name] = kept[index].numpy().astype(np.uint8)
    return {
        "name": name,
        "miou": miou,
        "boundary_iou": result.tally.boundary_iou(),
        "pixel_accuracy": result.scores.pixel_accuracy,
        "parameters": parameters(model),
        "latency_ms": round(measure_latency(model, tuple(recipe.data.size), where), 2),
        "images": result.images,
        "threads": torch.get_num_threads(),
    }


def _recipe(run: Path) -> Recipe:
    if not (run / "recipe.yaml").is_file():
        raise WeightsMissing(f"{run} is no run", need="a folder that freqkd distill wrote")
    return recipes.load(run / "recipe.yaml")


def _data(recipe: Recipe) -> dict[str, Any]:
    """What decides the held-out images; lengths and views of the training split may differ."""
    arguments = {key: value for key, value in recipe.data.arguments.items() if key != "length"}
    return {"name": recipe.data.name, "size": list(recipe.data.size), **arguments}


def _truth(dataset: Dataset, index: int) -> dict[str, np.ndarray]:
    image, labels = dataset.read(index)
    return {"image": image} if labels is None else {"image": image, "labels": labels}


def _spread(total: int, number: int) -> list[int]:
    """``number`` indices spread over ``range(total)``."""
    return sorted({round(i * (total - 1) / max(1, number - 1)) for i in range(min(number, total))})
