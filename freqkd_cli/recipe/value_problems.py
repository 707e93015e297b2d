"""Pydantic's errors about values as problems of a recipe: their key, their place, got and need."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from freqkd_cli import registry
from freqkd_cli.recipe.nodes import Node
from freqkd_cli.recipe.problems import Place
from freqkd_cli.recipe.value_types import PATTERNS

_NEEDS = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a word",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "keys with values",
    "model_type": "keys with values",
    "path_type": "a path",
    "json_invalid": "text in UTF-8",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "too_short": "at least {min_length} items",
    "too_long": "at most {max_length} items",
    "string_too_long": "at most {max_length} characters",
    "missing": "this key",
    "value_error": "{error}",
}
"""Pydantic's type of an error -> what a recipe needs; the fields are those of its context."""


_KEY = "[key]"
"""Last part of the location of an error about a key of a mapping."""


def value_problems(
    error: ValidationError,
    nodes: Mapping[str, Node],
    path: str,
    within: Node,
    model: type[BaseModel],
) -> dict[tuple[str, Place], list[tuple[str, str]]]:
    """Return pydantic's errors as {(key path, place): [(got, need), ...]}.

    The branches of a union have the same key path and place.
    """
    problems: dict[tuple[str, Place], list[tuple[str, str]]] = {}
    for entry in error.errors(include_url=False):
        here: Node = Node(dict(nodes), within.at, within.key_at)
        steps = [path]
        kind: Any = model
        for part in entry["loc"]:
            child = _child(here, part)
            if child is not None:
                steps.append(str(part))
                here, kind = child, _inner(kind, part)
        if entry["type"] == "missing":
            problems.setdefault((f"{'.'.join(steps)}.{entry['loc'][-1]}", here.place), []).append(
                ("", "missing")
            )
        elif entry["type"] == "unknown_key":  # of a part inside an argument, with its own hint
            place = here.key_at or here.at
            problems.setdefault((".".join(steps), place), []).append(("", str(entry["msg"])))
        elif entry["type"] == "extra_forbidden":
            options = (
                kind.model_fields if isinstance(kind, type) and issubclass(kind, BaseModel) else ()
            )
            options = options or (_parent(model, entry["loc"]) or ())
            text = f"unknown key{registry.did_you_mean(steps[-1], options)}"
            problems.setdefault((".".join(steps), here.key_at or here.at), []).append(("", text))
        else:
            is_key = entry["loc"][-1] == _KEY  # a key of a mapping, not its value
            got, place = (steps.pop(), here.key_at) if is_key else (here.plain(), None)
            problems.setdefault((".".join(steps), place or here.place), []).append(
                (shown(got), need_of(entry))
            )
    return problems


def _child(node: Node, part: str | int) -> Node | None:
    if isinstance(node.value, dict):
        return node.value.get(str(part))
    return (
        node.value[part]
        if isinstance(node.value, list) and isinstance(part, int) and part < len(node.value)
        else None
    )


def _inner(model: Any, part: str | int) -> Any:
    """Return the model that a field contains, if it contains one."""
    if (
        not (isinstance(model, type) and issubclass(model, BaseModel))
        or part not in model.model_fields
    ):
        return None
    annotation = model.model_fields[part].annotation
    models = [
        kind
        for kind in (annotation, *get_args(annotation))
        if isinstance(kind, type) and issubclass(kind, BaseModel)
    ]
    return models[0] if models else None


def _parent(model: Any, loc: tuple[str | int, ...]) -> Iterable[str] | None:
    for part in loc[:-1]:
        model = _inner(model, part)
    return model.model_fields if model is not None else None


def need_of(error: Mapping[str, Any]) -> str:
    """Return what a value has to be, in the words of a recipe."""
    if error["type"] == "string_pattern_mismatch":
        return PATTERNS.get(error["ctx"]["pattern"], "a text of another form")
    if error["type"] == "literal_error" and isinstance(error["input"], str):
        options = error["ctx"]["expected"]
        return options + registry.did_you_mean(error["input"], re.findall("'([^']*)'", options))
    text = _NEEDS.get(error["type"])
    return text.format(**error.get("ctx", {})) if text else str(error["msg"])


def joined(texts: list[tuple[str, str]]) -> str:
    """Return the text of one problem from the (got, need) of the branches of a union."""
    got, needs = texts[0][0], list(dict.fromkeys(need for _, need in texts))
    return f"got {got}, need {' or '.join(needs)}" if got else needs[0]


def shown(value: Any) -> str:
    """Return a value in at most 60 characters, written as in a recipe."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, str) and value:
        text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
