"""What ``freqkd spectrum`` looks at: a run, a cache, a recipe, a model's folder, or, where nothing was named, the newest of them nearby."""

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
from freqkd_cli.weights.state_dict import WEIGHT_FILES

Kind = Literal["run", "cache", "recipe", "model", "embedded"]

DEPTH = 4
"""Folders below the present one that are searched for a run or a cache."""
_PASSED_OVER = frozenset(
    {
        "node_modules",
        "__pycache__",
        "site-packages",
        "venv",
        "state",
        "tensorboard",
        "last",
        "export",
    }
)
_SOURCES = "a run, a cache, a recipe, or a folder with a model"
_MARKS = ("summary.json", "index.json", "model.safetensors")


@dataclass(frozen=True)
class Source:
    """Where features come from. ``path`` is None for the embedded teacher."""

    kind: Kind
    path: Path | None

    def __str__(self) -> str:
        return "the embedded teacher" if self.path is None else str(self.path)


def identify(path: Path) -> Source:
    """What kind of source a path is; a name that is no path may be that of a shipped recipe.

    Raises:
        WeightsMissing: there is nothing of that name, or a model's folder does not say of what kind it is.
        UsageError: a folder or a file that is none of the sources.
    """
    if path.is_dir():
        kind = _kind(path)
        if kind is None:
            raise UsageError(
                f"{path} is no source of features",
                need=f"{_SOURCES}: config.json with model.safetensors, or index.json",
            )
        return Source(kind, path)
    if path.is_file() and path.suffix not in (".yaml", ".yml"):
        raise UsageError(f"{path} is no source of features", need=_SOURCES)
    if not path.is_file() and str(path) not in shipped.paths():
        raise WeightsMissing(f"{path} is not there", need=_SOURCES)
    return Source("recipe", path)


def _kind(folder: Path) -> Kind | None:
    """What a folder is, None where it is no source.

    Raises:
        WeightsMissing: it holds weights, and what describes them cannot be read.
    """
    if _index(folder).get("format") == "freqkd-cache":
        return "cache"
    config = folder / "config.json"
    if config.is_file() and any((folder / name).is_file() for name in WEIGHT_FILES):
        said = read_config(config)
        if said.ours.model is not None or said.of_segformer:
            return "run" if (folder / "recipe.yaml").is_file() else "model"
    return None


def _holds_targets(cache: Path) -> bool:
    """Whether a cache keeps what losses made of the taps, and not the taps."""
    fingerprint = _index(cache).get("fingerprint")
    return isinstance(fingerprint, dict) and fingerprint.get("content") == "targets"


def _index(folder: Path) -> dict[str, Any]:
    return object_or_none(folder / "index.json") or {}


def newest(folder: Path) -> Source:
    """The newest run, cache of taps or model at or below ``folder``, by the time its last file was written; else the embedded teacher."""
    found = []
    for place, stamp in _marked(folder, DEPTH):
        with suppress(WeightsMissing):  # a damaged folder that nobody named
            kind = _kind(place)
            if kind is not None and not (kind == "cache" and _holds_targets(place)):
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
    stamps = [
        entry.stat().st_mtime for entry in entries if entry.name in _MARKS and entry.is_file()
    ]
    if stamps:
        yield folder, max(stamps)
    if depth > 0:
        for entry in entries:
            if (
                entry.is_dir(follow_symlinks=False)
                and not entry.name.startswith(".")
                and entry.name not in _PASSED_OVER
            ):
                yield from _marked(Path(entry.path), depth - 1)
