"""A run's folder: what lies in it, when it may be written to, and how an interrupted run is taken up again."""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from freqkd_cli.engine.checkpoint import write_aside, write_json
from freqkd_cli.errors import UsageError

if TYPE_CHECKING:
    from freqkd_cli.recipe.schema import Recipe

LIBRARIES = ("torch", "torchvision", "transformers", "accelerate", "safetensors", "segmentation-models-pytorch", "numpy", "pillow")


def prepare(out: Path, recipe: Recipe, *, resume: bool, overwrite: bool) -> dict[str, Any] | None:
    """Make ``out`` ready to be written to. Returns the summary of a run that ``--resume`` found finished.

    Raises:
        UsageError: ``out`` holds something and neither ``--resume`` nor ``--overwrite`` was given, or it is another recipe's run.
    """
    from freqkd_cli import recipe as room

    text = room.dump(recipe)
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file", need="a folder", tip="give another --out")
    if out.is_dir() and any(out.iterdir()):
        if overwrite:
            _clear(out)
        elif not resume:
            raise UsageError(
                f"--out {out} is not empty", tip="--resume to go on with the run in it, --overwrite to throw it away, or another --out"
            )
        elif (out / "recipe.yaml").exists() and (out / "recipe.yaml").read_text(encoding="utf-8") != text:
            raise UsageError(
                f"the run in {out} was started with another recipe",
                got=_first_difference((out / "recipe.yaml").read_text(encoding="utf-8"), text),
                tip="give the same recipe and --set options, or another --out",
            )
        elif (out / "summary.json").exists():
            return json.loads((out / "summary.json").read_text(encoding="utf-8"))
    out.mkdir(parents=True, exist_ok=True)
    write_aside(out / "recipe.yaml", lambda aside: aside.write_text(text, encoding="utf-8"))
    return None


def _clear(out: Path) -> None:
    """Remove what a run leaves, and nothing else: ``--overwrite`` must not empty a folder that is not a run's."""
    import shutil

    known = {
        "recipe.yaml",
        "model.safetensors",
        "config.json",
        "preprocessor_config.json",
        "metrics.jsonl",
        "summary.json",
        "environment.json",
    }
    known |= {"model.onnx", "model.pt2", "spectrum.png"}  # of the run that goes: they must not be taken for the new one's
    folders = {"state", "last", "tensorboard", "export"}
    strange = [p.name for p in out.iterdir() if p.name not in known | folders]
    if strange and not (out / "recipe.yaml").exists():
        raise UsageError(
            f"--overwrite refused: {out} holds what no run wrote", got=", ".join(sorted(strange)[:5]), tip="give another --out"
        )
    for name in known:
        (out / name).unlink(missing_ok=True)
    for name in folders:
        shutil.rmtree(out / name, ignore_errors=True)


def _first_difference(old: str, new: str) -> str:
    for a, b in zip(old.splitlines(), new.splitlines(), strict=False):
        if a != b:
            return f"{b.strip()!r}, the run has {a.strip()!r}"
    return "one recipe is longer than the other"


def environment(device: torch.device, compute: str) -> dict[str, Any]:
    """What the same bits depend on besides the recipe."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "compute": compute,
        "libraries": {name: _version(name) for name in LIBRARIES},
        "command": " ".join(["freqkd", *sys.argv[1:]]),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


class Metrics:
    """``metrics.jsonl``: one JSON object a line, only numbers that the recipe and the seed decide, so two equal runs write equal files."""

    def __init__(self, path: Path, length: int) -> None:
        """Go on after the first ``length`` bytes; what an interrupted run wrote past its checkpoint is cut off."""
        self.file = open(path, "ab")  # noqa: SIM115 - lives as long as the run
        self.file.truncate(length)
        self.file.seek(0, os.SEEK_END)

    def write(self, row: dict[str, Any]) -> None:
        self.file.write(json.dumps(row).encode() + b"\n")

    def length(self) -> int:
        self.file.flush()
        os.fsync(self.file.fileno())
        return self.file.tell()

    def close(self) -> None:
        self.file.close()


class Unwritten:
    """Metrics and board of the processes beside the first."""

    def write(self, row: dict[str, Any]) -> None: ...

    def add_scalar(self, name: str, value: float, step: int) -> None: ...

    def close(self) -> None: ...


def finish(out: Path, summary: dict[str, Any]) -> None:
    """``summary.json`` is the mark of a finished run, so it comes last."""
    write_json(out / "summary.json", summary)
