"""A recipe as YAML with every default written out; reading it again gives an equal recipe."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from pydantic_core import to_jsonable_python

from freqkd_cli.recipe.nodes import scalar
from freqkd_cli.recipe.sections import Recipe, Section

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./+-]*")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def resolved(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON-able values, defaults included, parts' arguments among their section's keys."""
    out: dict[str, Any] = {"version": recipe.version, "data": _section(recipe.data)}
    if recipe.teacher is not None:
        out["teacher"] = _section(recipe.teacher)
    out["student"] = _section(recipe.student)
    out["losses"] = [_section(line) for line in recipe.losses]
    out["train"] = _section(recipe.train)
    return out


def digest(recipe: Recipe) -> str:
    """sha256 of what the recipe says, whatever its layout, comments and order of keys."""
    return hashlib.sha256(json.dumps(resolved(recipe), sort_keys=True).encode()).hexdigest()


def dump(recipe: Recipe) -> str:
    """The resolved recipe as YAML."""
    values = resolved(recipe)
    lines = [f"version: {values.pop('version')}"]
    for name, section in values.items():
        lines.append(f"{name}:")
        for block in section if isinstance(section, list) else [section]:
            mark = "- " if isinstance(section, list) else "  "
            for key, value in block.items():
                lines.append(
                    f"{'  ' if isinstance(section, list) else ''}{mark}{_flow(key)}: {_flow(value)}"
                )
                mark = "  "
    return "\n".join(lines) + "\n"


def _section(section: Section) -> dict[str, Any]:
    own = section.model_dump(mode="json", exclude={"arguments"})
    own = {key: value for key, value in own.items() if value is not None}
    rest = to_jsonable_python(getattr(section, "arguments", {}))
    return own | rest


def _flow(value: Any) -> str:
    """A value on one line, such that it is read back as itself."""
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{_flow(str(key))}: {_flow(child)}" for key, child in value.items())
            + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(_flow(child) for child in value) + "]"
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and scalar(value) == value else _quoted(value)
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    )


def _quoted(text: str) -> str:
    def safe(c: str) -> str:
        if c in _ESCAPES:
            return _ESCAPES[c]
        return c if " " <= c <= "~" else f"\\U{ord(c):08x}"

    return '"' + "".join(map(safe, text)) + '"'
