"""What a path is to ``freqkd spectrum``: a run, a cache, a recipe, or a folder with a model.

Without a path, the newest run, cache or model at or below the working folder is found.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from freqkd_cli.errors import UsageError, WeightsMissing
from freqkd_cli.recipe import shipped
from freqkd_cli.runtime.json_file import object_or_none
from freqkd_cli.weights.config import read_config
from freqkd_cli.weights.folder_kinds import WEIGHT_FILES

SourceKind = Literal["run", "cache", "recipe", "model", "embedded"]

DEPTH = 4
"""Levels of folders below the working folder that are searched."""
_SKIPPED = frozenset(
    "node_modules __pycache__ site-packages venv state tensorboard last export".split()
)
_SOURCES = "a run, a cache, a recipe, or a folder with a model"
_MARKS = ("summary.json", "index.json", "model.safetensors")


@dataclass(frozen=True)
class SpectrumSource:
    """Where features come from. ``path`` is None for the embedded teacher."""

    kind: SourceKind
    path: Path | None

    def __str__(self) -> str:
        return "the embedded teacher" if self.path is None else str(self.path)


def identify(path: Path) -> SpectrumSource:
    """Return the source that a path is; a shipped recipe's name and - are recipes, too.

    Raises:
        WeightsMissing: there is nothing of that name, or a model's ``config.json`` cannot be read.
        UsageError: a folder or a file that is none of the sources.
    """
    if path.is_dir():
        kind = _kind(path)
        if kind is None:
            raise UsageError(
                f"{path} contains no model and no cache",
                need=f"{_SOURCES}: config.json with model.safetensors, or index.json",
                key="source",
            )
        return SpectrumSource(kind, path)
    if path.is_file() and path.suffix not in (".yaml", ".yml"):
        raise UsageError(f"{path} is not a recipe", need=_SOURCES, key="source")
    if not path.is_file() and str(path) not in ("-", *shipped.paths()):
        raise WeightsMissing(f"{path} does not exist", need=_SOURCES, key="source")
    return SpectrumSource("recipe", path)


def _kind(folder: Path) -> SourceKind | None:
    """Return the kind of a folder, or None where it is not a source.

    Raises:
        WeightsMissing: it contains weights whose ``config.json`` cannot be read.
    """
    if _index(folder).get("format") == "freqkd-cache":
        return "cache"
    path = folder / "config.json"
    if path.is_file() and any((folder / name).is_file() for name in WEIGHT_FILES):
        config = read_config(path)
        if config.section.model is not None or config.of_segformer or config.of_smp:
            return "run" if (folder / "recipe.yaml").is_file() else "model"
    return None


def _holds_targets(cache: Path) -> bool:
    """Whether a cache keeps the losses' targets, and not the taps."""
    fingerprint = _index(cache).get("fingerprint")
    return isinstance(fingerprint, dict) and fingerprint.get("content") == "targets"


def _index(folder: Path) -> dict[str, Any]:
    return object_or_none(folder / "index.json") or {}


def newest(folder: Path) -> SpectrumSource:
    """Return the newest run, cache of taps or model at or below ``folder``.

    The time is that of its last written file. Without any, the embedded teacher is returned.
    """
    sources = []
    for place, stamp in _marked(folder, DEPTH):
        with suppress(WeightsMissing):  # a damaged folder that the user did not name
            kind = _kind(place)
            if kind is not None and not (kind == "cache" and _holds_targets(place)):
                sources.append((stamp, str(place), kind))
    if not sources:
        return SpectrumSource("embedded", None)
    _, path, kind = max(sources)
    return SpectrumSource(kind, Path(path))


def _marked(folder: Path, depth: int) -> Iterator[tuple[Path, float]]:
    """Yield folders that contain one of the marks, with the time of the newest mark."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    stamps = [
        entry.stat().st_mtime for entry in entries if entry.name in _MARKS and entry.is_file()
    ]
    if stamps:
        yield folder, max(stamps)
    if depth == 0:
        return
    for entry in entries:
        hidden = entry.name.startswith(".") or entry.name in _SKIPPED
        if not hidden and entry.is_dir(follow_symlinks=False):
            yield from _marked(Path(entry.path), depth - 1)
