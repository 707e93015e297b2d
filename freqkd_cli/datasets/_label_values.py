"""Keys and values that describe labels: ``data.label_map``, ``data.ignore``, ``data.colors``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema

from freqkd_cli.images.label_rules import HIGHEST, LOWEST
from freqkd_cli.views.labels import IGNORE, IGNORE_16_BIT

_VALUE = re.compile(r"-?[0-9]{1,5}")
_RANGE = re.compile(r"([0-9]{1,5})-([0-9]{1,5})")
_COLOR = re.compile(r"#[0-9a-fA-F]{6}")

KEYS = f'a value from {LOWEST} to {HIGHEST}, a range such as "128-255", or a color as "#804080"'


def _checked(key: str) -> str:
    if _COLOR.fullmatch(key):
        return key
    if _RANGE.fullmatch(key) or _VALUE.fullmatch(key):
        first, last = span(key)
        if LOWEST <= first <= last <= HIGHEST:
            return key
    raise ValueError(KEYS)


_PATTERN = f"^({_VALUE.pattern}|{_RANGE.pattern}|{_COLOR.pattern})$"
Stored = Annotated[
    str, AfterValidator(_checked), WithJsonSchema({"type": "string", "pattern": _PATTERN})
]
LabelMap = dict[Stored, Annotated[int, Field(ge=0, le=IGNORE_16_BIT)]]
Ignore = int | list[int]
Color = Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=3, max_length=3)]
Colors = dict[str, Color] | list[Color]


def values_of(ignore: Ignore | None) -> tuple[int, ...]:
    """Return ``data.ignore`` as values; it may be one value or a list."""
    if ignore is None:
        return ()
    return (ignore,) if isinstance(ignore, int) else tuple(ignore)


def is_color(key: str) -> bool:
    return key.startswith("#")


def span(key: str) -> tuple[int, int]:
    """Return the first and the last value of a key that is no color."""
    limits = _RANGE.fullmatch(key)
    return (int(limits[1]), int(limits[2])) if limits else (int(key), int(key))


def covers(label_map: Mapping[str, int], value: float) -> bool:
    """Return whether a key of the map is this value, or a range that contains it."""
    spans = (span(key) for key in label_map if not is_color(key))
    return any(first <= value <= last for first, last in spans)


def uncovered(key: str, label_map: Mapping[str, int], ignore: Iterable[int]) -> list[str]:
    """Return the parts of a range that neither the map nor ``ignore`` defines, as keys."""
    start, end = span(key)
    taken = [span(other) for other in label_map if not is_color(other)]
    parts = []
    for first, last in sorted([*taken, *((value, value) for value in ignore)]):
        if start <= last and first <= end:
            if start < first:
                parts.append(_key(start, first - 1))
            start = last + 1
    return [*parts, _key(start, end)] if start <= end else parts


def _key(first: int, last: int) -> str:
    return f"{first}-{last}" if first < last else str(first)


def as_setting(label_map: Mapping[str, object]) -> str:
    """Return the map as the words of a ``--set``: void last, colors and ranges in quotes."""
    entries = sorted(label_map.items(), key=lambda entry: entry[1] == IGNORE)
    texts = [f"{_quoted(key)}: {number}" for key, number in entries]
    return f"data.label_map={{{', '.join(texts)}}}"


def _quoted(key: str) -> str:
    return key if _VALUE.fullmatch(key) or key.startswith('"') else f'"{key}"'
