"""A run's folder: what lies in it, when it may be written to, and how an interrupted run is taken up again."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqkd_cli.errors import FreqKDError, UsageError
from freqkd_cli.runtime.files import SUFFIX, write_synced
from freqkd_cli.runtime.json_file import object_or_none
from freqkd_cli.runtime.lock import LOCK, WriteLock
from freqkd_cli.train.checkpoint import write_json

if TYPE_CHECKING:
    from freqkd_cli.recipe.sections import Recipe

FILES = (
    *(
        "recipe.yaml",
        "model.safetensors",
        "config.json",
        "preprocessor_config.json",
        "metrics.jsonl",
        "summary.json",
        "environment.json",
    ),
    # Made from the run: they must not be taken for a new one's.
    *(
        "model.onnx",
        "model.pt2",
        "spectrum.png",
        "graph_spectrum.png",
        "graph_spectrum_maps.png",
        "comparison.png",
    ),
)
FOLDERS = ("state", "last", "tensorboard", "export")
"""What a run leaves in its folder, and what other commands add."""


def check(out: Path, recipe: Recipe, *, resume: bool, overwrite: bool) -> dict[str, Any] | None:
    """Whether a run may start in ``out``; nothing is changed. Returns the summary of a run that ``--resume`` found finished.

    Raises:
        UsageError: ``out`` holds something and neither ``--resume`` nor ``--overwrite`` was given, or it is another recipe's run.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file", need="a folder", tip="give another --out")
    if not out.is_dir() or not any(out.iterdir()):
        return None
    if not (resume or overwrite):
        raise UsageError(
            f"--out {out} is not empty",
            tip="--resume to go on with the run in it, --overwrite to throw it away, or another --out",
        )
    strange = [
        path.name
        for path in out.iterdir()
        if path.name not in (*FILES, *FOLDERS) and path.suffix != SUFFIX
    ]
    if strange and not (out / "recipe.yaml").exists():
        option = "--overwrite" if overwrite else "--resume"
        raise UsageError(
            f"{option} refused: {out} holds what no run wrote",
            got=", ".join(sorted(strange)[:5]),
            tip="give another --out",
        )
    if overwrite or not (out / "recipe.yaml").exists():
        return None
    old, new = (
        _same((out / "recipe.yaml").read_text(encoding="utf-8", errors="replace")),
        _same(_text(recipe)),
    )
    if old != new:
        raise UsageError(
            f"the run in {out} was started with another recipe",
            got=_first_difference(old, new),
            tip="give the same recipe and --set options, or another --out",
        )
    _same_data(out, recipe)
    return object_or_none(out / "summary.json")


def lock(out: Path) -> WriteLock:
    """The right to write to ``out``; a context manager.

    Raises:
        UsageError: another process writes to it.
    """
    (out / "state").mkdir(parents=True, exist_ok=True)
    return WriteLock(out / "state", f"the run {out}")


def prepare(out: Path, recipe: Recipe, *, overwrite: bool) -> None:
    """Make ``out``, which :func:`check` let pass, ready to be written to."""
    if overwrite and out.is_dir():
        _clear(out)
    out.mkdir(parents=True, exist_ok=True)
    write_synced(out / "recipe.yaml", lambda file: file.write(_text(recipe).encode()))


def _text(recipe: Recipe) -> str:
    from freqkd_cli import recipe as room

    return room.dump(recipe)


def _same(text: str) -> str:
    """A resolved recipe without what changes no bit: the number of workers, and where the data's folder lies."""
    return re.sub(r"(?m)^  (workers: \d+|root: .*)\n", "", text)


def _same_data(out: Path, recipe: Recipe) -> None:
    """
    Raises:
        UsageError: the run in ``out`` was started on another folder, however the two are spelled.
    """
    from freqkd_cli import recipe as room

    old, new = room.load(out / "recipe.yaml", parts=False).data.root, recipe.data.root
    if old != new and (old is None or new is None or old.resolve() != new.resolve()):
        raise UsageError(
            f"the run in {out} was started on other data",
            got=f"data.root {new}",
            need=old,
            tip="that, or another --out",
        )


def digest(recipe: Recipe) -> str:
    """sha256 of everything in a recipe that decides a run's bits; the data counts by :func:`_same_data`."""
    return hashlib.sha256(_same(_text(recipe)).encode()).hexdigest()


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turn the disk's errors into one message.

    Raises:
        FreqKDError: the disk is full, permission is gone, the folder was removed.
    """
    try:
        yield
    except OSError as error:
        raise FreqKDError(
            f"the run {out} cannot be written: {error.strerror or error}",
            tip="mend that, then run the same command with --resume: it goes on from the last whole checkpoint",
        ) from error


def _clear(out: Path) -> None:
    """Remove what a run leaves, and nothing else."""
    import shutil

    for path in out.iterdir():
        if path.name in FILES or path.suffix == SUFFIX:
            path.unlink()
        elif path.name in FOLDERS:
            for inside in path.iterdir():
                if inside.is_dir():
                    shutil.rmtree(inside)
                elif inside.name != LOCK:  # it is held
                    inside.unlink()


def _first_difference(old: str, new: str) -> str:
    for a, b in zip(old.splitlines(), new.splitlines(), strict=False):
        if a != b:
            return f"{b.strip()!r}, the run has {a.strip()!r}"
    return "one recipe is longer than the other"


def finish(out: Path, summary: dict[str, Any]) -> None:
    """``summary.json`` is the mark of a finished run, so it comes last."""
    write_json(out / "summary.json", summary)
