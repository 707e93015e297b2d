"""Where an export is written: what it may replace, and the files that it must never replace."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from freqkd_cli import recipe as recipes
from freqkd_cli.errors import FreqKDError, UsageError
from freqkd_cli.runtime.writable import require_writable

DEFAULT = {
    "onnx": "model.onnx",
    "int8": "model.int8.onnx",
    "pt2": "model.pt2",
    "safetensors": "export",
}
"""Name of an export beside the weights, for each format."""
FOLDER_FILES = (
    "config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "README.md",
    "recipe.yaml",
    "summary.json",
)
"""Files of an exported folder."""

_MADE_FROM_RUN = (".onnx", ".pt2", ".onnx.md", ".pt2.md")
"""Ends of the names of exported files and their cards."""
_RUN_FOLDERS = ("last", "state", "tensorboard")


def check_target(out: Path, kind: str, source: Path, *, overwrite: bool) -> None:
    """Check that ``out`` can be written and that nothing is lost by it.

    Args:
        kind: the format: onnx, pt2 or safetensors.
        source: the folder of the model.
        overwrite: whether an earlier export may be replaced.

    Raises:
        UsageError: ``out`` exists and ``overwrite`` is not set, it is a folder instead of a file or
            the other way round, it is below a file, or it belongs to the run or its teacher.
        FreqKDError: the folder around it is read-only.
    """
    is_folder = kind == "safetensors"
    if out.exists() and out.is_dir() != is_folder:
        raise UsageError(
            f"--out {out} is a {'folder' if out.is_dir() else 'file'}",
            need=f"a {'folder' if is_folder else 'file'} for --format {kind}",
            tip="use another --out",
            key="out",
        )
    if out.resolve().parent == out.resolve():
        raise UsageError(f"--out {out} is the root of the file system", need="a folder", key="out")
    require_writable("--out", out)
    if out.exists() and not overwrite and (not is_folder or any(out.iterdir())):
        raise UsageError(
            f"--out {out} {'is not empty' if is_folder else 'already exists'}",
            tip="--overwrite, or another --out",
            key="out",
        )
    written = [out, *(out / name for name in FOLDER_FILES)] if is_folder else [out]
    _refuse_sources(out, written, source)


def _refuse_sources(out: Path, written: Iterable[Path], source: Path) -> None:
    """Refuse to replace what the model was made from, whatever its path: links are followed."""
    protected = {_identity(path): path for path in source_paths(source)}
    for path in written:
        if path.exists() and _identity(path) in protected:
            raise UsageError(
                f"--out {out} would replace a file of the run or of its teacher",
                got=protected[_identity(path)],
                tip="use another --out, or leave it out",
                key="out",
            )


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def source_paths(source: Path) -> list[Path]:
    """Return the files and folders that a model was made from and that a run keeps.

    These are the folder of the model, what a run writes there, and the weights that its recipe
    names. Earlier exports are not among them.
    """
    recipe = source / "recipe.yaml"
    places = [source, *(source / name for name in _RUN_FOLDERS)]
    if recipe.is_file():
        loaded = recipes.load(recipe, parts=False)
        sections = [loaded.teacher, loaded.student, *loaded.losses]
        content = [section.model_dump(mode="json") for section in sections if section]
        places += [Path(text).expanduser() for text in _texts(content) if text]
    paths = []
    for place in places:
        with contextlib.suppress(OSError):  # a text of the recipe that is no path
            paths += [place] if place.exists() else []
            files = [path for path in place.iterdir() if path.is_file()] if place.is_dir() else []
            paths += [path for path in files if not path.name.endswith(_MADE_FROM_RUN)]
    return paths


def _texts(value: Any) -> Iterator[str]:
    """All texts in nested lists and dictionaries."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for child in value.values() for text in _texts(child))
    elif isinstance(value, list):
        yield from (text for child in value for text in _texts(child))


@contextlib.contextmanager
def folder_beside(out: Path) -> Iterator[Path]:
    """Make a temporary folder beside ``out``, and remove it afterwards.

    It is on the same disk, so that a rename to ``out`` is one step.

    Raises:
        FreqKDError: the folder around ``out`` cannot be made or written to.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".freqkd-", dir=out.parent))
    except OSError as error:
        raise FreqKDError(
            f"--out {out} cannot be written",
            got=f"{out.parent}: {error.strerror}",
            tip="use another --out",
            key="out",
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
