"""Recipes of runs as flat values: equal ones are one row, and differences have a key.

The recipe of an older version lacks keys that were added since. They get their defaults, so that
its runs are compared with those of today.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from pydantic_core import to_jsonable_python

from freqkd_cli import registry
from freqkd_cli.errors import FreqKDError
from freqkd_cli.lab.run_record import RunRecord
from freqkd_cli.recipe import shipped
from freqkd_cli.recipe.sections import DRAWER, SECTIONS
from freqkd_cli.runtime.json_file import object_or_none
from freqkd_cli.runtime.leaves import leaves
from freqkd_cli.train.recipe_identity import FREE

Values = dict[str, Any]
"""Key path -> value. Loss lines are keyed by their id, and lines of weight 0 are left out."""

SCHEMA = "recipe.schema.json"
SEEDS = ("train.seed", "data.view_seed")
UNSEEN = (*SEEDS, "data.root", *(".".join(key) for key in FREE))
"""Keys in which the runs of one row may differ."""


def values_of(records: Sequence[RunRecord]) -> list[Values]:
    """Return the values of the recipe of each run."""
    known = _known_arguments(records)
    return [dict(leaves(_completed(record.recipe, known), numbered=False)) for record in records]


def identity(values: Values) -> tuple[tuple[str, str], ...]:
    """Return what the runs of one row have in common, as a key of a dictionary."""
    kept = ((key, repr(_number(x))) for key, x in values.items() if key not in UNSEEN)
    return tuple(sorted(kept))


def differing(one: Values, other: Values, *sections: str) -> list[str]:
    """Return the keys below ``sections`` (all without any) whose values differ."""
    keys = [*one, *(key for key in other if key not in one)]
    return [
        key
        for key in keys
        if one.get(key) != other.get(key)
        and (not sections or key.startswith(tuple(f"{section}." for section in sections)))
    ]


def _completed(recipe: Mapping[str, Any], known: Mapping[tuple[str, str], set[str]]) -> Values:
    """Return a recipe with the defaults of keys that it lacks."""
    lines = [line for line in recipe.get("losses") or [] if line.get("weight", 1.0) > 0]
    whole: Values = {
        name: _with_defaults(name, recipe[name], known)
        for name in SECTIONS
        if isinstance(recipe.get(name), dict)
    }
    whole["losses"] = {
        str(line.get("id") or line["name"]): _with_defaults("losses", line, known) for line in lines
    }
    return whole


def _with_defaults(
    section: str, values: Mapping[str, Any], known: Mapping[tuple[str, str], set[str]]
) -> Values:
    fields = SECTIONS[section].model_fields
    own = {
        key: to_jsonable_python(field.default)
        for key, field in fields.items()
        if key != "arguments" and not field.is_required()
    }
    name = str(values.get("name"))
    missing = known.get((section, name), set()) - values.keys() - own.keys()
    defaults = _defaults(section, name) if missing else {}
    parts = {key: defaults[key] for key in sorted(missing) if key in defaults}
    inner = {
        key: {**default, **values[key]}  # data.augment
        for key, default in own.items()
        if isinstance(default, dict) and isinstance(values.get(key), dict)
    }
    return {**own, **parts, **values, **inner}


def _known_arguments(records: Iterable[RunRecord]) -> dict[tuple[str, str], set[str]]:
    """Return (section, name of its part) -> the keys that it has in any of the runs."""
    known: dict[tuple[str, str], set[str]] = {}
    for record in records:
        for section in SECTIONS:
            parts = record.recipe.get(section) or []
            for part in parts if isinstance(parts, list) else [parts]:
                known.setdefault((section, str(part.get("name"))), set()).update(part)
    return known


def _defaults(section: str, name: str) -> Values:
    """Return the defaults of a part's arguments: from the schema, or else from its file."""
    if (defaults := _schema().get((section, name))) is not None:
        return defaults
    try:
        fields = registry.arguments(DRAWER[section], name).model_fields  # imports torch
    except FreqKDError:  # a part of an older version
        return {}
    return {
        key: to_jsonable_python(field.default, serialize_unknown=True)
        for key, field in fields.items()
        if not field.is_required()
    }


@cache
def _schema() -> dict[tuple[str, str], Values]:
    """Return (section, name) -> defaults of the shipped schema; empty where it is missing."""
    folder = shipped.folder()
    schema = object_or_none(folder / SCHEMA) if folder else None
    parts: dict[tuple[str, str], Values] = {}
    for section, node in (schema or {}).get("properties", {}).items():
        for choice in node.get("items", node).get("oneOf", []):
            if "name" not in (keys := choice.get("properties", {})):
                continue
            defaults = {key: value["default"] for key, value in keys.items() if "default" in value}
            parts[section, keys["name"]["const"]] = defaults
    return parts


def _number(value: Any) -> Any:
    """Return a whole number as a float, since 1 and 1.0 are one value of a recipe."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
