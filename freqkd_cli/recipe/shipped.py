"""The shipped recipes: in the wheel beside this package, in a checkout in ``recipes/``."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from freqkd_cli.errors import RecipeError
from freqkd_cli.registry import did_you_mean

_PACKAGE = Path(__file__).resolve().parent.parent
_LABEL = re.compile(r"# (?P<label>[A-Z][a-z]+):")
_RESULTS = ("Expected", "Compared", "Measured")
"""Labels of the paragraphs of a lab note that hold results."""


def folder() -> Path | None:
    """Return the folder of the shipped recipes; None if the installation has none."""
    installed, checkout = _PACKAGE / "shipped_recipes", _PACKAGE.parent / "recipes"
    if installed.is_dir():
        return installed
    in_checkout = checkout.is_dir() and (_PACKAGE.parent / "pyproject.toml").is_file()
    return checkout if in_checkout else None


def paths() -> dict[str, Path]:
    """Return name -> file, sorted by name."""
    here = folder()
    return {path.stem: path for path in sorted(here.glob("*.yaml"))} if here else {}


def plan_paths() -> dict[str, Path]:
    """Return name -> file of the shipped plans of studies, sorted by name."""
    here = folder()
    return {path.stem: path for path in sorted((here / "plans").glob("*.yaml"))} if here else {}


def question(path: Path) -> str:
    """Return the question of a recipe: its first comment line, the schema line apart."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            text = line.lstrip("#").strip()
            if line.startswith("#") and text and not text.startswith("yaml-language-server"):
                return text
            if line.strip() and not line.startswith("#"):
                break
    return ""


def copy_text(source: Path, target: Path) -> str:
    """Return the text of a shipped recipe for a copy at ``target``.

    The copy has no results, since they were measured with the shipped recipe. Its command names
    the copy, and its schema line the schema beside the shipped recipe.
    """
    lines = []
    in_results = False
    for line in source.read_text(encoding="utf-8").splitlines():
        label = _LABEL.match(line)
        if not line.startswith("#"):
            in_results = False
        elif label:
            in_results = label["label"] in _RESULTS
        if line.startswith("# Expected:"):
            unmeasured = "# Expected: not yet measured"
            lines.append(line if line.startswith(unmeasured) else unmeasured)
        if not in_results:
            lines.append(line)
    text = "\n".join(lines) + "\n"
    folder = source.parent
    text = re.sub(r"\$schema=(?=\w+\.schema\.json)", lambda _: f"$schema={folder}/", text, count=1)
    old, new = re.escape(source.stem), shlex.quote(str(target))
    text = re.sub(rf"(?m)^(# Command: freqkd \S+) {old}\b", lambda line: f"{line[1]} {new}", text)
    return re.sub(
        rf"(?m)^(# Command: .*--out) (runs|studies)/{old}(?!\S)",
        lambda line: f"{line[1]} {shlex.quote(f'{line[2]}/{target.stem}')}",
        text,
    )


def find(name: str) -> Path:
    """Return the file of a shipped recipe, or of a plan.

    Raises:
        RecipeError: there is none of that name.
    """
    known = paths() | plan_paths()
    if name not in known:
        raise RecipeError(
            f"no shipped recipe is called {name!r}{did_you_mean(name, known)}",
            need=f"one of {', '.join(known)}" if known else None,
            tip="freqkd recipe list",
        )
    return known[name]


def resolve(source: str | Path) -> Path:
    """Return a recipe's file, given a path or the name of a shipped recipe.

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
        need="the name of a shipped recipe, a recipe file, or - for standard input",
        tip="freqkd recipe list",
    )


def resolve_plan(source: str | Path) -> Path:
    """Return a plan's file, given a path, a study folder or the name of a shipped plan.

    Raises:
        RecipeError: it is none of them.
    """
    path = Path(source)
    path = path / "plan.yaml" if (path / "plan.yaml").is_file() else path
    if path.is_file() or path.is_fifo():
        return path
    known = plan_paths()
    if str(source) in known:
        return known[str(source)]
    raise RecipeError(
        f"there is no plan {str(source)!r}{did_you_mean(path.stem, known)}",
        need=f"a plan file, or a shipped plan: {', '.join(known)}" if known else "a plan file",
    )
