"""Checkpoints on disk: written aside, synced, renamed; a damaged one falls back to the one before.

``state/step-<n>.safetensors`` holds every tensor. ``state/step-<n>.json`` holds everything else,
the checksum of the tensors and one of itself. The JSON file is written last, so a checkpoint
without one is unfinished and ignored.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from freqkd_cli.errors import CheckpointDamaged
from freqkd_cli.runtime.files import sha256
from freqkd_cli.runtime.json_file import write_json
from freqkd_cli.runtime.tensor_file import write_tensors

log = logging.getLogger(__name__)
T = TypeVar("T")

FORMAT = 3
"""Since 3, ``recipe`` is the digest of ``recipe_identity``. It is not compared for format 2."""
READ = (2, FORMAT)
KEPT = 2
"""Checkpoints kept in a run: the last one and the one before it."""


_UNITS = {"s": 1, "min": 60, "h": 3600}


class Interval:
    """Whether a checkpoint is due between two epoch ends.

    Args:
        every: ``train.save_every``: a number of steps, or a time such as ``10min``; 0 = never.
    """

    def __init__(self, every: int | str) -> None:
        self.steps = every if isinstance(every, int) else 0
        self.seconds = 0.0
        if isinstance(every, str):
            number, unit = re.fullmatch(r"([0-9.]+)([a-z]+)", every).groups()  # type: ignore[union-attr]
            self.seconds = float(number) * _UNITS[unit]
        self.saved()

    def due(self, step: int) -> bool:
        """Return whether the interval since the last checkpoint is over."""
        return self.by_steps(step) or 0 < self.seconds <= time.monotonic() - self.at

    def by_steps(self, step: int) -> bool:
        """Return whether a checkpoint is due by the number of steps, as it is in every process."""
        return self.steps > 0 and step % self.steps == 0

    def saved(self) -> None:
        """Start the interval again."""
        self.at = time.monotonic()


def save(folder: Path, step: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write the checkpoint of ``step`` and drop all but it and the :data:`KEPT` - 1 before it.

    Raises:
        OSError: the disk is full or permission is gone; earlier checkpoints stay as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:08d}.safetensors"
    _, checksum = write_tensors(
        path, {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    )
    body = {"format": FORMAT, "step": step, "tensors_sha256": checksum, **facts}
    write_json(path.with_suffix(".json"), {**body, "sha256": _seal(body)})
    prune(folder, step)


def prune(folder: Path, step: int) -> None:
    """Drop all but the checkpoint of ``step`` and the :data:`KEPT` - 1 before it.

    A run also calls this at its end, in case it was killed between saving and pruning.
    """
    # One of a later step is damaged: a resumed run fell back from it. It must not count as kept.
    last = f"step-{step:08d}"
    _drop(folder, keep=[old.stem for old in _finished(folder) if old.stem <= last][:KEPT])


def _drop(folder: Path, keep: Collection[str]) -> None:
    """Remove other checkpoints, JSON first, and what a kill left half written."""
    for old in sorted(folder.glob("step-*")):
        # The stem of a half-written file still has the other ending, so it is never in ``keep``.
        if old.stem not in keep:
            old.unlink(missing_ok=True)


def load(
    folder: Path, recipes: Collection[str] = ()
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return tensors and facts of the newest intact checkpoint; None where none was finished.

    A damaged checkpoint is skipped with a warning.

    Args:
        recipes: digests, of which the checkpoint's ``recipe`` must be one; none for any recipe.

    Raises:
        CheckpointDamaged: there are checkpoints, and none is intact.
    """
    return _newest(folder, lambda path: _read(path, recipes))


def facts_of(folder: Path, recipes: Collection[str] = ()) -> dict[str, Any] | None:
    """Return the facts of the checkpoint that :func:`load` would take, without its tensors.

    Of the tensor file only the header is read. So a file that is cut off is skipped, but bytes that
    changed are not noticed before :func:`load`.

    Raises:
        CheckpointDamaged: as :func:`load`.
    """

    def facts(path: Path) -> dict[str, Any]:
        found = _facts(path, recipes)
        with safe_open(path, framework="pt"):  # compares the header with the size of the file
            return found

    return _newest(folder, facts)


def _newest(folder: Path, read: Callable[[Path], T]) -> T | None:
    """Return what ``read`` returns for the newest checkpoint that it does not find damaged."""
    problem = ""
    for path in _finished(folder):
        if problem:
            log.warning("%s; the one before it is used", problem)
        try:
            return read(path)
        except (OSError, ValueError, RecursionError, SafetensorError) as error:
            problem = f"the checkpoint {path.stem} is damaged: {error}"
    if problem:
        raise CheckpointDamaged(
            f"no checkpoint in {folder} is intact",
            got=problem,
            tip="--overwrite to start again; the run's best model is not affected",
        )
    return None


def _read(path: Path, recipes: Collection[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return one checkpoint; an error of reading, or a ValueError that names the fault."""
    facts = _facts(path, recipes)
    if facts["tensors_sha256"] != sha256(path):
        raise ValueError("its tensors do not match their checksum")
    return load_file(path), facts


def _facts(path: Path, recipes: Collection[str]) -> dict[str, Any]:
    """Return the facts of one checkpoint; raise as :func:`_read`."""
    facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    if not isinstance(facts, dict) or facts.get("format") not in READ:
        raise ValueError(f"{path.stem}.json is not of format {FORMAT}")
    if facts.pop("sha256", None) != _seal(facts):
        raise ValueError(f"{path.stem}.json was changed after it was written")
    if path.stem != f"step-{facts['step']:08d}":
        raise ValueError(f"it is the checkpoint of step {facts['step']} under another name")
    if recipes and facts["format"] == FORMAT and facts.get("recipe") not in recipes:
        raise ValueError("it belongs to another recipe")
    return facts


def _seal(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _finished(folder: Path) -> list[Path]:
    """Return the tensor files of finished checkpoints, the newest first."""
    return sorted((p.with_suffix(".safetensors") for p in folder.glob("step-*.json")), reverse=True)
