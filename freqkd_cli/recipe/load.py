"""Read a recipe: a file, ``-`` for standard input, or the bare name of a shipped one."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from freqkd_cli.errors import RecipeError
from freqkd_cli.recipe import overrides as changes
from freqkd_cli.recipe import shipped
from freqkd_cli.recipe.nodes import MAX_CHARACTERS, Node, parse
from freqkd_cli.recipe.problems import Place, Problem, as_error
from freqkd_cli.recipe.sections import STDIN, Recipe
from freqkd_cli.recipe.validate import Checker


def load(
    source: str | Path,
    sets: Sequence[str] = (),
    overrides: changes.Overrides = (),
    *,
    parts: bool = True,
) -> Recipe:
    """Read and check a recipe.

    Args:
        source: a path, ``-``, or the bare name of a shipped recipe.
        sets: ``key.path=value`` each, as given with ``--set``; they replace values of the file.
        overrides: key path -> Python value, as given with explicit options; they replace values of
            ``sets``. None means that the option was not given.
        parts: also check the arguments of models, losses and data sets, which imports their files
            (and so torch). Otherwise they are kept as they were written.

    Raises:
        RecipeError: lists every problem as ``file:line:column key: what``, in file order.
    """
    label, text = _text(source)
    return loads(text, label, sets, overrides, parts=parts)


def loads(
    text: str,
    source: str = "recipe",
    sets: Sequence[str] = (),
    overrides: changes.Overrides = (),
    *,
    parts: bool = True,
) -> Recipe:
    """:func:`load` for a text; ``source`` is its name in messages."""
    start = Place(0, 1, 1, source)
    root, problems = parse(text, lambda line, column: Place(0, line + 1, column + 1, source))
    if root is None or root.value is None:
        raise as_error(problems or [Problem(start, "", "the recipe is empty")], source)
    if isinstance(root.value, dict):
        if "recipes" in root.value and "losses" not in root.value:
            tip = f"freqkd sweep {shlex.quote(source)} --out DIR --dry-run"
            raise RecipeError(f"{source} is a plan of a study, not a recipe", tip=tip)
        problems += changes.apply(root, sets, overrides)
    checker = Checker(parts=parts)
    sections = checker.read(root)
    problems += checker.problems
    if problems:
        raise as_error(problems, source)
    return Recipe(
        **sections,
        source=source,
        sets=tuple(sets),
        options={key: value for key, value in dict(overrides).items() if value is not None},
        warnings=tuple(checker.warnings),
        places=places(root),
    )


def _text(source: str | Path) -> tuple[str, str]:
    """Return the name of the recipe in messages, and its text."""
    if str(source) == "-":
        label, data = STDIN, sys.stdin.buffer.read(4 * MAX_CHARACTERS + 1)
    else:
        path = shipped.resolve(source)
        label = str(path)
        try:
            with path.open("rb") as file:
                data = file.read(4 * MAX_CHARACTERS + 1)
        except OSError as error:
            raise RecipeError(
                f"the recipe {label} cannot be read", got=error.strerror or str(error)
            ) from error
    try:
        return label, data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(data) > 4 * MAX_CHARACTERS:
            return label, " " * (MAX_CHARACTERS + 1)
        line, column = (
            data.count(b"\n", 0, error.start) + 1,
            error.start - data.rfind(b"\n", 0, error.start),
        )
        raise as_error(
            [Problem(Place(0, line, column, label), "", "not UTF-8 text")], label
        ) from error


def places(root: Node) -> Mapping[str, Place]:
    """Return key path -> place, for every key and list item."""
    places = {"": root.at}
    waiting: list[tuple[str, Node]] = [("", root)]
    while waiting:
        path, node = waiting.pop()
        for key, child in node.children():
            inner = f"{path}.{key}" if path else str(key)
            places[inner] = child.place
            waiting.append((inner, child))
    return places
