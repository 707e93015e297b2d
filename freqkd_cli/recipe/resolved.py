"""A recipe as YAML with every default written out; reading it again gives an equal recipe."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic_core import to_jsonable_python

from freqkd_cli.recipe.nodes import scalar
from freqkd_cli.recipe.sections import Recipe
from freqkd_cli.recipe.value_types import Section

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./+-]*")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def resolved(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as JSON values, with defaults, arguments among their section's keys."""
    out: dict[str, Any] = {"version": recipe.version, "data": _section(recipe.data)}
    if recipe.teacher is not None:
        out["teacher"] = _section(recipe.teacher)
    out["student"] = _section(recipe.student)
    out["losses"] = [_section(line) for line in recipe.losses]
    out["train"] = _section(recipe.train)
    return out


def dump(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML."""
    return as_yaml(resolved(recipe))


def as_yaml(values: Mapping[str, Any]) -> str:
    """Return the values of a whole recipe, as :func:`resolved` gives them, as YAML."""
    lines = [f"version: {values['version']}"]
    for name, section in values.items():
        if name == "version":
            continue
        lines.append(f"{name}:")
        for block in section if isinstance(section, list) else [section]:
            first, other = ("  - ", "    ") if isinstance(section, list) else ("  ", "  ")
            for number, (key, value) in enumerate(block.items()):
                lines.append(f"{other if number else first}{flow(key)}: {flow(value)}")
    return "\n".join(lines) + "\n"


def _section(section: Section) -> dict[str, Any]:
    inner = {key for key, value in section if isinstance(value, Section)}
    own = section.model_dump(mode="json", exclude={"arguments"})
    own = {
        key: _section(getattr(section, key)) if key in inner else value
        for key, value in own.items()
        if value is not None
    }
    rest = to_jsonable_python(getattr(section, "arguments", {}))
    return own | rest


def flow(value: Any) -> str:
    """Return a value on one line, such that it is read back as itself."""
    if isinstance(value, dict):
        items = (f"{flow(str(key))}: {flow(child)}" for key, child in value.items())
        return "{" + ", ".join(items) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(flow(child) for child in value) + "]"
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and scalar(value) == value else _quoted(value)
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _quoted(text: str) -> str:
    def safe(c: str) -> str:
        if c in _ESCAPES:
            return _ESCAPES[c]
        return c if c.isprintable() else f"\\U{ord(c):08x}"

    return '"' + "".join(map(safe, text)) + '"'
