"""Checks of names and paths that commands make before they import torch, which takes seconds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from freqkd_cli.errors import UsageError, WeightsMissing


def check_recipe(source: str | None) -> None:
    """Check that a recipe exists; None is an option that was not given.

    Raises:
        RecipeError: there is no such file and no shipped recipe of that name.
    """
    if source is None or source == "-":
        return
    from freqkd_cli.recipe.shipped import resolve

    resolve(source)


def shipped_names() -> frozenset[str]:
    """Return the names of the shipped recipes."""
    from freqkd_cli.recipe.shipped import paths

    return frozenset(paths())


def check_source(source: str, *, as_recipe: bool) -> None:
    """Check the SOURCE of ``freqkd eval``: a folder, or a recipe if ``as_recipe``.

    Raises:
        RecipeError, WeightsMissing: there is nothing of that name.
        UsageError: it is the name of a recipe, and a folder is needed.
    """
    path = Path(source)
    if as_recipe and not path.is_dir():
        check_recipe(source)
    elif not path.exists():
        if source in shipped_names():
            raise UsageError(
                f"{source} is a recipe, not a run",
                tip=f"freqkd eval RUN, or freqkd eval {source} --teacher",
            )
        raise WeightsMissing(
            f"there is no run at {source}",
            need="a run folder, an exported .onnx or .pt2 file, a model folder with --recipe, or "
            "RECIPE --teacher",
        )


def check_exist(paths: Iterable[Path], need: str) -> None:
    """Check that every path exists.

    Raises:
        WeightsMissing: one does not; ``need`` is what it should be.
    """
    for path in paths:
        if not path.exists():
            raise WeightsMissing(f"{path} does not exist", need=need)
