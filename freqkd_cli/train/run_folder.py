"""A run's folder: its files, when it may be written to, and how it is made ready."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqkd_cli import recipe as recipes
from freqkd_cli.errors import FreqKDError, UsageError
from freqkd_cli.recipe.resolved import as_yaml
from freqkd_cli.runtime.files import SUFFIX, write_synced
from freqkd_cli.runtime.json_file import object_or_none, write_json
from freqkd_cli.runtime.lock import LOCK, WriteLock
from freqkd_cli.train.recipe_identity import difference, kept_values, shown

if TYPE_CHECKING:
    from freqkd_cli.recipe.sections import Recipe

CURVES, SAMPLES, REPORT = "curves.png", "samples.png", "report.html"

FILES = (
    *("recipe.yaml", "model.safetensors", "config.json", "preprocessor_config.json"),
    *("metrics.jsonl", "summary.json", "environment.json", CURVES, SAMPLES),
    *("trackers.json", "mlflow.db"),
    # Made from the run by other commands, so they must not stay beside a new one.
    *("model.onnx", "model.onnx.md", "model.int8.onnx", "model.int8.onnx.md"),
    *("model.pt2", "model.pt2.md", "spectrum.png", "comparison.png"),
    *("graph_spectrum.png", "graph_spectrum_maps.png", REPORT),
)
FOLDERS = ("state", "last", "tensorboard", "export", "wandb", "mlflow")
"""What a run leaves in its folder, and what other commands add."""


def check(out: Path, recipe: Recipe, *, resume: bool, overwrite: bool) -> dict[str, Any] | None:
    """Check that a run may start in ``out``; nothing is changed.

    Returns:
        The summary of the run in ``out`` where ``resume`` finds it finished, else None.

    Raises:
        UsageError: ``out`` is not empty and neither ``resume`` nor ``overwrite`` is given, or it
            contains the run of another recipe, or no run.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file", need="a folder", tip="give another --out")
    if not out.is_dir() or not any(out.iterdir()):
        return None
    if foreign := _foreign(out):
        raise UsageError(
            f"--out {out} is not empty, and what is in it is no run of freqkd",
            got=", ".join(sorted(foreign)[:5]),
            need="a folder that is new, empty, or that of a run",
            tip="give another --out",
        )
    if not (resume or overwrite):
        raise UsageError(
            f"--out {out} is not empty",
            tip="--resume to continue the run in it, --overwrite to replace it, or another --out",
        )
    if overwrite or not (out / "recipe.yaml").exists():
        return None
    _check_recipe(out, recipe)
    return object_or_none(out / "summary.json")


def _foreign(out: Path) -> list[str]:
    """Return the names in ``out`` that are not of a run; none where a run has its recipe there.

    A recipe alone may be written by hand. A run makes ``state`` before it; a copy of a finished run
    may lack that folder.
    """
    names = [path.name for path in out.iterdir()]
    if "state" not in names and "environment.json" not in names:
        return names
    if "recipe.yaml" in names:
        return []
    return [name for name in names if name not in (*FILES, *FOLDERS) and not name.endswith(SUFFIX)]


def _check_recipe(out: Path, recipe: Recipe) -> None:
    """Refuse to resume the run of another recipe, or on other data.

    Raises:
        UsageError: the first difference is named.
    """
    differing = difference(recipes.load(out / "recipe.yaml"), recipe)
    if differing is None:
        return
    what = "on other data" if differing.key == "data.root" else "with another recipe"
    raise UsageError(
        f"the run in {out} was started {what}",
        got=f"{differing.key} {shown(differing.recipe)}",
        need=f"{differing.key} {shown(differing.run)}",
        tip="give the same recipe and options, or another --out",
        key=differing.key,
    )


@contextmanager
def opened(out: Path, recipe: Recipe, *, overwrite: bool) -> Iterator[None]:
    """Hold the right to write to ``out``, which :func:`check` accepted, and make it ready.

    Raises:
        UsageError: another process writes to it.
    """
    with contextlib.ExitStack() as held:
        held.enter_context(lock(out))
        if overwrite:
            clear(out)
            if not (out / "state").is_dir():  # it was a link, and the lock went with it
                held.enter_context(lock(out))
        # A run that is extended is finished, and from here on it is not.
        (out / "summary.json").unlink(missing_ok=True)
        text = as_yaml(kept_values(recipe))
        write_synced(out / "recipe.yaml", lambda file: file.write(text.encode()))
        yield


def lock(out: Path) -> WriteLock:
    """Return the right to write to ``out``, a context manager.

    Raises:
        UsageError: another process writes to it.
    """
    (out / "state").mkdir(parents=True, exist_ok=True)
    return WriteLock(out / "state", f"the run {out}")


def clear(out: Path) -> None:
    """Remove what a run leaves, and nothing else. Links are removed, never followed."""
    for path in out.iterdir():
        if path.name not in (*FILES, *FOLDERS) and path.suffix != SUFFIX:
            continue
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        elif path.name in FOLDERS:
            for inside in path.iterdir():
                if inside.is_symlink() or not inside.is_dir():
                    if inside.name != LOCK:  # it is held
                        inside.unlink()
                else:
                    shutil.rmtree(inside)


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turn the disk's errors into one message.

    Raises:
        FreqKDError: the disk is full, permission is gone, or the folder was removed.
    """
    try:
        yield
    except OSError as error:
        raise FreqKDError(
            f"the run {out} cannot be written: {error.strerror or error}",
            tip="fix this, then rerun the same command with --resume: "
            "it continues from the last intact checkpoint",
        ) from error


def finish(out: Path, summary: dict[str, Any]) -> None:
    """Write ``summary.json``, the mark of a finished run; so it comes last."""
    write_json(out / "summary.json", summary)
