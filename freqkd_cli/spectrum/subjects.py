"""The networks and the images that a source of ``freqkd spectrum`` names."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from freqkd_cli import recipe as recipes
from freqkd_cli import registry
from freqkd_cli.build import assemble, recipe_facts
from freqkd_cli.errors import Missing, UsageError
from freqkd_cli.features.taps import Tap
from freqkd_cli.spectrum.locate import SpectrumSource
from freqkd_cli.teacher.teacher_classes import require_network

if TYPE_CHECKING:
    from freqkd_cli.images.dataset import Dataset
    from freqkd_cli.recipe.sections import Recipe

log = logging.getLogger(__name__)

SCENES = """
version: 1
data: {name: scenes, size: [192, 256]}
teacher: {name: segformer, weights: embedded}
student: {name: fast_scnn}
losses: [{name: cross_entropy}]
train: {epochs: 1}
"""
"""Images for a model without a recipe; ``--set data.name=...`` chooses another data set."""


@dataclass(frozen=True)
class SpectrumOptions:
    """The options of the command, except those about its files."""

    stages: Sequence[int]
    taps: Sequence[str]
    cutoff: float
    split: str | None
    limit: int
    device: str | None = None
    data_root: Path | None = None
    sets: Sequence[str] = ()
    recipe: str | None = None
    teacher: bool = False

    @property
    def named(self) -> bool:
        """Whether stages or taps were named, so that each of them must exist."""
        return bool(self.stages or self.taps)


@dataclass(frozen=True)
class Subject:
    """A network whose taps are measured.

    Attributes:
        role: ``student`` or ``teacher``.
        name: the model's name, for titles.
        taps: its taps, by name.
        model: None where its features come from a cache.
    """

    role: str
    name: str
    taps: Mapping[str, Tap]
    model: nn.Module | None = None

    def __str__(self) -> str:
        int8 = " in simulated int8" if getattr(self.model, "quantization", None) else ""
        return f"{self.role} {self.name}{int8}"

    def is_map(self, tap: str) -> bool:
        """Whether ``tap`` exists and is a map ``[B, C, h, w]``, not a graph or a training head."""
        return tap in self.taps and self.taps[tap].kind in ("features", "logits")


def by_role(items: Iterable[tuple[str, str, dict[str, Any]]]) -> dict[str, Any]:
    """Return the JSON keys ``of``, ``stages`` and, beside a student, ``teacher``.

    ``stages`` holds the student's numbers where there is a student, else the teacher's.

    Args:
        items: role, stage or tap, numbers.
    """
    roles: dict[str, dict[str, Any]] = {}
    for role, name, numbers in items:
        roles.setdefault(role, {})[name] = numbers
    main = "student" if "student" in roles else "teacher"
    beside = {"teacher": roles["teacher"]} if main == "student" and "teacher" in roles else {}
    return {"of": main, "stages": roles.get(main, {})} | beside


def open_networks(
    source: SpectrumSource, options: SpectrumOptions
) -> tuple[list[Subject], Dataset]:
    """Return the networks of a run, recipe or model, student before teacher, and their images.

    Raises:
        WeightsMissing, DataMissing: weights or images do not exist.
        UsageError: options that do not fit the source.
    """
    check_options(source, options)
    recipe, subjects = _networks(source, options)
    split = options.split or "val"
    dataset = assemble.build_dataset(recipe, split, options.data_root)
    total = min(options.limit, len(dataset))
    names = " and ".join(map(str, subjects))
    images = f"{total} image{'s' * (total != 1)} of {recipe.data.name}"
    log.info("%s on %s, split %s", names, images, split)
    return subjects, dataset


def _networks(source: SpectrumSource, options: SpectrumOptions) -> tuple[Recipe, list[Subject]]:
    """Return the recipe that names the images, and the networks, student before teacher."""
    from freqkd_cli.build.exported_model import load_file_or_folder
    from freqkd_cli.export.deploy import model_name

    if source.kind == "recipe":
        recipe = _load(source.path, options)
        return recipe, [_teacher(recipe)]
    if source.kind == "run":
        assert source.path is not None
        recipe = _load(source.path / "recipe.yaml", options)
        if options.teacher:
            return recipe, [_teacher(recipe)]
        student = _subject("student", load_file_or_folder(source.path), recipe.student.name)
        return recipe, [student, *_teacher_of_run(recipe)]
    if options.recipe:
        recipe = _load(options.recipe, options)
    else:
        recipe = recipes.loads(SCENES, "built-in settings", options.sets)
    if source.path is None:
        return recipe, [_teacher(recipes.loads(SCENES))]
    name = model_name(source.path)
    role = "teacher" if name == "segformer" else "student"
    return recipe, [_subject(role, load_file_or_folder(source.path), name)]


def _load(recipe: str | Path | None, options: SpectrumOptions) -> Recipe:
    assert recipe is not None
    root = str(options.data_root) if options.data_root else None
    return recipes.load(recipe, options.sets, {"data.root": root})


def check_options(source: SpectrumSource, options: SpectrumOptions) -> None:
    """Check the options that only some sources allow.

    Raises:
        UsageError: ``--recipe`` for a source with its own data, ``--set`` for a cache, or
            ``--teacher`` without a recipe.
    """
    cache = source.kind == "cache"
    for option, value in (("recipe", options.recipe), ("set", next(iter(options.sets), None))):
        if value and (cache or (option == "recipe" and source.kind in ("run", "recipe"))):
            raise UsageError(
                f"{source} has its own data set",
                got=f"--{option} {value}",
                tip=f"leave --{option} out" + ("" if cache else "; --set changes a key"),
                key=option,
            )
    if options.teacher and source.kind not in ("run", "recipe"):
        raise UsageError(
            f"{source} is not a run or a recipe, so it has no teacher",
            got="--teacher",
            tip="leave --teacher out",
            key="teacher",
        )


def _teacher(recipe: Recipe) -> Subject:
    require_network(recipe)
    teacher = assemble.build_teacher(recipe, len(recipe_facts.class_names(recipe)))
    assert recipe.teacher is not None
    return _subject("teacher", teacher, recipe.teacher.name)


def _teacher_of_run(recipe: Recipe) -> list[Subject]:
    """Return the run's teacher, or nothing where it has none or its weights do not exist."""
    if recipe.teacher is None:
        return []
    try:
        return [_teacher(recipe)]
    except Missing as error:
        log.warning("the run's teacher is left out: %s", error.what)
        return []


def _subject(role: str, model: nn.Module, name: str) -> Subject:
    return Subject(role, name, taps_of(name, model.recipe_arguments), model)


def taps_of(name: str, arguments: Mapping[str, Any]) -> dict[str, Tap]:
    """Return the taps of a model of the drawer, from its name and its arguments alone."""
    accepted = registry.takes("models", name)
    given = {key: value for key, value in arguments.items() if key in accepted}
    return {tap.name: tap for tap in registry.find("models", name).taps(**given)}
