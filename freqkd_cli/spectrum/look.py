"""How ``freqkd spectrum`` looks at a source: the networks and pictures that it names, or what a cache holds of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqkd_cli import recipe as recipes
from freqkd_cli import registry
from freqkd_cli.build import assemble, recipe_facts
from freqkd_cli.errors import Missing, UsageError
from freqkd_cli.features.taps import Tap, stored_as
from freqkd_cli.runtime.precision import pick_device
from freqkd_cli.runtime.progress import Progress
from freqkd_cli.spectrum.locate import Source
from freqkd_cli.spectrum.radial import (
    Spectra,
    Subject,
    measure,
    measure_cache,
    pictures,
    wanted_taps,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from freqkd_cli.cache.reader import CacheReader, Item
    from freqkd_cli.images.dataset import Dataset
    from freqkd_cli.recipe.sections import Recipe


@dataclass(frozen=True)
class Look:
    """How a source is looked at: the options of the command."""

    stages: Sequence[int]
    taps: Sequence[str]
    cutoff: float
    split: str
    limit: int
    device: str | None = None
    data_root: Path | None = None
    sets: Sequence[str] = ()
    recipe: str | None = None
    teacher: bool = False

    @property
    def exact(self) -> bool:
        """Whether somebody named what is looked at."""
        return bool(self.stages or self.taps)


def look(source: Source, how: Look, progress: Progress) -> Spectra:
    """Load what the source names and measure the power spectra of its taps.

    Raises:
        WeightsMissing, DataMissing: something is not where the source says.
        UsageError: a tap that is not there, or a cache of targets.
    """
    wanted = wanted_taps(how.stages, how.taps)
    if source.kind == "cache":
        reader, subject = open_cache(source, how)
        count, found = measure_cache(
            subject,
            _rows(reader, how, subject.taps, wanted),
            wanted,
            cutoff=how.cutoff,
            exact=how.exact,
        )
        return Spectra(str(source), "cache", count, how.cutoff, found)
    subjects, dataset = open_networks(source, how, progress)
    progress.begin("image", min(how.limit, len(dataset)))
    images, device = pictures(dataset, how.limit), pick_device(how.device)
    try:
        count, found = measure(
            subjects,
            images,
            wanted,
            cutoff=how.cutoff,
            exact=how.exact,
            device=device,
            progress=progress,
        )
    finally:
        progress.end()
    return Spectra(str(source), source.kind, count, how.cutoff, found)


def open_networks(source: Source, how: Look, progress: Progress) -> tuple[list[Subject], Dataset]:
    """The networks that a source names, student before teacher, and the pictures that they see."""
    _check_options(source, how)
    recipe, subjects = _subjects(source, how, progress)
    dataset = assemble.build_dataset(recipe, how.split, how.data_root)
    total = min(how.limit, len(dataset))
    progress.note(
        f"{' and '.join(f'{s.role} {s.name}' for s in subjects)} on {total} images of {recipe.data.name}, split {how.split}"
    )
    return subjects, dataset


def _subjects(source: Source, how: Look, progress: Progress) -> tuple[Recipe, list[Subject]]:
    """The recipe that says which images, and the networks, student before teacher."""
    from freqkd_cli.build.saved import load_model

    if source.kind == "run":
        assert source.path is not None
        recipe = _load(source.path / "recipe.yaml", how)
        if how.teacher:
            return recipe, [_built_teacher(recipe)]
        return recipe, [
            _subject("student", load_model(source.path), recipe.student.name),
            *_teacher(recipe, progress),
        ]
    if source.kind == "recipe":
        recipe = _load(source.path, how)
        return recipe, [_built_teacher(recipe)]
    recipe = (
        _load(how.recipe, how)
        if how.recipe
        else recipes.loads(SCENES, "built-in settings", how.sets)
    )
    if source.kind == "embedded":
        return recipe, [_built_teacher(recipes.loads(SCENES))]
    assert source.path is not None
    return recipe, [_model(source.path)]


def _load(named: str | Path | None, how: Look) -> Recipe:
    assert named is not None
    return recipes.load(
        named, how.sets, {"data.root": str(how.data_root) if how.data_root else None}
    )


def _check_options(source: Source, how: Look) -> None:
    """
    Raises:
        UsageError: ``--recipe`` where the source says which data, ``--teacher`` where there is no recipe that names one.
    """
    if how.recipe and source.kind not in ("model", "embedded"):
        raise UsageError(
            f"{source} says itself which pictures to use",
            got=f"--recipe {how.recipe}",
            tip="leave it out; --set changes a key",
        )
    if how.teacher and source.kind not in ("run", "recipe"):
        raise UsageError(
            f"{source} is no recipe and no run, so it names no teacher",
            got="--teacher",
            tip="leave it out",
        )


SCENES = """
version: 1
data: {name: scenes, size: [192, 256]}
teacher: {name: segformer, weights: embedded}
student: {name: fast_scnn}
losses: [{name: cross_entropy}]
train: {epochs: 1}
"""
"""Images for a model that comes without a recipe; ``--set data.name=...`` takes others."""


def _teacher(recipe: Recipe, progress: Progress) -> list[Subject]:
    """The run's teacher, or none where it has none or its weights are gone: the student alone is still worth a look."""
    if recipe.teacher is None:
        return []
    try:
        return [_built_teacher(recipe)]
    except Missing as error:
        progress.note(f"warning: the run's teacher is left out: {error.what}")
        return []


