"""Pydantic's errors about values as problems of a recipe: their key, their place, got and need."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from freqkd_cli import registry
from freqkd_cli.recipe.nodes import Node
from freqkd_cli.recipe.problems import Place

_WORDS = {
    "a valid boolean": "true or false",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid string": "a word",
    "a valid tuple": "a list",
    "a valid array": "a list",
    "a valid list": "a list",
    "a valid dictionary": "keys with values",
    "an object": "keys with values",
}


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
        elif entry["type"] == "extra_forbidden":
            options = (
                kind.model_fields if isinstance(kind, type) and issubclass(kind, BaseModel) else ()
            )
            options = options or (_parent(model, entry["loc"]) or ())
            text = f"unknown key{registry.did_you_mean(steps[-1], options)}"
            problems.setdefault((".".join(steps), here.key_at or here.at), []).append(("", text))
        else:
            problems.setdefault((".".join(steps), here.place), []).append(
                (shown(here.plain()), _need(entry))
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


def _need(error: Mapping[str, Any]) -> str:
    """Return what pydantic requires, in the words of a recipe."""
    if error["type"] in ("too_short", "too_long"):
        few = error["type"] == "too_short"
        return (
            f"at least {error['ctx']['min_length']} items"
            if few
            else f"at most {error['ctx']['max_length']} items"
        )
    text = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    for long, short in (
        ("greater than or equal to", "at least"),
        ("less than or equal to", "at most"),
        ("greater than", "more than"),
    ):
        text = text.replace(long, short)
    return _WORDS.get(text, text)


def joined(texts: list[tuple[str, str]]) -> str:
    got, needs = texts[0][0], list(dict.fromkeys(need for _, need in texts))
    if not got:
        return needs[0]
    return needs[0] if needs[0].startswith("got ") else f"got {got}, need {' or '.join(needs)}"


def shown(value: Any) -> str:
    """Return a value in at most 60 characters, written as in a recipe."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, str) and value:
        text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
