"""How stored label values become train ids."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from freqkd_cli.errors import some
from freqkd_cli.views.labels import IGNORE, void_label

INVALID = -1
"""Entry of a label table for values that must not occur."""

LISTED = 12
"""Values or colors that a message lists before it writes ``...``."""

LOWEST, HIGHEST = -32768, 65535
"""Stored values that a rule can name: all of 8 bits and of 16 bits, signed or not."""

_ROUNDING = 0.5
"""A whole number that stands for a level differs from it by at most this."""

_FRACTION = 0.01
"""A fraction that stands for a level differs from it by at most this share of a step."""


@dataclass(frozen=True)
class Levels:
    """How stored values that are not ids are first turned into levels 0, 1, 2 ...

    Attributes:
        ids: int32, level -> train id.
        threshold: values from here on are level 1, those below are level 0.
        scale: the value of level 1, where level k is stored as k times this.
    """

    ids: np.ndarray
    threshold: float | None = None
    scale: float | None = None

    def train_ids(self, values: np.ndarray) -> np.ndarray:
        """Return train ids of float values; :data:`INVALID` where a value is no level."""
        if self.threshold is not None:
            levels = (values >= self.threshold).astype(np.int64)
            known = np.isfinite(values) & ((values >= 0) | (self.threshold <= 0))
        else:
            assert self.scale is not None
            levels = np.rint(values / self.scale)
            tolerance = _ROUNDING if self.scale >= 2 else _FRACTION * self.scale
            known = (np.abs(values - levels * self.scale) <= tolerance) & (levels >= 0)
            known &= levels < len(self.ids)
        return np.where(known, self.ids[np.where(known, levels, 0).astype(int)], np.int32(INVALID))


@dataclass(frozen=True)
class LabelRule:
    """How stored label values become train ids.

    Attributes:
        table: int32, stored value -> train id; the label of void pixels for ignore,
            :data:`INVALID` for values that must not occur. Entries of negative values are at the
            end, where Python counts them.
        need: the allowed values, in words.
        tip: what to do about other values where no setting of the recipe reads them.
        colors: where given, masks are read as colors, 0xRRGGBB -> train id, and ``table`` is not
            used. Other colors must not occur.
        levels: how fractions are read; None where they must not occur.
        void: the train id of void pixels.
    """

    table: np.ndarray
    need: str
    tip: str
    colors: Mapping[int, int] | None = None
    levels: Levels | None = None
    void: int = IGNORE

    @property
    def white(self) -> int:
        """What 1 means in a mask of 1 bit: 255 beside a threshold above 1."""
        threshold = self.levels.threshold if self.levels else None
        return 255 if threshold is not None and threshold > 1 else 1

    def ids(self, stored: np.ndarray) -> np.ndarray:
        """Return train ids, int32 of the same shape; :data:`INVALID` for values not allowed."""
        if self.colors is not None:
            keys = np.array(sorted(self.colors), np.int32)
            ids = np.array([self.colors[key] for key in sorted(self.colors)], np.int32)
            place = np.searchsorted(keys, stored).clip(max=len(keys) - 1)
            return np.where(keys[place] == stored, ids[place], np.int32(INVALID))
        if stored.dtype in (np.uint8, np.uint16):
            return self.table[stored]
        whole = np.nan_to_num(stored).clip(LOWEST, HIGHEST).astype(np.int32)
        ids = np.where(whole == stored, self.table[whole], np.int32(INVALID))
        if self.levels is not None and stored.dtype.kind == "f":
            return np.where(whole == stored, ids, self.levels.train_ids(stored))
        return ids

    def allows(self, values: Iterable[float]) -> bool:
        """Return whether all these stored values may occur."""
        return not (self.ids(np.array(list(values))) == INVALID).any()

    def format(self, values: Collection[float]) -> str:
        """Return stored values as a message lists them."""
        if self.colors is not None:
            return some((f"#{int(value):06x}" for value in sorted(values)), LISTED)
        return some((f"{value:g}" for value in sorted(values)), LISTED)


def empty_table() -> np.ndarray:
    """Return a table of a rule in which no value may occur."""
    return np.full(HIGHEST + 1 - LOWEST, INVALID, dtype=np.int32)


def label_rule(ids: Iterable[int], ignore: Iterable[int], tip: str) -> LabelRule:
    """Return the rule by which ``ids`` become 0, 1, 2 ... in this order.

    ``ignore`` becomes the label of void pixels. Any other value must not occur.
    """
    table = empty_table()
    ids, ignore = list(ids), sorted(set(ignore))
    table[ids] = range(len(ids))
    void = void_label(len(ids))
    table[ignore] = void
    consecutive = bool(ids) and ids == list(range(ids[0], ids[0] + len(ids)))
    run = f"{ids[0]} .. {ids[-1]}" if consecutive else ", ".join(map(str, ids))
    need = f"{run}, or {' or '.join(map(str, ignore))} (ignored)" if ignore else run
    return LabelRule(table, need, tip, void=void)


def threshold_rule(threshold: float, ignore: Collection[int], tip: str) -> LabelRule:
    """Return the rule by which values from ``threshold`` on become 1, and those below 0."""
    levels = Levels(np.array([0, 1], np.int32), threshold=threshold)
    need = f"numbers from 0 on; {threshold:g} and more is the second class"
    return _of_levels(levels, ignore, need, tip)


def scaled_rule(rule: LabelRule, scale: float, ignore: Collection[int]) -> LabelRule:
    """Return the rule by which ``k * scale`` is read as ``rule`` reads ``k``."""
    levels = Levels(rule.table[: HIGHEST + 1].copy(), scale=scale)
    need = f"multiples of {scale:g}, where the multiples are {rule.need}"
    return _of_levels(levels, ignore, need, rule.tip, rule.void)


def _of_levels(
    levels: Levels, ignore: Collection[int], need: str, tip: str, void: int = IGNORE
) -> LabelRule:
    values = np.arange(LOWEST, HIGHEST + 1)
    table = empty_table()
    table[values] = levels.train_ids(values.astype(np.float64))
    table[list(ignore)] = void
    ignored = f", or {' or '.join(map(str, sorted(ignore)))} (ignored)" if ignore else ""
    return LabelRule(table, need + ignored, tip, levels=levels, void=void)


def color_rule(colors: Mapping[int, int], tip: str) -> LabelRule:
    """Return the rule by which colors 0xRRGGBB become the given train ids, or 255.

    Any other color must not occur.
    """
    listed = some((f"#{color:06x}" for color in colors), LISTED)
    return LabelRule(empty_table(), f"the colors {listed}", tip, dict(colors))