def _built_teacher(recipe: Recipe) -> Subject:
    teacher = assemble.build_teacher(recipe, len(recipe_facts.class_names(recipe)))
    assert recipe.teacher is not None
    return _subject("teacher", teacher, recipe.teacher.name)


def _model(folder: Path) -> Subject:
    """A folder with a model and no recipe: freqkd's own, or a SegFormer that transformers saved."""
    from freqkd_cli.build.saved import load_model
    from freqkd_cli.export.deploy import model_name

    name = model_name(folder)
    return _subject("teacher" if name == "segformer" else "student", load_model(folder), name)


def _subject(role: str, model: nn.Module, name: str) -> Subject:
    return Subject(role, name, taps_of(name, model.recipe_arguments), model)


def taps_of(name: str, arguments: dict[str, Any]) -> dict[str, Tap]:
    """The taps of a model of the drawer, from its name and its arguments alone."""
    accepted = registry.takes("models", name)
    module = registry.find("models", name)
    return {
        tap.name: tap
        for tap in module.taps(
            **{key: value for key, value in arguments.items() if key in accepted}
        )
    }


def open_cache(source: Source, how: Look) -> tuple[CacheReader, Subject]:
    """The cache, and the teacher whose taps it holds.

    Raises:
        UsageError: it holds targets, or it is of a model that this freqkd does not have.
    """
    from freqkd_cli.cache.reader import CacheReader

    _check_options(source, how)
    assert source.path is not None
    reader = CacheReader(source.path)
    if reader.content != "taps":
        raise UsageError(
            f"the cache {source.path} holds targets of losses, and no features",
            need="a cache of taps",
            tip="freqkd teacher-dump RECIPE --content taps, or the run's folder",
        )
    return reader, Subject(
        "teacher",
        str(reader.fingerprint.fields.get("teacher", {}).get("name")),
        _cached_taps(reader),
    )


def _cached_taps(reader: CacheReader) -> dict[str, Tap]:
    """The stored taps, with the strides that the teacher's own list gives.

    Raises:
        UsageError: the cache is of a model that this freqkd does not have.
    """
    said = reader.fingerprint.fields.get("teacher") or {}
    if said.get("name") not in registry.names("models"):
        raise UsageError(
            f"the cache {reader.folder} is of a teacher that this freqkd does not have",
            got=said.get("name"),
        )
    known = taps_of(said["name"], said.get("arguments", {}))
    return {name: tap for name, tap in known.items() if stored_as(name, known) in reader.names}


def first_views(reader: CacheReader, limit: int) -> list[Item]:
    """One stored view of each image, the view ``whole`` where there is one, so that no image counts twice."""
    first: dict[int, int] = {}
    for index, view in sorted(reader.items):
        first[index] = min(view, first.get(index, view))
    return sorted(first.items())[:limit]


def _rows(
    reader: CacheReader, how: Look, taps: Mapping[str, Tap], wanted: Sequence[str]
) -> Iterator[dict[str, Tensor]]:
    names = {name: stored_as(name, taps) for name in wanted if name in taps}
    for item in first_views(reader, how.limit):
        rows = reader.read([item], set(names.values())) if names else {}
        yield {name: rows[stored][0] for name, stored in names.items()}
