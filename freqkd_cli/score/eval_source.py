"""What ``freqkd eval`` scores: a run, a teacher, a model's folder, an exported file, or PNGs."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqkd_cli import recipe as recipes
from freqkd_cli.build import assemble, recipe_facts
from freqkd_cli.build.exported_model import ExportedModel, is_exported_file, load_file_or_folder
from freqkd_cli.build.saved import CONFIG
from freqkd_cli.errors import CheckFailed, UsageError, WeightsMissing, some
from freqkd_cli.runtime.precision import for_scores
from freqkd_cli.runtime.processes import Processes, join
from freqkd_cli.runtime.progress import Progress
from freqkd_cli.score.averaging import Averaged, Averaging, require_class_scores
from freqkd_cli.score.evaluate import as_json
from freqkd_cli.score.label_files import check_masks, mask_writer
from freqkd_cli.score.prediction_codings import TRAIN_IDS, Coding
from freqkd_cli.score.score_files import score_files
from freqkd_cli.score.scored_split import ScoredSplit
from freqkd_cli.score.source_recipe import recipe_of
from freqkd_cli.score.tally import metrics_of
from freqkd_cli.teacher.teacher_classes import build_scored_teacher
from freqkd_cli.weights.folder_kinds import source_folder

if TYPE_CHECKING:
    from torch import nn

    from freqkd_cli.recipe.sections import Recipe

log = logging.getLogger(__name__)

_OTHER_CLASSES = (
    "use data with the model's classes, or a recipe whose teacher is this model, "
    "with teacher.class_map, and --teacher"
)


@dataclass(frozen=True)
class EvalOptions:
    """The options of ``freqkd eval``.

    Attributes:
        limit: only the first images, 0 = all.
        min_miou: in [0, 1].
        coding: what the pixels of ``predictions`` hold; None = class numbers.
        overwrite: replace files in ``masks``.
        batch_size: None = by the size of the images.
        metrics: requested metrics, see :class:`freqkd_cli.score.tally.Tally`.
    """

    split: str = "val"
    teacher: bool = False
    recipe: str | None = None
    masks: Path | None = None
    overwrite: bool = False
    limit: int = 0
    min_miou: float | None = None
    data_root: Path | None = None
    device: str | None = None
    sets: tuple[str, ...] = ()
    predictions: Path | None = None
    coding: Coding | None = None
    averaging: Averaging = Averaging()
    batch_size: int | None = None
    metrics: tuple[str, ...] = ()


def evaluate(source: str, options: EvalOptions, progress: Progress) -> dict[str, Any]:
    """Score ``source``; the document of ``eval --json``.

    Raises:
        UsageError: the source names no data, or the model has other classes than the data.
        WeightsMissing, DataMissing, DataBroken: something is missing or cannot be scored.
        CheckFailed: the mIoU is below ``min_miou``; the message has both.
    """
    if options.overwrite and options.masks is None:
        raise UsageError("--overwrite has no effect without --masks", need="--masks DIR")
    if options.coding is not None and options.predictions is None:
        raise UsageError("--coding has no effect without --predictions", need="--predictions DIR")
    if options.teacher and options.recipe is not None:
        what = "--teacher scores the teacher of SOURCE on its own data, so --recipe has no effect"
        tip = f"leave out --recipe, or freqkd eval {options.recipe} --teacher"
        raise UsageError(what, got=f"--recipe {options.recipe}", tip=tip)
    score_source = _score_model if options.predictions is None else _score_predictions
    document = score_source(source, options, progress)
    absent = [row["name"] for row in document["per_class"] if row["accuracy"] is None]
    if absent:
        text = "%d class%s without a pixel in the %d label images of %s: %s"
        plural = "" if len(absent) == 1 else "es"
        log.warning(text, len(absent), plural, document["images"], options.split, some(absent, 6))
    miou = document["miou"] or 0.0
    if options.min_miou is not None and miou < options.min_miou:
        raise CheckFailed(
            f"the mIoU of {document['model']} is below --min-miou",
            got=f"{100 * miou:.2f}",
            need=f"{100 * options.min_miou:.2f}",
        )
    return document


def _score_model(source: str, options: EvalOptions, progress: Progress) -> dict[str, Any]:
    recipe, model, name = _subject(source, options)
    require_class_scores(model, options.averaging)
    how = (options.limit, options.batch_size, metrics_of(model, options.metrics))
    split = ScoredSplit.open(recipe, options.split, options.data_root, *how)
    split.check_classes(model, name, _OTHER_CLASSES)
    if options.masks:
        check_masks(options.masks, split.dataset, recipe, options.data_root, options.overwrite)
    processes = join(options.device or getattr(model, "runs_on", None))
    _prepare(split, model, name, options, processes, progress)
    averaging = options.averaging
    scored = model if averaging.plain else Averaged(model, averaging)
    result = split.score(
        scored,
        "image",
        progress,
        processes,
        # Averaged probabilities have the size of the image; a batch of them would fill the memory.
        batch_size=None if averaging.plain else 1,
        each=mask_writer(options.masks, split.dataset) if options.masks else None,
    )
    scores = as_json(result, split.dataset.classes) | {"test_time": averaging.to_json()}
    scores["coding"] = None
    return _document(source, name, options, scores) | split.cost(model, processes, scored)


def _prepare(
    split: ScoredSplit,
    model: nn.Module,
    name: str,
    options: EvalOptions,
    processes: Processes,
    progress: Progress,
) -> None:
    """Check the labels, make the model ready, and log what is scored."""
    if processes.first:
        split.check_labels(progress)
    model.ready(processes.device)
    if options.masks:
        processes.wait()  # no process writes before all have checked the folder
    computing = for_scores(processes.device).reason
    if isinstance(model, ExportedModel):
        computing = f"{model.precision} by {model.runtime} on {model.runs_on}"
    elif not options.teacher and getattr(model, "quantization", None):
        computing = f"simulated int8 ({computing})"
    data = f"{split.images} images of {split.recipe.data.name}, split {options.split}"
    progress.note(f"{name} on {data}, computing in {computing}")


def _score_predictions(source: str, options: EvalOptions, progress: Progress) -> dict[str, Any]:
    """The same document for label PNGs of any program; what only a model has is null."""
    unused = {
        "--teacher": options.teacher,
        "--masks": options.masks,
        "--flip, --scales or --slide": not options.averaging.plain,
        "--batch-size": options.batch_size,
    }
    given = [name for name, value in unused.items() if value]
    if given:
        raise UsageError(
            "--predictions scores files and runs no model",
            got=", ".join(given),
            need="no option of a model",
            tip="leave it out",
        )
    assert options.predictions is not None
    coding = options.coding or TRAIN_IDS
    recipe = _load(options.recipe or recipe_of(source), options)
    dataset = assemble.build_dataset(recipe, options.split, options.data_root)
    total = min(options.limit or len(dataset), len(dataset))
    data = f"{total} images of {recipe.data.name}, split {options.split}"
    progress.note(f"{options.predictions} on {data}")
    progress.begin("image", total)
    try:
        result = score_files(
            options.predictions,
            dataset,
            coding=coding,
            limit=options.limit,
            metrics=options.metrics,
            progress=progress.advance,
        )
    finally:
        progress.end()
    of_models = ("test_time", "parameters", "latency_ms", "latency_size", "threads", "device")
    scores = as_json(result, dataset.classes) | {"coding": coding}
    return _document(source, str(options.predictions), options, scores) | dict.fromkeys(of_models)


def _document(
    source: str, name: str, options: EvalOptions, scores: dict[str, Any]
) -> dict[str, Any]:
    return {"source": source, "model": name, "split": options.split, **scores}


def _subject(source: str, options: EvalOptions) -> tuple[Recipe, nn.Module, str]:
    """The recipe whose data is used, the model, and its name in messages."""
    path = Path(source)
    if path.is_dir():
        return _in_folder(path, options)
    if is_exported_file(path):
        if options.teacher:
            raise UsageError(
                f"--teacher scores the teacher of a recipe, and {source} is an exported file",
                need="a recipe or a run",
                tip="leave out --teacher, or freqkd eval RUN --teacher",
            )
        name = options.recipe or recipe_of(source)
        if options.recipe is None and path.is_file():
            log.info("the data is that of %s; --recipe RECIPE names another", name)
        return _load(name, options), load_file_or_folder(path), source
    if not options.teacher and not path.exists() and path.suffix not in (".yaml", ".yml"):
        raise WeightsMissing(
            f"there is no run at {source}",
            need="a run's folder, a model's folder with --recipe, or RECIPE --teacher",
        )
    recipe = _load(source, options)
    if not options.teacher:
        raise UsageError(
            f"{source} is a recipe, and --teacher is missing",
            need="a model: a run's folder, or the recipe's teacher",
            tip=f"freqkd eval {source} --teacher, or freqkd eval RUN",
        )
    return recipe, _teacher(recipe), f"the teacher of {source}"


def _in_folder(folder: Path, options: EvalOptions) -> tuple[Recipe, nn.Module, str]:
    """The same for a folder: its model, or the teacher of its recipe."""
    files = ("recipe.yaml", CONFIG)
    if not options.teacher and not any((folder / name).is_file() for name in files):
        source_folder(folder)
    name = options.recipe or recipe_of(str(folder))
    recipe = _load(name, options)
    if options.teacher:
        return recipe, _teacher(recipe), f"the teacher of {name}"
    return recipe, load_file_or_folder(folder), str(folder)


def _load(recipe: str, options: EvalOptions) -> Recipe:
    root = str(options.data_root) if options.data_root else None
    return recipes.load(recipe, options.sets, {"data.root": root})


def _teacher(recipe: Recipe) -> nn.Module:
    return build_scored_teacher(recipe, recipe_facts.class_names(recipe))
