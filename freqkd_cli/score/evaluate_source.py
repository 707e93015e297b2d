"""What ``freqkd eval`` scores: a run's student, a recipe's teacher, a model's folder on a recipe's data, or files of predictions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqkd_cli import recipe as recipes
from freqkd_cli.build import assemble, recipe_facts
from freqkd_cli.build.saved import CONFIG, load_model
from freqkd_cli.errors import CheckFailed, UsageError, WeightsMissing
from freqkd_cli.runtime.precision import for_scores
from freqkd_cli.runtime.processes import join
from freqkd_cli.runtime.progress import Progress
from freqkd_cli.score.averaging import Averaged, Averaging
from freqkd_cli.score.common_ground import Ground
from freqkd_cli.score.evaluate import as_json
from freqkd_cli.score.label_files import check_masks, mask_writer
from freqkd_cli.score.predictions import score_files
from freqkd_cli.teacher.teacher_classes import build_scored_teacher

if TYPE_CHECKING:
    from torch import nn

    from freqkd_cli.recipe.sections import Recipe


_OTHER_CLASSES = "data with the model's classes, or a recipe whose teacher is this model, with teacher.class_map, and --teacher"


@dataclass(frozen=True)
class Options:
    """The options of ``freqkd eval``. ``limit`` 0 = all images; ``min_miou`` in [0, 1]; ``overwrite`` is about ``masks``."""

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
    averaging: Averaging = Averaging()


def evaluate(source: str, options: Options, progress: Progress) -> dict[str, Any]:
    """Score ``source`` and describe it; the document of ``eval --json``.

    Raises:
        UsageError: the source names no data, or the model has other classes than the data.
        WeightsMissing, DataMissing, DataBroken: something is not where the source says, or cannot be scored.
        CheckFailed: the mIoU is below ``min_miou``; the result stands in the message.
    """
    if options.overwrite and options.masks is None:
        raise UsageError(
            "--overwrite is about the files of --masks, and there are none", tip="--masks DIR"
        )
    document = (
        _of_model(source, options, progress)
        if options.predictions is None
        else _of_files(source, options, progress)
    )
    miou = document["miou"] or 0.0
    if options.min_miou is not None and miou < options.min_miou:
        raise CheckFailed(
            f"{document['model']} is below --min-miou",
            got=f"{100 * miou:.2f}",
            need=f"{100 * options.min_miou:.2f}",
        )
    return document


def _of_model(source: str, options: Options, progress: Progress) -> dict[str, Any]:
    recipe, model, what = _subject(source, options)
    ground = Ground.of(recipe, options.split, options.data_root, options.limit)
    ground.require(model, what, progress, _OTHER_CLASSES)
    if options.masks:
        check_masks(options.masks, ground.dataset, recipe, options.data_root, options.overwrite)
    processes = join(options.device)
    if processes.first:
        ground.look(progress)
    model.ready(processes.device)
    if options.masks:
        processes.wait()  # nobody writes before all have seen that they may
    computing = for_scores(processes.device).reason
    progress.note(
        f"{what} on {ground.images} images of {recipe.data.name}, split {options.split}, computing in {computing}"
    )
    scored = model if options.averaging.plain else Averaged(model, options.averaging)
    result = ground.score(
        scored,
        "image",
        progress,
        processes,
        # Averaged probabilities have the size of the picture; a batch of them would fill the memory.
        batch_size=None if options.averaging.plain else 1,
        each=mask_writer(options.masks, ground.dataset) if options.masks else None,
    )
    found = as_json(result, ground.dataset.classes) | {"test_time": options.averaging.to_json()}
    return _document(source, what, options, found) | ground.cost(model, processes, scored)


def _of_files(source: str, options: Options, progress: Progress) -> dict[str, Any]:
    """The same document for label PNGs that some other program wrote; what only a model has is null."""
    given = {
        "--teacher": options.teacher,
        "--masks": options.masks,
        "--flip, --scales or --slide": not options.averaging.plain,
    }
    beside = [name for name, value in given.items() if value]
    if beside:
        raise UsageError(
            "--predictions scores files, and no model is run",
            got=", ".join(beside),
            tip="leave it out",
        )
    assert options.predictions is not None
    recipe = _load(options.recipe or _recipe_of(source), options)
    dataset = assemble.build_dataset(recipe, options.split, options.data_root)
    total = min(options.limit or len(dataset), len(dataset))
    progress.note(
        f"{options.predictions} on {total} images of {recipe.data.name}, split {options.split}"
    )
    progress.begin("image", total)
    try:
        result = score_files(
            options.predictions, dataset, limit=options.limit, progress=progress.advance
        )
    finally:
        progress.end()
    nothing = dict.fromkeys(
        ("test_time", "parameters", "latency_ms", "latency_size", "threads", "device")
    )
    return (
        _document(source, str(options.predictions), options, as_json(result, dataset.classes))
        | nothing
    )


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
        raise UsageError(
            f"{source} does not say on which data to score it", need="--recipe RECIPE", tip=tip
        )
    return str(Path(source) / "recipe.yaml")


def _subject(source: str, options: Options) -> tuple[Recipe, nn.Module, str]:
    """The recipe whose data is used, the model, and what to call it."""
    path = Path(source)
    if path.is_dir():
        if not options.teacher and not any(
            (path / name).is_file() for name in ("recipe.yaml", CONFIG)
        ):
            raise WeightsMissing(
                f"{source} holds no model",
                need=f"a run's folder, or a model's with {CONFIG} and --recipe",
            )
        named = options.recipe or _recipe_of(source)
        recipe = _load(named, options)
        return (
            (recipe, _teacher(recipe), f"the teacher of {named}")
            if options.teacher
            else (recipe, load_model(path), source)
        )
    if not options.teacher and not path.exists() and path.suffix not in (".yaml", ".yml"):
        raise WeightsMissing(
            f"there is no run at {source}",
            need="a run's folder, a model's folder with --recipe, or RECIPE --teacher",
        )
    recipe = _load(source, options)
    if not options.teacher:
        raise UsageError(
            f"{source} is a recipe; only its teacher can be scored",
            tip=f"freqkd eval {source} --teacher, or freqkd eval RUN",
        )
    return recipe, _teacher(recipe), f"the teacher of {source}"


def _load(named: str, options: Options) -> Recipe:
    return recipes.load(
        named, options.sets, {"data.root": str(options.data_root) if options.data_root else None}
    )


def _teacher(recipe: Recipe) -> nn.Module:
    return build_scored_teacher(recipe, recipe_facts.class_names(recipe))
