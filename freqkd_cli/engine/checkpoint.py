"""Training state on disk: written aside, synced, renamed; a damaged last checkpoint falls back to the one before.

``state/step-<n>.safetensors`` holds every tensor, ``state/step-<n>.json`` everything else and the checksum of the tensors. The JSON file is
written last, so a checkpoint without one was cut while it was written and is not looked at.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

KEPT = 2
"""Checkpoints kept in a run: the last one and the one before it."""


def write_aside(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path``, sync it and rename it, so that ``path`` is whole or is not there."""
    aside = path.with_name(f".{path.name}.part")
    try:
        write(aside)
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json(path: Path, value: Any) -> None:
    write_aside(path, lambda aside: aside.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8"))


def save(folder: Path, step: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write the checkpoint of ``step`` and drop all but the last :data:`KEPT`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:08d}.safetensors"
    whole = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    write_aside(path, lambda aside: save_file(whole, aside))
    write_json(path.with_suffix(".json"), {"format": 1, "step": step, "sha256": _sha256(path), **facts})
    for old in _found(folder)[KEPT:]:
        old.with_suffix(".json").unlink(missing_ok=True)
        old.unlink(missing_ok=True)


def load(folder: Path, say: Callable[[str], None]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest whole checkpoint, or None. A damaged one is passed over and named to ``say``."""
    for path in _found(folder):
        try:
            facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            if facts["sha256"] != _sha256(path):
                raise ValueError("its checksum does not match")
            return load_file(path), facts
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            say(f"warning: checkpoint {path.name} is damaged ({error}); taking the one before it")
    return None


def _found(folder: Path) -> list[Path]:
    return sorted((p.with_suffix(".safetensors") for p in folder.glob("step-*.json")), reverse=True)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
