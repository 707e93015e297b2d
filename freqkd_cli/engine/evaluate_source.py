"""What ``freqkd eval`` scores: a run's student, a recipe's teacher, or a model's folder on a recipe's data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqkd_cli import recipe as recipes
from freqkd_cli.engine import assemble, doctor
from freqkd_cli.engine.estimate import parameters
from freqkd_cli.engine.evaluate import as_json, mask_writer, score
from freqkd_cli.engine.latency import measure_latency, threads
from freqkd_cli.engine.precision import choose, pick_device
from freqkd_cli.engine.progress import Progress
from freqkd_cli.engine.saved import load_model
from freqkd_cli.errors import CheckFailed, RecipeError, UsageError, WeightsMissing

if TYPE_CHECKING:
    from torch import nn

    from freqkd_cli.recipe.schema import Recipe


@dataclass(frozen=True)
class Options:
    """The options of ``freqkd eval``. ``limit`` 0 = all images; ``min_miou`` in [0, 1]."""

    split: str = "val"
    teacher: bool = False
    recipe: str | None = None
    masks: Path | None = None
    limit: int = 0
    min_miou: float | None = None
    data_root: Path | None = None
    device: str | None = None
    sets: tuple[str, ...] = ()


def evaluate(source: str, options: Options, progress: Progress) -> dict[str, Any]:
    """Score ``source`` and describe it; the document of ``eval --json``.

    Raises:
        UsageError: the source names no data, or the model has other classes than the data.
        WeightsMissing, DataMissing: something is not where the source says.
        DataBroken: labels that cannot be read as the recipe says.
        CheckFailed: the mIoU is below ``min_miou``; the result stands in the message.
    """
    recipe, model, what = _subject(source, options)
    dataset = assemble.build_dataset(recipe, options.split, options.data_root)
    if model.classes != len(dataset.classes):
        raise UsageError(
            f"{what} and {recipe.data.name} have different classes",
            got=f"{model.classes} and {len(dataset.classes)}",
            tip="data with the model's classes",
        )
    doctor.require(dataset, options.split, progress)
    device = pick_device(options.device)
    compute = choose(device, "float32", "auto")
    total = min(options.limit or len(dataset), len(dataset))
    progress.note(f"{what} on {total} images of {recipe.data.name}, split {options.split}, computing in {compute.reason}")
    progress.begin("image", total)
    model = model.to(device).eval()
    try:
        result = score(
            model,
            dataset,
            compute,
            device,
            batch_size=recipe.train.batch_size,
            workers=recipe.data.workers,
            limit=options.limit,
            each=mask_writer(options.masks, dataset) if options.masks else None,
            progress=progress.advance,
        )
    finally:
        progress.end()
    document = {"source": source, "model": what, "split": options.split, **as_json(result, dataset.classes)}
    document |= {
        "parameters": parameters(model),
        "latency_ms": round(measure_latency(model, tuple(recipe.data.size), device), 3),
        "latency_size": list(recipe.data.size),
        "threads": threads(),
        "device": str(device),
    }
    if options.min_miou is not None and (result.scores.miou or 0.0) < options.min_miou:
        raise CheckFailed(
            f"{what} is below --min-miou", got=f"{100 * (result.scores.miou or 0.0):.2f}", need=f"{100 * options.min_miou:.2f}"
        )
    return document


def _subject(source: str, options: Options) -> tuple[Recipe, nn.Module, str]:
    """The recipe whose data is used, the model, and what to call it."""
    path = Path(source)
    of_run = path / "recipe.yaml"
    if path.is_dir():
        named = options.recipe or (str(of_run) if of_run.is_file() else None)
        if named is None:
            raise UsageError(
                f"{source} does not say on which data to score it",
                need="--recipe RECIPE",
                tip=f"freqkd eval {source} --recipe scenes_teacher",
            )
        recipe = _load(named, options)
        if options.teacher:
            return recipe, _teacher(recipe), f"the teacher of {named}"
        return recipe, load_model(path), source
    if not options.teacher and not path.exists() and path.suffix not in (".yaml", ".yml"):
        raise WeightsMissing(f"there is no run at {source}", need="a run's folder, a model's folder with --recipe, or RECIPE --teacher")
    recipe = _load(source, options)
    if not options.teacher:
        raise UsageError(f"{source} is a recipe; only its teacher can be scored", tip=f"freqkd eval {source} --teacher, or freqkd eval RUN")
    return recipe, _teacher(recipe), f"the teacher of {source}"


def _load(named: str, options: Options) -> Recipe:
    return recipes.load(named, options.sets, {"data.root": str(options.data_root) if options.data_root else None})


def _teacher(recipe: Recipe) -> nn.Module:
    if recipe.teacher is None:
        raise RecipeError("the recipe has no teacher", tip="add a `teacher:` section")
    return assemble.build_teacher(recipe, len(assemble.class_names(recipe)))
