"""Class names of ``folder``: from the recipe, ``classes.json`` or ``classes.txt``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from freqkd_cli.errors import DataBroken
from freqkd_cli.views.labels import IGNORE

NAMES_NEED = "classes.json or classes.txt in the root folder, or data.classes in the recipe"


def class_names(root: Path, classes: Sequence[str] | None) -> dict[int, str]:
    """Return mask value -> class name; ``classes`` of the recipe come before the files.

    Raises:
        DataBroken: a file with other content, a name twice, or an id outside 0 .. 254.
    """
    if classes is not None:
        return _checked("data.classes", dict(enumerate(classes)))
    if (path := root / "classes.json").is_file():
        return _checked(str(path), _from_json(path))
    if (path := root / "classes.txt").is_file():
        lines = [line.strip() for line in _text(path).splitlines() if line.strip()]
        return _checked(str(path), dict(enumerate(lines)))
    return {}


def _checked(source: str, names: dict[int, str]) -> dict[int, str]:
    empty = any(not name.strip() for name in names.values())
    twice = len(set(names.values())) != len(names)
    if empty or twice or any(not 0 <= number < IGNORE for number in names):
        raise DataBroken(
            f"{source} is not a list of class names",
            got=str(names)[:120],
            need="each name once and not empty, ids from 0 to 254",
            key="classes",
        )
    return names


def _from_json(path: Path) -> dict[int, str]:
    need = 'a list of names, or {"0": "name", ...}'
    try:
        content: Any = json.loads(_text(path), object_pairs_hook=_unique_ids)
        if isinstance(content, list):
            names = dict(enumerate(content))
        else:
            names = {int(number): name for number, name in content.items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise DataBroken(f"cannot read class names from {path}", got=error, need=need) from error
    if not all(isinstance(name, str) for name in names.values()):
        raise DataBroken(f"cannot read class names from {path}", got=str(content)[:120], need=need)
    return names


def _unique_ids(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dict; of equal keys Python would silently keep the last."""
    numbers = [int(number) for number, _ in pairs]
    if len(set(numbers)) < len(numbers):
        raise ValueError("an id occurs twice")
    return dict(pairs)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataBroken(f"cannot read {path}", got=error, need="text in UTF-8") from error
