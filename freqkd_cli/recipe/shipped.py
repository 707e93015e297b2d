"""The recipes that come with freqkd: in the wheel beside this package, in a checkout at its top."""

from __future__ import annotations

from pathlib import Path

from freqkd_cli.errors import RecipeError
from freqkd_cli.registry import did_you_mean

_PACKAGE = Path(__file__).resolve().parent.parent


def folder() -> Path | None:
    """Where the shipped recipes lie, or None where they were left out of the installation."""
    installed, checkout = _PACKAGE / "shipped_recipes", _PACKAGE.parent / "recipes"
    if installed.is_dir():
        return installed
    return (
        checkout if checkout.is_dir() and (_PACKAGE.parent / "pyproject.toml").is_file() else None
    )


def paths() -> dict[str, Path]:
    """Name -> file, sorted by name."""
    here = folder()
    return {path.stem: path for path in sorted(here.glob("*.yaml"))} if here else {}


def question(path: Path) -> str:
    """What a recipe is for: its first comment line that is meant for people."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            text = line.lstrip("#").strip()
            if line.startswith("#") and text and not text.startswith("yaml-language-server"):
                return text
            if line.strip() and not line.startswith("#"):
                break
    return ""


def find(name: str) -> Path:
    """The shipped recipe called ``name``.

    Raises:
        RecipeError: none is.
    """
    known = paths()
    if name not in known:
        raise RecipeError(
            f"no shipped recipe is called {name!r}{did_you_mean(name, known)}",
            need=f"one of {', '.join(known)}" if known else None,
        )
    return known[name]


def resolve(source: str | Path) -> Path:
    """A recipe's file from what the user typed: a path, or the bare name of a shipped recipe.

    Raises:
        RecipeError: it is neither.
    """
    path = Path(source)
    if path.is_file() or path.is_fifo():
        return path
    known = paths()
    if str(source) in known:
        return known[str(source)]
    if path.is_dir():
        inside = path / "recipe.yaml"
        raise RecipeError(
            f"{source} is a folder, not a recipe", tip=f"{inside}" if inside.is_file() else None
        )
    raise RecipeError(
        f"there is no recipe {str(source)!r}{did_you_mean(path.stem, known)}",
        need="a file, - for standard input, or the name of a shipped recipe",
        tip="freqkd recipe list",
    )
