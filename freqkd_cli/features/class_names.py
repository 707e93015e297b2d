"""Class names of models and data: their comparison, and class maps between equal names."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from freqkd_cli.errors import some

MADE_UP = "LABEL_"
"""What the names of classes without names start with, as in transformers."""


class Classified(Protocol):
    """What has classes: a model, or what is known of one before it is built."""

    @property
    def classes(self) -> int: ...

    @property
    def id2label(self) -> Mapping[int, str] | None: ...


class Classes(NamedTuple):
    """The number of classes, and their names where these are known."""

    classes: int
    id2label: Mapping[int, str] | None


def same_classes(model: Classified, classes: Sequence[str]) -> bool:
    """Return whether a model has these classes in this order.

    Capitals and separators are ignored. A model without class names passes, and any model passes
    where the names of the data are made up.
    """
    names = known_names(model)
    return model.classes == len(classes) and (
        not names
        or all(name.startswith(MADE_UP) for name in classes)
        or [*map(_plain, names)] == [*map(_plain, classes)]
    )


def known_names(model: Classified) -> tuple[str, ...]:
    """Return the class names of a model in order; empty where they are placeholders."""
    known = getattr(model, "id2label", None) or {}
    names = tuple(known[number] for number in sorted(known))
    return (
        () if all(name.upper().startswith(MADE_UP) or name.isdigit() for name in names) else names
    )


def _plain(name: str) -> str:
    # NVIDIA's names for ADE20K contain "bed " with a trailing space.
    return name.strip().lower().replace("_", " ").replace("-", " ")


def class_map_tip(key: str, names: Sequence[str], classes: Sequence[str]) -> str:
    """Return the class map of the names that both have, to be pasted where these are several.

    Args:
        key: path of the map in a recipe.
        names: the teacher's class names.
        classes: those of the data.
    """
    teacher_names = {_plain(name): name for name in names}
    pairs = [(teacher_names[_plain(c)], c) for c in classes if _plain(c) in teacher_names]
    if len(pairs) == 1 and len(names) == len(classes) == 2:  # the other two belong together
        ((known, own),) = pairs
        pairs += [(n, c) for n in names if n != known for c in classes if c != own]
    listed = ", ".join(f"{_quoted(name)}: {_quoted(own)}" for name, own in pairs)
    if len(pairs) > 1 and len({name for name, _ in pairs}) == len(pairs):
        return f"--set '{key}={{{listed}}}'"
    return f"{key}: {{{listed or 'teacher class, by name or number: data class'}, ...}}"


def _quoted(name: str) -> str:
    """Return a name as YAML's flow style reads it back, inside the shell's single quotes."""
    plain = re.fullmatch(r"[A-Za-z_][\w .-]*", name) and name == name.strip()
    words = ("true", "false", "null", "yes", "no", "on", "off", "y", "n")
    if plain and name.lower() not in words:
        return name
    return json.dumps(name, ensure_ascii=False).replace("'", "\\u0027")


def listed_names(names: Sequence[str]) -> str:
    """Return the first names, for a message."""
    return some(names, 6)
