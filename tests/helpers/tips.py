"""Read the messages of commands as a user does: what to paste, which key to set, what is shown."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

COLOR_MAP = "data.label_map of colors"
"""Key of the answer for a ``data.label_map`` whose keys are colors."""
_SET = re.compile(r"--set\s+('[^']*'|\"[^\"]*\"|[^\s,;]+)")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_EXPRESSION = re.compile(r"\(\?|\[0-9\][*+{]|\[0-9a-f|\\d|\\w|\^\(")


def alternatives(text: str) -> list[tuple[str, ...]]:
    """Return the changes of the recipe in a tip: groups of ``--set`` values side by side.

    Groups are separated by words or commas: these are alternatives.
    A tip to use the images without labels is left out.
    """
    groups: list[list[str]] = []
    end = -1
    for match in _SET.finditer(text):
        word = match.group(1)
        value = word[1:-1] if word[0] in "'\"" else word
        if end >= 0 and not text[end : match.start()].strip():
            groups[-1].append(value)
        else:
            groups.append([value])
        end = match.end()
    return [tuple(group) for group in groups if group != ["data.mask=none"]]


def filled(group: tuple[str, ...], answers: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return a group whose placeholders were replaced by what the user knows.

    None where it has a placeholder and no answer for it.
    """
    result = []
    for text in group:
        key, _, value = text.partition("=")
        if re.search(r"\bID\b|\bNAME\b|\.\.\.|…|<[^>]*>", value):
            known = answers.get(COLOR_MAP if key == "data.label_map" and '"#' in value else key)
            if known is None:
                return None
            text = f"{key}={known}"
        result.append(text)
    return tuple(result)


def named_keys(text: str, answers: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Return settings of the keys that a message names and that a user can answer."""
    return [(f"{key}={answers[key]}",) for key in answers if key in text]


def faults(text: str) -> str | None:
    """Return what must not be in any message, or None."""
    if "Traceback (most recent call last)" in text:
        return "a traceback"
    control = _CONTROL.search(text)
    if control:
        return f"the control character {control.group()!r}"
    expression = _EXPRESSION.search(text)
    return f"a regular expression: {expression.group()}" if expression else None


def document(out: str) -> dict[str, Any]:
    """Return the JSON document of a command; empty where it printed none."""
    try:
        content = json.loads(out)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def findings(content: Mapping[str, Any], level: str) -> list[str]:
    """Return the texts of the findings of ``data --json``, each with its tip."""
    rows = [row for split in content.get("splits", ()) for row in split["findings"]]
    fields = ("what", "got", "need", "tip")
    texts = [
        "\n".join(str(row[field]) for field in fields if row.get(field))
        for row in rows
        if row["level"] == level
    ]
    return list(dict.fromkeys(texts))
