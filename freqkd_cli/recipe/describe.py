"""The arguments of a part as text and as a JSON schema, from the signature of its ``build``."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic_core import to_jsonable_python

from freqkd_cli import registry
from freqkd_cli.recipe.sections import DRAWER, INNER, SECTIONS, VERSION
from freqkd_cli.recipe.value_types import Section

_ENTRY = re.compile(r"^(\s*)([A-Za-z_][\w, ]*?)\s*(?:\([^)]*\))?:\s*(.*)$")
_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def arguments(drawer: str, name: str) -> list[dict[str, Any]]:
    """Return the arguments of a part.

    Each has ``name``, ``type``, ``required``, ``default`` (where there is one) and ``about``.
    """
    build = registry.find(drawer, name).build
    hints, about = get_type_hints(build, include_extras=True), descriptions(build)
    rows = []
    for key, parameter in inspect.signature(build).parameters.items():
        if key in registry.FILLED_IN[drawer]:
            continue
        row: dict[str, Any] = {
            "name": registry.key_of(key),
            "type": spelled(hints[key]),
            "required": parameter.default is inspect.Parameter.empty,
        }
        if not row["required"]:
            row["default"] = to_jsonable_python(parameter.default)
        rows.append(row | {"about": about.get(row["name"], "")})
    return rows


def spelled(hint: Any) -> str:
    """Return an annotation in short form: ``low | high``, ``float > 0``, ``[int, int]``."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        bounds = [
            f"{_BOUNDS[key]} {getattr(m, key)}"
            for note in inner[1:]
            for m in _metadata(note)
            for key in _BOUNDS
            if hasattr(m, key)
        ]
        return " ".join([spelled(inner[0]), *bounds])
    if origin is Literal:
        return " | ".join(_word(value) for value in inner)
    if origin in (Union, types.UnionType):
        return " | ".join(spelled(kind) for kind in inner)
    if origin in (tuple, list):
        return f"[{', '.join('...' if kind is Ellipsis else spelled(kind) for kind in inner)}]"
    if origin is not None:
        return (
            f"{getattr(origin, '__name__', origin)}[{', '.join(spelled(kind) for kind in inner)}]"
        )
    return "null" if hint is type(None) else getattr(hint, "__name__", str(hint))


def _word(value: Any) -> str:
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )


def _metadata(note: Any) -> list[Any]:
    return [note, *getattr(note, "metadata", [])]


def descriptions(function: Callable[..., Any]) -> dict[str, str]:
    """Return argument -> its text.

    Texts come from ``Args:`` in the docstring, and from ``Attributes:`` in those of dataclasses
    whose fields are arguments.
    """
    groups = filter(is_dataclass, get_type_hints(inspect.unwrap(function)).values())
    sources = [
        (kind.__doc__, "Attributes:") for group in groups for kind in reversed(group.__mro__)
    ]
    texts: dict[str, str] = {}
    for docstring, heading in (*sources, (function.__doc__, "Args:")):
        texts |= _entries(docstring or "", heading)
    return {registry.key_of(name): text.replace("``", "") for name, text in texts.items()}


def _entries(docstring: str, heading: str) -> dict[str, str]:
    """Return name -> text of the entries below a heading of a docstring."""
    lines = inspect.cleandoc(docstring).splitlines()
    if heading not in lines:
        return {}
    texts: dict[str, str] = {}
    names: list[str] = []
    depth = None
    for line in lines[lines.index(heading) + 1 :]:
        if line and not line[0].isspace():
            break
        entry = _ENTRY.match(line)
        if entry and (depth is None or len(entry[1]) == depth):
            depth, names = len(entry[1]), [name.strip() for name in entry[2].split(",")]
            texts |= dict.fromkeys(names, entry[3].strip())
        elif line.strip():
            texts |= {name: f"{texts[name]} {line.strip()}".strip() for name in names}
    return texts


def schema() -> dict[str, Any]:
    """Return the JSON schema of a recipe, for editors.

    Each section is one of the parts that it may name, with that part's own keys.
    """
    shared: dict[str, Any] = {}
    sections: dict[str, Any] = {"version": {"const": VERSION}}
    for key, model in SECTIONS.items():
        if key in DRAWER:
            items: dict[str, Any] = {
                "oneOf": [
                    _with_part(model, DRAWER[key], name, shared)
                    for name in registry.names(DRAWER[key])
                    if key != "student" or not registry.teacher_only(name)
                ]
            }
        else:
            items = _own(model, shared)
            items["oneOf"] = [{"required": ["epochs"]}, {"required": ["steps"]}]
        if key == "losses":
            items = {"type": "array", "minItems": 1, "items": items}
        sections[key] = items
    for key, model in INNER.items():
        shared[model.__name__] = {"oneOf": _inner(key, model, shared)}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "freqkd recipe",
        "type": "object",
        "properties": sections,
        "required": ["version", "data", "student", "losses", "train"],
        "additionalProperties": False,
        "$defs": shared,
    }


def _own(model: type[Section], shared: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a section's own keys; its definitions go into ``shared``."""
    out = model.model_json_schema()
    shared |= out.pop("$defs", {})
    out["properties"].pop("arguments", None)
    out.pop("title", None)
    for entry in out["properties"].values():
        entry.pop("title", None)
    return out


def _inner(key: str, model: type[Section], shared: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the schemas of a section inside a section: one of each part, and one without."""
    nameless = _own(model, shared)
    del nameless["properties"]["name"]
    parts = registry.names(DRAWER[key])
    return [nameless, *(_with_part(model, DRAWER[key], name, shared) for name in parts)]


def _with_part(
    model: type[Section], drawer: str, name: str, shared: dict[str, Any]
) -> dict[str, Any]:
    """Return the schema of a section that names one part: its own keys and the part's."""
    out, part = _own(model, shared), registry.arguments(drawer, name).model_json_schema()
    about = descriptions(registry.find(drawer, name).build)
    shared |= part.pop("$defs", {})
    for key, entry in part.get("properties", {}).items():
        entry.pop("title", None)
        out["properties"][key] = entry | ({"description": about[key]} if key in about else {})
    out["properties"]["name"] = {
        "const": name,
        "description": registry.first_line(registry.find(drawer, name)),
    }
    out["required"] = sorted({"name", *out.get("required", []), *part.get("required", [])})
    out["title"] = name
    return out
