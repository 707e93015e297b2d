"""How ``folder`` reads mask values: its recipe keys as a rule, and advice where they do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field

from freqkd_cli.errors import UsageError
from freqkd_cli.images.label_advice import Advice, Doubt, Variant, black_and_white
from freqkd_cli.images.label_rules import LabelRule, color_rule, label_rule
from freqkd_cli.images.pairs import some
from freqkd_cli.views.labels import IGNORE

Stored = Annotated[
    str, Field(pattern=r"^([0-9]{1,2}|1[0-9]{2}|2[0-4][0-9]|25[0-5]|#[0-9a-fA-F]{6})$")
]
LabelMap = dict[Stored, Annotated[int, Field(ge=0, le=IGNORE)]]

_TIP = (
    "map or ignore these values with data.label_map or data.ignore, "
    "or name more classes (classes.json, classes.txt or data.classes)"
)
_CONDITION = {"void": "0 is void and the classes count from 1", "keep": "0 is the first class"}


@dataclass(frozen=True)
class LabelKeys:
    """The recipe keys that define how masks are read.

    Attributes:
        ids: class ids, ascending.
        ignore, zero_label, label_map: as in the recipe.
    """

    ids: list[int]
    ignore: tuple[int, ...]
    zero_label: str
    label_map: Mapping[str, int]

    @property
    def ignored(self) -> list[int]:
        """Mask values that are void: 255 and those of the recipe."""
        return sorted({IGNORE, *self.ignore})

    @property
    def consecutive(self) -> bool:
        """The ids are 0, 1, 2 ..."""
        return self.ids == [*range(len(self.ids))]

    def stored(self, zero_label: str) -> list[int]:
        """Return the mask values of the classes."""
        return [number + 1 for number in self.ids] if zero_label == "void" else self.ids


def rule_of(keys: LabelKeys) -> LabelRule:
    """Return how masks are read.

    Raises:
        UsageError: the keys contradict each other or the classes.
    """
    return _with_map(_without_map(keys), keys)


def advice_of(keys: LabelKeys, rule: LabelRule) -> Advice:
    """Return how the masks may be misread.

    Where the recipe defines 255, no doubt about it remains.
    """
    defined = IGNORE in keys.ignore or str(IGNORE) in keys.label_map or rule.colors is not None
    doubts = () if defined or len(keys.ids) < 2 else _doubts(keys)
    return Advice(_variants(keys), tuple(keys.ids), doubts)


def _without_map(keys: LabelKeys) -> LabelRule:
    void = keys.zero_label == "void"
    if void and not keys.consecutive:
        raise UsageError(
            "data.zero_label: void needs class ids that start at 0",
            got=f"the ids {some(map(str, keys.ids))}",
            tip="remove it and use --set 'data.ignore=[0]'",
            key="zero_label",
        )
    stored, ignored = keys.stored(keys.zero_label), keys.ignored
    classes = [value for value in ignored if value in stored]
    if classes or ignored[0] < 0 or ignored[-1] > IGNORE:
        raise UsageError(
            "data.ignore contains a class or is out of range",
            got=list(keys.ignore),
            need=f"values from 0 to 255 that are no class ({some(map(str, stored), 12)})",
            key="ignore",
        )
    return label_rule(stored, {*ignored, 0} if void else ignored, _TIP)


def _with_map(rule: LabelRule, keys: LabelKeys) -> LabelRule:
    """Return the rule with ``label_map`` applied on top; colors replace the rule."""
    label_map = keys.label_map
    train_ids = {number: place for place, number in enumerate(keys.ids)} | {IGNORE: IGNORE}
    _check_map(keys, train_ids)
    if label_map and all(key.startswith("#") for key in label_map):
        colors = {int(key[1:], 16): train_ids[number] for key, number in label_map.items()}
        return color_rule(colors, "add every color of the masks to data.label_map")
    table = rule.table.copy()
    for key, number in label_map.items():
        table[int(key)] = train_ids[number]
    mapped = f", and {_text(label_map)} by data.label_map" if label_map else ""
    return replace(rule, table=table, need=f"{rule.need}{mapped}")


def _check_map(keys: LabelKeys, train_ids: Mapping[int, int]) -> None:
    label_map = keys.label_map
    unknown = {key: number for key, number in label_map.items() if number not in train_ids}
    if unknown:
        raise UsageError(
            "data.label_map uses ids that are no classes",
            got=_text(unknown),
            need=f"one of {some(map(str, keys.ids), 12)}, or 255",
            key="label_map",
        )
    distinct = {key.lower() if key.startswith("#") else int(key) for key in label_map}
    if len(distinct) < len(label_map):
        raise UsageError(
            "data.label_map lists a value twice",
            got=_text(label_map),
            need="each value once",
            key="label_map",
        )
    colors = [key for key in label_map if key.startswith("#")]
    if colors and len(colors) < len(label_map):
        raise UsageError(
            "data.label_map mixes values and colors",
            got=_text(label_map),
            need="only values, or only colors",
            key="label_map",
        )
    twice = {k: number for k, number in label_map.items() if not colors and int(k) in keys.ignore}
    if twice:
        raise UsageError(
            "data.label_map lists values that data.ignore drops",
            got=_text(twice),
            need="each value in one of the two keys",
            key="label_map",
        )


def _text(label_map: Mapping[str, int]) -> str:
    return some((f"{key}: {number}" for key, number in label_map.items()), 6)


def _variants(keys: LabelKeys) -> tuple[Variant, ...]:
    """Return the other value of ``zero_label``, where it is possible."""
    if not keys.consecutive or len(keys.ids) >= IGNORE:
        return ()
    other = "keep" if keys.zero_label == "void" else "void"
    stored = keys.stored(other)
    zero = {0} if other == "void" else set()
    rule = label_rule(stored, {*keys.ignored, *zero} - {*stored}, _TIP)
    return (Variant(f"data.zero_label={other}", _CONDITION[other], rule),)


def _doubts(keys: LabelKeys) -> tuple[Doubt, ...]:
    void = "--set 'data.ignore=[255]' if 255 means void"
    # 0 must be in the map where it is not read as the first class already.
    first = "" if keys.zero_label == "keep" and not keys.ids[0] else f"0: {keys.ids[0]}, "
    label_map = f"data.label_map={{{first}255: {keys.ids[1]}}}"
    two = black_and_white(f"--set '{label_map}' if 255 is the second class, or {void}")
    if keys.zero_label == "keep":
        return (two,)
    what = "contain 255 but never the last class, so 1 may have been subtracted already"
    reduced = Doubt(
        frozenset({len(keys.ids)}),
        what,
        f"--set data.zero_label=keep if 0 is the first class, or {void}",
    )
    return (two, reduced)
