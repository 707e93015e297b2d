"""What ``freqkd spectrum`` looks at: a run, a cache, a recipe, a model's folder, or, where nothing was named, the newest of them nearby."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from freqkd_cli import recipe as recipes
from freqkd_cli import registry
from freqkd_cli.engine import assemble
from freqkd_cli.engine.precision import pick_device
from freqkd_cli.engine.progress import Progress
from freqkd_cli.engine.spectrum import Spectra, Subject, measure, measure_cache, pictures
from freqkd_cli.errors import Missing, UsageError, WeightsMissing
from freqkd_cli.features.taps import Tap, stored_as
from freqkd_cli.recipe import shipped

if TYPE_CHECKING:
    from torch import Tensor, nn

    from freqkd_cli.features.cache import CacheReader
    from freqkd_cli.recipe.schema import Recipe

Kind = Literal["run", "cache", "recipe", "model", "embedded"]

DEPTH = 4
"""Folders below the present one that are searched for a run or a cache."""
_PASSED_OVER = frozenset({"node_modules", "__pycache__", "site-packages", "venv", "state", "tensorboard", "last", "export"})
_SOURCES = "a run, a cache, a recipe, or a folder with a model"
_MARKS = ("summary.json", "index.json", "model.safetensors")


@dataclass(frozen=True)
class Source:
    """Where features come from. ``path`` is None for the embedded teacher."""

    kind: Kind
    path: Path | None

    def __str__(self) -> str:
        return "the embedded teacher" if self.path is None else str(self.path)


@dataclass(frozen=True)
class Look:
    """How a source is looked at: the options of the command."""

    wanted: Sequence[str]
    exact: bool
    cutoff: float
    split: str
    limit: int
    device: str | None = None
    data_root: Path | None = None
    sets: Sequence[str] = ()
    recipe: str | None = None
    teacher: bool = False


def identify(path: Path) -> Source:
    """What kind of source a path is; a name that is no path may be that of a shipped recipe.

    Raises:
        WeightsMissing: there is nothing of that name.
        UsageError: a folder or a file that is none of the sources.
    """
    if path.is_dir():
        kind = _kind(path)
        if kind is None:
            raise UsageError(f"{path} is no source of features", need=f"{_SOURCES}: config.json with model.safetensors, or index.json")
        return Source(kind, path)
    if path.is_file() and path.suffix not in (".yaml", ".yml"):
        raise UsageError(f"{path} is no source of features", need=_SOURCES)
    if not path.is_file() and str(path) not in shipped.paths():
        raise WeightsMissing(f"{path} is not there", need=_SOURCES)
    return Source("recipe", path)


def _kind(folder: Path) -> Kind | None:
    if _json(folder / "index.json").get("format") == "freqkd-cache":
        return "cache"
    config = _json(folder / "config.json")
    has_weights = (folder / "model.safetensors").is_file() or (folder / "pytorch_model.bin").is_file()
    if has_weights and ("model" in config.get("freqkd", config) or config.get("model_type") == "segformer"):
        return "run" if (folder / "recipe.yaml").is_file() else "model"
    return None


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def newest(folder: Path) -> Source:
    """The newest run, cache or model at or below ``folder``, by the time its last file was written; else the embedded teacher."""
    found = []
    for place, stamp in _marked(folder, DEPTH):
        kind = _kind(place)
        if kind is not None:
            found.append((stamp, str(place), kind))
    if not found:
        return Source("embedded", None)
    _, path, kind = max(found)
    return Source(kind, Path(path))


def _marked(folder: Path, depth: int) -> Iterator[tuple[Path, float]]:
    """Folders that hold one of the marks, with the time of the newest."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    stamps = [entry.stat().st_mtime for entry in entries if entry.name in _MARKS and entry.is_file()]
    if stamps:
        yield folder, max(stamps)
    if depth > 0:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".") and entry.name not in _PASSED_OVER:
                yield from _marked(Path(entry.path), depth - 1)


def look(source: Source, how: Look, progress: Progress) -> Spectra:
    """Load what the source names and measure it.

    Raises:
        WeightsMissing, DataMissing: something is not where the source says.
        UsageError: a tap that is not there, or a cache of targets.
    """
    _check_options(source, how)
    if source.kind == "cache":
        return _look_at_cache(source, how)
    recipe, subjects = _subjects(source, how, progress)
    dataset = assemble.build_dataset(recipe, how.split, how.data_root)
    total = min(how.limit, len(dataset)) if how.limit else len(dataset)
    progress.note(f"{' and '.join(f'{s.role} {s.name}' for s in subjects)} on {total} images of {recipe.data.name}, split {how.split}")
    progress.begin("image", total)
    images, device = pictures(dataset, how.limit), pick_device(how.device)
    try:
        count, found = measure(subjects, images, how.wanted, cutoff=how.cutoff, exact=how.exact, device=device, progress=progress)
    finally:
        progress.end()
    return Spectra(str(source), source.kind, count, how.cutoff, found)


