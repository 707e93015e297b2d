"""What a ``config.json`` says of a model, checked field by field. Whoever reads one, reads it here.

What freqkd says (``model``, ``arguments``, ``id2label``, ``mean``, ``std``, ``licence_note``, ``format``) stands at the top of the file, or
under the key ``freqkd`` where another library's description has the top.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freqkd_cli.errors import WeightsMissing
from freqkd_cli.runtime.json_file import read_object

FORMAT = 1


@dataclass(frozen=True)
class Kind:
    """What a field may hold, in words and as a test."""

    need: str
    holds: Callable[[Any], bool]


def whole(low: int, high: int) -> Kind:
    return Kind(
        f"a whole number from {low} to {high}",
        lambda value: type(value) is int and low <= value <= high,
    )


def number(low: float, high: float) -> Kind:
    """Ends included; not a number is outside of every range."""
    return Kind(
        f"a number from {low:g} to {high:g}",
        lambda value: type(value) in (int, float) and low <= value <= high,
    )


def several(count: str, length: int, kind: Kind) -> Kind:
    """A list of so many of a kind; ``count`` is their number in words."""
    need = f"{count} of them, each {kind.need}"
    return Kind(
        need,
        lambda value: (
            isinstance(value, list) and len(value) == length and all(map(kind.holds, value))
        ),
    )


def exactly(wanted: Any) -> Kind:
    return Kind(json.dumps(wanted), lambda value: type(value) is type(wanted) and value == wanted)


def or_null(kind: Kind) -> Kind:
    return Kind(f"{kind.need}, or null", lambda value: value is None or kind.holds(value))


def _numbered(value: Any) -> bool:
    """Whether these are names by number, none left out: the rows of a classifier."""
    if not isinstance(value, dict) or not all(key.isdecimal() and len(key) < 7 for key in value):
        return False
    return {int(key) for key in value} == set(range(len(value))) and all(
        type(name) in (str, int, float) for name in value.values()
    )


TEXT = Kind("a text", lambda value: isinstance(value, str))
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
LABELS = or_null(
    Kind("an object with the name of each class number, 0 and up, none left out", _numbered)
)
MEAN = several("three", 3, number(-1e6, 1e6))
STD = several("three", 3, number(1e-6, 1e6))
_SAID = {
    "model": TEXT,
    "arguments": OBJECT,
    "id2label": LABELS,
    "mean": or_null(MEAN),
    "std": or_null(STD),
    "licence_note": or_null(TEXT),
}


@dataclass(frozen=True)
class Section:
    """What freqkd says of a model. ``model`` is None where it says nothing, ``id2label`` where it names no classes."""

    model: str | None = None
    arguments: Mapping[str, Any] | None = None
    id2label: Mapping[int, str] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    licence_note: str | None = None


@dataclass(frozen=True)
class Config:
    """A ``config.json``: what messages call it, what it holds, and freqkd's section of it, which is checked."""

    path: str
    said: Mapping[str, Any]
    ours: Section

    @property
    def of_segformer(self) -> bool:
        """Whether it is transformers' own, of a SegFormer."""
        return self.said.get("model_type") == "segformer"


def read_config(path: Path, called: str | None = None) -> Config:
    """Read and check a ``config.json``; ``called`` is what messages call the file.

    Raises:
        WeightsMissing: it is absent, no JSON object, of a later format, or a field of freqkd's section is of the wrong kind.
    """
    said, called = read_object(path), called or str(path)
    if "freqkd" in said:
        refuse(called, said, {"freqkd": OBJECT})
        ours = said["freqkd"]
    else:  # others write files of this name too
        ours = said if isinstance(said.get("model"), str) else {}
    found = ours.get("format", FORMAT)
    if found != FORMAT:
        raise WeightsMissing(
            f"{called} has another format", got=found, need=FORMAT, tip="a newer freqkd"
        )
    refuse(called, ours, _SAID)
    three = {side: tuple(map(float, ours[side])) for side in ("mean", "std") if ours.get(side)}
    plain = {key: ours.get(key) for key in ("model", "arguments", "licence_note")}
    return Config(
        called, said, Section(**plain, **three, id2label=names_by_number(ours.get("id2label")))
    )


def names_by_number(said: Mapping[str, Any] | None) -> dict[int, str] | None:
    """Checked class names in the order of their numbers; files of older versions list those as words: 0, 1, 10, 100, 11 ..."""
    return dict(sorted((int(number), str(name)) for number, name in said.items())) if said else None


def refuse(path: str, said: Mapping[str, Any], kinds: Mapping[str, Kind]) -> None:
    """Let fields pass that are absent, or of their kind.

    Raises:
        WeightsMissing: with every field that is not.
    """
    wrong = {
        key: kind.need for key, kind in kinds.items() if key in said and not kind.holds(said[key])
    }
    if wrong:
        raise undescribed(
            path,
            {key: said[key] for key in wrong},
            "; ".join(f"{key}: {need}" for key, need in wrong.items()),
        )


def undescribed(path: str, got: Mapping[str, Any], need: str) -> WeightsMissing:
    """The one message of fields that make no model."""
    told = "; ".join(f"{key} {_short(value)}" for key, value in got.items())
    return WeightsMissing(f"{path} describes no model that can be built", got=told, need=need)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
