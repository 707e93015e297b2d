"""What ``freqkd eval`` scores: a run's student, a recipe's teacher, a model's folder on a recipe's data, or files of predictions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqkd_cli import recipe as recipes
from freqkd_cli.engine import assemble, doctor, recipe_facts
from freqkd_cli.engine.averaging import Averaged, Averaging
from freqkd_cli.engine.estimate import parameters
from freqkd_cli.engine.evaluate import as_json, mask_writer, score
from freqkd_cli.engine.latency import measure_latency, threads
from freqkd_cli.engine.precision import choose
from freqkd_cli.engine.predictions import score_files
from freqkd_cli.engine.processes import join
from freqkd_cli.engine.progress import Progress
from freqkd_cli.engine.saved import load_model
from freqkd_cli.engine.teacher_classes import build_scored_teacher, same_classes
from freqkd_cli.errors import CheckFailed, UsageError, WeightsMissing

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
    predictions: Path | None = None
    averaging: Averaging = Averaging()


def evaluate(source: str, options: Options, progress: Progress) -> dict[str, Any]:
    """Score ``source`` and describe it; the document of ``eval --json``.

    Raises:
        UsageError: the source names no data, or the model has other classes than the data.
        WeightsMissing, DataMissing, DataBroken: something is not where the source says, or cannot be scored.
        CheckFailed: the mIoU is below ``min_miou``; the result stands in the message.
    """
    document = _of_model(source, options, progress) if options.predictions is None else _of_files(source, options, progress)
    miou = document["miou"] or 0.0
    if options.min_miou is not None and miou < options.min_miou:
        raise CheckFailed(f"{document['model']} is below --min-miou", got=f"{100 * miou:.2f}", need=f"{100 * options.min_miou:.2f}")
    return document


def _of_model(source: str, options: Options, progress: Progress) -> dict[str, Any]:
    recipe, model, what = _subject(source, options)
    dataset = assemble.build_dataset(recipe, options.split, options.data_root)
    if model.classes != len(dataset.classes):
        raise UsageError(
            f"{what} and {recipe.data.name} have different classes",
            got=f"{model.classes} and {len(dataset.classes)}",
            tip="data with the model's classes, or a recipe whose teacher is this model, with teacher.class_map, and --teacher",
        )
    if not same_classes(model, dataset.classes):
        progress.note(f"warning: {what} and {recipe.data.name} name their classes differently; they are compared by number")
    processes = join(options.device)
    if processes.first:
        doctor.require(dataset, options.split, progress)
    device = processes.device
    model.ready(device)
    compute = choose(device, "float32", "auto")
    total = min(options.limit or len(dataset), len(dataset))
    progress.note(f"{what} on {total} images of {recipe.data.name}, split {options.split}, computing in {compute.reason}")
    progress.begin("image", total)
    scored = (model if options.averaging.plain else Averaged(model, options.averaging)).to(device).eval()
    try:
        result = score(
            scored,
            dataset,
            compute,
            device,
            # Averaged probabilities have the size of the picture; a batch of them would fill the memory.
            batch_size=recipe.train.batch_size if options.averaging.plain else 1,
            workers=recipe.data.workers,
            limit=options.limit,
            each=mask_writer(options.masks, dataset) if options.masks else None,
            progress=progress.advance,
            processes=processes,
        )
    finally:
        progress.end()
    return _document(source, what, options, as_json(result, dataset.classes)) | {
        "test_time": options.averaging.to_json(),
        "parameters": parameters(model),
        # By the first process, which tells it, once the others have nothing more to do.
        "latency_ms": round(measure_latency(scored, tuple(recipe.data.size), device), 3) if processes.first else None,
        "latency_size": list(recipe.data.size),
        "threads": threads(),
        "device": str(device),
    }


def _of_files(source: str, options: Options, progress: Progress) -> dict[str, Any]:
    """The same document for label PNGs that some other program wrote; what only a model has is null."""
    given = {"--teacher": options.teacher, "--masks": options.masks, "--flip, --scales or --slide": not options.averaging.plain}
    beside = [name for name, value in given.items() if value]
    if beside:
        raise UsageError("--predictions scores files, and no model is run", got=", ".join(beside), tip="leave it out")
    assert options.predictions is not None
    recipe = _load(options.recipe or _recipe_of(source), options)
    dataset = assemble.build_dataset(recipe, options.split, options.data_root)
    total = min(options.limit or len(dataset), len(dataset))
    progress.note(f"{options.predictions} on {total} images of {recipe.data.name}, split {options.split}")
    progress.begin("image", total)
    try:
        result = score_files(options.predictions, dataset, limit=options.limit, progress=progress.advance)
    finally:
        progress.end()
    nothing = dict.fromkeys(("test_time", "parameters", "latency_ms", "latency_size", "threads", "device"))
    return _document(source, str(options.predictions), options, as_json(result, dataset.classes)) | nothing


def _document(source: str, what: str, options: Options, found: dict[str, Any]) -> dict[str, Any]:
    return {"source": source, "model": what, "split": options.split, **found}


def _recipe_of(source: str) -> str:
    """A recipe's own name, or the file in a run's folder.

    Raises:
        UsageError: a folder without a recipe.
    """
    if not Path(source).is_dir():
        return source
    if not (Path(source) / "recipe.yaml").is_file():
        tip = f"freqkd eval {source} --recipe scenes_teacher"
        raise UsageError(f"{source} does not say on which data to score it", need="--recipe RECIPE", tip=tip)
    return str(Path(source) / "recipe.yaml")


def _subject(source: str, options: Options) -> tuple[Recipe, nn.Module, str]:
    """The recipe whose data is used, the model, and what to call it."""
    path = Path(source)
    if path.is_dir():
        named = options.recipe or _recipe_of(source)
        recipe = _load(named, options)
        return (recipe, _teacher(recipe), f"the teacher of {named}") if options.teacher else (recipe, load_model(path), source)
    if not options.teacher and not path.exists() and path.suffix not in (".yaml", ".yml"):
        raise WeightsMissing(f"there is no run at {source}", need="a run's folder, a model's folder with --recipe, or RECIPE --teacher")
    recipe = _load(source, options)
    if not options.teacher:
        raise UsageError(f"{source} is a recipe; only its teacher can be scored", tip=f"freqkd eval {source} --teacher, or freqkd eval RUN")
    return recipe, _teacher(recipe), f"the teacher of {source}"


def _load(named: str, options: Options) -> Recipe:
    return recipes.load(named, options.sets, {"data.root": str(options.data_root) if options.data_root else None})


def _teacher(recipe: Recipe) -> nn.Module:
    return build_scored_teacher(recipe, recipe_facts.class_names(recipe))