def _subjects(source: Source, how: Look, progress: Progress) -> tuple[Recipe, list[Subject]]:
    """The recipe that says which images, and the networks, student before teacher."""
    from freqkd_cli.engine.saved import load_model

    if source.kind == "run":
        assert source.path is not None
        recipe = _load(source.path / "recipe.yaml", how)
        if how.teacher:
            return recipe, [_built_teacher(recipe)]
        return recipe, [_subject("student", load_model(source.path), recipe.student.name), *_teacher(recipe, progress)]
    if source.kind == "recipe":
        recipe = _load(source.path, how)
        return recipe, [_built_teacher(recipe)]
    recipe = _load(how.recipe, how) if how.recipe else recipes.loads(SCENES, "built-in settings", how.sets)
    if source.kind == "embedded":
        return recipe, [_built_teacher(recipes.loads(SCENES))]
    assert source.path is not None
    return recipe, [_model(source.path)]


def _load(named: str | Path | None, how: Look) -> Recipe:
    assert named is not None
    return recipes.load(named, how.sets, {"data.root": str(how.data_root) if how.data_root else None})


def _check_options(source: Source, how: Look) -> None:
    """
    Raises:
        UsageError: ``--recipe`` where the source says which data, ``--teacher`` where there is no recipe that names one.
    """
    if how.recipe and source.kind not in ("model", "embedded"):
        raise UsageError(
            f"{source} says itself which pictures to use", got=f"--recipe {how.recipe}", tip="leave it out; --set changes a key"
        )
    if how.teacher and source.kind not in ("run", "recipe"):
        raise UsageError(f"{source} is no recipe and no run, so it names no teacher", got="--teacher", tip="leave it out")


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
    teacher = assemble.build_teacher(recipe, len(assemble.class_names(recipe)))
    assert recipe.teacher is not None
    return _subject("teacher", teacher, recipe.teacher.name)


def _model(folder: Path) -> Subject:
    """A folder with a model and no recipe: freqkd's own, or a SegFormer that transformers saved."""
    from freqkd_cli.engine.deploy import model_name
    from freqkd_cli.engine.saved import load_model

    name = model_name(folder)
    return _subject("teacher" if name == "segformer" else "student", load_model(folder), name)


def _subject(role: str, model: nn.Module, name: str) -> Subject:
    return Subject(role, name, taps_of(name, model.recipe_arguments), model)


def taps_of(name: str, arguments: dict[str, Any]) -> dict[str, Tap]:
    """The taps of a model of the drawer, from its name and its arguments alone."""
    accepted = registry.takes("models", name)
    module = registry.find("models", name)
    return {tap.name: tap for tap in module.taps(**{key: value for key, value in arguments.items() if key in accepted})}


def _look_at_cache(source: Source, how: Look) -> Spectra:
    from freqkd_cli.features.cache import CacheReader

    assert source.path is not None
    reader = CacheReader(source.path)
    if reader.content != "taps":
        raise UsageError(
            f"the cache {source.path} holds targets of losses, and no features",
            need="a cache of taps",
            tip="freqkd teacher-dump RECIPE --content taps, or the run's folder",
        )
    taps = _cached_taps(reader)
    subject = Subject("teacher", str(reader.fingerprint.fields.get("teacher", {}).get("name")), taps)
    count, found = measure_cache(subject, _rows(reader, how, taps), how.wanted, cutoff=how.cutoff, exact=how.exact)
    return Spectra(str(source), "cache", count, how.cutoff, found)


def _cached_taps(reader: CacheReader) -> dict[str, Tap]:
    """The stored taps, with the strides that the teacher's own list gives.

    Raises:
        UsageError: the cache is of a model that this freqkd does not have.
    """
    said = reader.fingerprint.fields.get("teacher") or {}
    if said.get("name") not in registry.names("models"):
        raise UsageError(f"the cache {reader.folder} is of a teacher that this freqkd does not have", got=said.get("name"))
    known = taps_of(said["name"], said.get("arguments", {}))
    return {name: tap for name, tap in known.items() if stored_as(name, known) in reader.names}


def _rows(reader: CacheReader, how: Look, taps: Mapping[str, Tap]) -> Iterator[dict[str, Tensor]]:
    """One stored view of each image, the view ``whole`` where there is one, so that no image counts twice."""
    first: dict[int, int] = {}
    for index, view in sorted(reader.items):
        first[index] = min(view, first.get(index, view))
    items = sorted(first.items())
    names = {name: stored_as(name, taps) for name in how.wanted if name in taps}
    for item in items[: how.limit] if how.limit else items:
        rows = reader.read([item], set(names.values())) if names else {}
        yield {name: rows[stored][0] for name, stored in names.items()}
