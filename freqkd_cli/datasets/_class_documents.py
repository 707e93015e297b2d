"""Class lists as JSON or YAML: names, ids with names, or objects with name, id and color."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from freqkd_cli.datasets._class_lines import Color, Row
from freqkd_cli.errors import DataBroken
from freqkd_cli.recipe.nodes import parse
from freqkd_cli.recipe.problems import Place

_NEED = 'a list of names, or {"0": "name", ...}'
_WRAPPERS = ("names", "classes", "class_names", "labels", "categories", "id2label", "label2id")
_NAME_KEYS = ("name", "title", "class", "label", "class_name")
_ID_KEYS = ("id", "index", "value", "class_id", "label_id")
_MOST_DEPTH = 3


def rows_of_json(path: Path, text: str) -> list[Row]:
    """Return the classes of a JSON file.

    Raises:
        DataBroken: it is no list of classes.
    """
    try:
        content = json.loads(text, object_pairs_hook=_unique_keys)
        return _rows(path, content)
    except (ValueError, RecursionError) as error:
        raise DataBroken(
            f"cannot read class names from {path}", got=error, need=_NEED, key="classes"
        ) from error


def rows_of_yaml(path: Path, text: str) -> list[Row]:
    """Return the classes of a YAML file, such as those of ``names`` in YOLO's data.yaml.

    Raises:
        DataBroken: it is no list of classes.
    """
    node, problems = parse(text, lambda line, column: Place(0, line + 1, column + 1, str(path), ""))
    try:
        if node is None or problems:
            raise ValueError("; ".join(f"{p.place} {p.text}" for p in problems[:2]) or "nothing")
        return _rows(path, node.plain())
    except ValueError as error:
        raise DataBroken(
            f"cannot read class names from {path}", got=error, need=_NEED, key="classes"
        ) from error


def _rows(path: Path, content: Any, depth: int = 0) -> list[Row]:
    """
    Raises:
        ValueError: with what was found.
    """
    if isinstance(content, list):
        return [_row(path, entry, None) for entry in content]
    if not isinstance(content, Mapping) or not content:
        raise ValueError(str(content)[:120])
    if all(re.fullmatch(r"-?\d+", str(key)) for key in content):
        return [_row(path, entry, int(key)) for key, entry in content.items()]
    if all(type(value) is int for value in content.values()):
        return [Row(str(path), name, number) for name, number in content.items()]
    key = next((key for key in _WRAPPERS if isinstance(content.get(key), (list, dict))), None)
    if key is None or depth == _MOST_DEPTH:
        raise ValueError(str(content)[:120])
    return _rows(path, content[key], depth + 1)


def _row(path: Path, entry: Any, number: int | None) -> Row:
    if isinstance(entry, str):
        return Row(str(path), entry, number)
    name = None
    if isinstance(entry, Mapping):
        name = next((entry[key] for key in _NAME_KEYS if isinstance(entry.get(key), str)), None)
        given = next((entry[key] for key in _ID_KEYS if type(entry.get(key)) is int), None)
        number = given if number is None else number
    if name is None:
        raise ValueError(str(entry)[:120])
    return Row(str(path), name, number, _color(entry.get("color", entry.get("rgb"))))


def _color(value: Any) -> Color | None:
    if isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        red, green, blue = bytes.fromhex(value[1:])
        return red, green, blue
    if isinstance(value, list) and len(value) >= 3 and all(type(part) is int for part in value):
        return (value[0], value[1], value[2]) if 0 <= min(value) and max(value) < 256 else None
    return None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dict; of equal keys Python would silently keep the last.

    Raises:
        ValueError: a key, or an id in two spellings, occurs twice.
    """
    numbers = [int(key) if re.fullmatch(r"-?\d+", key) else key for key, _ in pairs]
    if len(set(numbers)) < len(numbers):
        raise ValueError("an id occurs twice")
    return dict(pairs)
