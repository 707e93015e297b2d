"""The keys of a recipe as dotted paths, as ``--set`` and the axes of a plan take them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from freqkd_cli.recipe.sections import SECTIONS
from freqkd_cli.recipe.value_types import Section

if TYPE_CHECKING:
    from freqkd_cli.recipe.sections import LossLine, Recipe


def has_key(recipe: Recipe, key: str) -> bool:
    """Return whether a recipe has a key, written or by default."""
    section, _, path = key.partition(".")
    if section == "losses":
        name, _, path = path.partition(".")
        return _has(_line(recipe, name), path)
    return section in SECTIONS and _has(getattr(recipe, section), path)


def keys(recipe: Recipe) -> Iterator[str]:
    """Yield the keys of a recipe; those of a loss line with its id."""
    for section in SECTIONS:
        if section != "losses":
            yield from _keys(section, getattr(recipe, section))
    for line in recipe.losses:
        yield from _keys(f"losses.{line.id}", line)


def _line(recipe: Recipe, name: str) -> LossLine | None:
    """Return the loss line of an id, a name that occurs once, or a number."""
    if name.isdecimal():
        return recipe.losses[int(name)] if int(name) < len(recipe.losses) else None
    for lines in (
        [line for line in recipe.losses if line.id == name],
        [line for line in recipe.losses if line.name == name],
    ):
        if len(lines) == 1:
            return lines[0]
    return None


def _values(section: Section) -> Mapping[str, Any]:
    own = {key: value for key, value in section if key != "arguments"}
    return own | getattr(section, "arguments", {})


def _has(section: Any, path: str) -> bool:
    key, dot, rest = path.partition(".")
    if not isinstance(section, Section) or key not in _values(section):
        return False
    if not dot:
        return bool(key)
    value = _values(section)[key]
    return _has(value, rest) if isinstance(value, Section) else value is not None and bool(rest)


def _keys(path: str, section: Any) -> Iterator[str]:
    if not isinstance(section, Section):
        return
    for key, value in _values(section).items():
        yield f"{path}.{key}"
        yield from _keys(f"{path}.{key}", value)
