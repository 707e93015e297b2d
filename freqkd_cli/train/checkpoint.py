"""Training state on disk: written aside, synced, renamed; a damaged last checkpoint falls back to the one before.

``state/step-<n>.safetensors`` holds every tensor, ``state/step-<n>.json`` everything else, the checksum of the tensors and one of itself.
The JSON file is written last, so a checkpoint without one was cut while it was written and is not looked at.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from freqkd_cli.errors import CheckpointDamaged
from freqkd_cli.runtime.files import sha256, write_synced
from freqkd_cli.runtime.tensor_file import write_tensors

FORMAT = 2
KEPT = 2
"""Checkpoints kept in a run: the last one and the one before it."""


def write_json(path: Path, value: Any) -> None:
    write_synced(path, lambda file: file.write((json.dumps(value, indent=2) + "\n").encode()))


def save(folder: Path, step: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write the checkpoint of ``step`` and drop all but it and the :data:`KEPT` - 1 before it.

    Raises:
        OSError: the disk is full, permission is gone; the checkpoints that were there stay as they were.
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
    """Drop all but the checkpoint of ``step`` and the :data:`KEPT` - 1 before it; again at a run's end, for one killed before it did."""
    # One of a later step is what a resumed run fell back from: damaged, and never to be counted among those that are kept.
    last = f"step-{step:08d}"
    _drop(folder, keep=[old.stem for old in _found(folder) if old.stem <= last][:KEPT])


def _drop(folder: Path, keep: Collection[str]) -> None:
    """Remove other checkpoints, JSON first, and what a kill left half written."""
    for old in sorted(folder.glob("step-*")):
        if (
            old.stem not in keep
        ):  # the stem of a file that is half written still has the other ending
            old.unlink(missing_ok=True)


def load(
    folder: Path, say: Callable[[str], None], recipe: str | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest whole checkpoint; None where none was ever finished. A damaged one is passed over and named to ``say``.

    Args:
        recipe: the digest that the checkpoint's ``recipe`` must have.

    Raises:
        CheckpointDamaged: there are checkpoints, and none is whole.
    """
    problem = ""
    for path in _found(folder):
        if problem:
            say(f"warning: {problem}; taking the one before it")
        try:
            return _read(path, recipe)
        except (OSError, ValueError, RecursionError, SafetensorError) as error:
            problem = f"the checkpoint {path.stem} is damaged: {error}"
    if problem:
        tip = "--overwrite to begin again; what the run holds besides, such as its best model, is whole"
        raise CheckpointDamaged(f"no checkpoint in {folder} is whole", got=problem, tip=tip)
    return None


def _read(path: Path, recipe: str | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """One checkpoint; any error of reading, or a ValueError that says what is wrong with it."""
    facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise ValueError(f"{path.stem}.json is not of format {FORMAT}")
    if facts.pop("sha256", None) != _seal(facts):
        raise ValueError(f"{path.stem}.json was changed after it was written")
    if path.stem != f"step-{facts['step']:08d}":
        raise ValueError(f"it is the checkpoint of step {facts['step']} under another name")
    if recipe is not None and facts.get("recipe") != recipe:
        raise ValueError("it is of another recipe")
    if facts["tensors_sha256"] != sha256(path):
        raise ValueError("its tensors do not match their checksum")
    return load_file(path), facts


def _seal(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _found(folder: Path) -> list[Path]:
    """Finished checkpoints, the newest first."""
    return sorted((p.with_suffix(".safetensors") for p in folder.glob("step-*.json")), reverse=True)
