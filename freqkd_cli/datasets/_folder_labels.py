"""How ``folder`` reads mask values: its recipe keys as a rule, and advice where they do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from freqkd_cli.datasets._label_values import Ignore, LabelMap, covers, is_color, span, values_of
from freqkd_cli.errors import UsageError, some
from freqkd_cli.images.label_rules import (
    HIGHEST,
    LOWEST,
    LabelRule,
    color_rule,
    label_rule,
    scaled_rule,
    threshold_rule,
)
from freqkd_cli.views.labels import IGNORE, void_label

__all__ = ["Ignore", "LabelKeys", "LabelMap", "rule_of", "values_of"]

_TIP = (
    "map or ignore these values with data.label_map or data.ignore, "
    "or name more classes (classes.json, classes.txt or data.classes)"
)


@dataclass(frozen=True)
class LabelKeys:
    """The recipe keys that define how masks are read.

    Attributes:
        ids: class ids, ascending.
        ignore, zero_label, label_map, threshold, scale: as in the recipe.
        names: names of the ids.
    """

    ids: list[int]
    ignore: tuple[int, ...] = ()
    zero_label: str = "keep"
    label_map: Mapping[str, int] = field(default_factory=dict)
    threshold: float | None = None
    scale: float | None = None
    names: tuple[str, ...] = ()

    @property
    def ignored(self) -> list[int]:
        """Mask values that are void: those of the recipe, and 255 where it is no class."""
        if self.threshold is not None:
            return sorted({*self.ignore})
        if self.scale is not None:
            level = round(IGNORE / self.scale)
            if level in self.stored(self.zero_label) and abs(IGNORE - level * self.scale) <= 0.5:
                return sorted({*self.ignore})
        return sorted({self.void, *self.ignore})

    def arguments(self) -> dict[str, Any]:
        """Return what identifies these keys in a manifest; keys of no effect are left out."""
        optional = {
            "zero_label": self.zero_label if self.zero_label != "keep" else None,
            "label_map": dict(sorted(self.label_map.items())) or None,
            "threshold": self.threshold,
            "scale": self.scale,
        }
        given = {key: value for key, value in optional.items() if value is not None}
        return {"classes": list(self.names), "ids": self.ids, "ignore": self.ignored} | given

    @property
    def void(self) -> int:
        """The label of void pixels, which masks hold as well."""
        return void_label(len(self.ids))

    @property
    def consecutive(self) -> bool:
        """The ids are 0, 1, 2 ..."""
        return self.ids == [*range(len(self.ids))]

    @property
    def colored(self) -> bool:
        """Masks are read as colors."""
        return any(map(is_color, self.label_map))

    def stored(self, zero_label: str) -> list[int]:
        """Return the mask values of the classes."""
        return [number + 1 for number in self.ids] if zero_label == "void" else self.ids

    def name(self, place: int) -> str:
        """Return the name of a class by its place in the list."""
        return self.names[place] if place < len(self.names) else f"class {self.ids[place]}"


def rule_of(keys: LabelKeys) -> LabelRule:
    """Return how masks are read.

    Raises:
        UsageError: the keys contradict each other or the classes.
    """
    _check_together(keys)
    return _with_map(_without_map(keys), keys)


def _check_together(keys: LabelKeys) -> None:
    """
    Raises:
        UsageError: keys that exclude each other.
    """
    given = [key for key in ("threshold", "scale") if getattr(keys, key) is not None]
    if len(given) == 2:
        raise UsageError(
            "data.threshold and data.scale exclude each other", need="one of them", key="scale"
        )
    if given and keys.colored:
        raise UsageError(
            f"data.{given[0]} reads values, and data.label_map lists colors",
            need="one of them",
            key=given[0],
        )
    if keys.threshold is not None and len(keys.ids) != 2:
        raise UsageError(
            "data.threshold reads masks of two classes",
            got=f"{len(keys.ids)} classes",
            need='two classes; for more use ranges, such as data.label_map: {"0-63": 0, ...}',
            key="threshold",
        )
    if keys.threshold is not None and keys.zero_label == "void":
        raise UsageError(
            "data.threshold and data.zero_label: void exclude each other",
            need="zero_label: keep",
            key="threshold",
        )


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
    outside = [value for value in ignored if not LOWEST <= value <= HIGHEST]
    plain = keys.threshold is None and keys.scale is None
    if outside or (plain and {*ignored} & {*stored}):
        raise UsageError(
            "data.ignore contains a class or is out of range",
            got=list(keys.ignore),
            need=f"values from {LOWEST} to {HIGHEST} that are no class "
            f"({some(map(str, stored), 12)})",
            key="ignore",
        )
    if keys.threshold is not None:
        return threshold_rule(keys.threshold, ignored, _TIP)
    if keys.scale is not None:
        return scaled_rule(label_rule(stored, {0} if void else (), _TIP), keys.scale, ignored)
    return label_rule(stored, {*ignored, 0} if void else ignored, _TIP)


def _with_map(rule: LabelRule, keys: LabelKeys) -> LabelRule:
    """Return the rule with ``label_map`` applied on top; colors replace the rule."""
    label_map = keys.label_map
    train_ids = {number: place for place, number in enumerate(keys.ids)} | {keys.void: keys.void}
    _check_map(keys, train_ids)
    if keys.colored:
        colors = {int(key[1:], 16): train_ids[number] for key, number in label_map.items()}
        return color_rule(colors, "add every color of the masks to data.label_map")
    table = rule.table.copy()
    for key, number in label_map.items():
        first, last = span(key)
        table[[*range(first, last + 1)]] = train_ids[number]
    mapped = f", and {_text(label_map)} by data.label_map" if label_map else ""
    return replace(rule, table=table, need=f"{rule.need}{mapped}")


def _check_map(keys: LabelKeys, train_ids: Mapping[int, int]) -> None:
    label_map = keys.label_map
    unknown = {key: number for key, number in label_map.items() if number not in train_ids}
    if unknown:
        raise UsageError(
            "data.label_map uses ids that are no classes",
            got=_text(unknown),
            need=f"one of {some(map(str, keys.ids), 12)}, or {keys.void}",
            key="label_map",
        )
    colors = [key for key in label_map if is_color(key)]
    if colors and len(colors) < len(label_map):
        raise UsageError(
            "data.label_map mixes values and colors",
            got=_text(label_map),
            need="only values, or only colors",
            key="label_map",
        )
    spans = sorted(span(key) for key in label_map if not is_color(key))
    overlap = any(first <= last for (_, last), (first, _) in pairwise(spans))
    if overlap or len({color.lower() for color in colors}) < len(colors):
        raise UsageError(
            "data.label_map lists a value twice",
            got=_text(label_map),
            need="each value once",
            key="label_map",
        )
    twice = [value for value in keys.ignore if covers(label_map, value)]
    if twice:
        raise UsageError(
            "data.label_map lists values that data.ignore drops",
            got=some(map(str, twice), 6),
            need="each value in one of the two keys",
            key="label_map",
        )


def _text(label_map: Mapping[str, int]) -> str:
    return some((f"{key}: {number}" for key, number in label_map.items()), 6)
