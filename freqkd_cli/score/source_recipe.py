"""The recipe that names the data of a source of ``freqkd eval``."""

from __future__ import annotations

import shlex
from pathlib import Path

from freqkd_cli.build.exported_model import is_exported_file
from freqkd_cli.errors import UsageError


def recipe_of(source: str) -> str:
    """Return a recipe's own name, or the file in a run's folder or beside an exported file.

    Raises:
        UsageError: there is no recipe there.
    """
    path = Path(source)
    if is_exported_file(path):
        return _recipe_beside(path)
    if not path.is_dir():
        return source
    if not (path / "recipe.yaml").is_file():
        raise _no_data(f"{source} has no recipe.yaml", source)
    return str(path / "recipe.yaml")


def _recipe_beside(file: Path) -> str:
    """The recipe in the folder of an exported file.

    Raises:
        UsageError: there is none.
    """
    if not (file.parent / "recipe.yaml").is_file():
        raise _no_data(f"there is no recipe.yaml beside {file}", str(file))
    return str(file.parent / "recipe.yaml")


def _no_data(what: str, source: str) -> UsageError:
    return UsageError(
        f"{what} that names the data to score it on",
        need="--recipe RECIPE",
        tip=f"freqkd eval {shlex.quote(source)} --recipe scenes_teacher",
        key="recipe",
    )
