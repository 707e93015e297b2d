"""How stored label values become train ids."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from freqkd_cli.views.labels import IGNORE

INVALID = -1
"""Entry of a label table for values that must not occur."""

LISTED = 12
"""Values or colors that a message lists before it writes ``...``."""


@dataclass(frozen=True)
class LabelRule:
    """How stored label values become train ids.

    Attributes:
        table: int16 ``[256]``, stored value -> train id; 255 for ignore, :data:`INVALID` for
            values that must not occur.
        need: the allowed values, in words.
        tip: what to do about other values where no setting of the recipe reads them.
        colors: where given, masks are read as colors, 0xRRGGBB -> train id, and ``table`` is not
            used. Other colors must not occur.
    """

    table: np.ndarray
    need: str
    tip: str
    colors: Mapping[int, int] | None = None

    def ids(self, stored: np.ndarray) -> np.ndarray:
        """Return train ids, int16 of the same shape; :data:`INVALID` for values not allowed."""
        if self.colors is not None:
            keys = np.array(sorted(self.colors), np.int32)
            ids = np.array([self.colors[key] for key in sorted(self.colors)], np.int16)
            place = np.searchsorted(keys, stored).clip(max=len(keys) - 1)
            return np.where(keys[place] == stored, ids[place], np.int16(INVALID))
        if stored.dtype == np.uint8:
            return self.table[stored]
        inside = stored.clip(0, 255).astype(np.uint8)
        return np.where(inside == stored, self.table[inside], np.int16(INVALID))

    def allows(self, values: Iterable[int]) -> bool:
        """Return whether all these stored values may occur."""
        return not (self.ids(np.array(list(values), np.int32)) == INVALID).any()

    def format(self, values: Collection[int]) -> str:
        """Return stored values as a message lists them."""
        texts = [
            f"#{value:06x}" if self.colors is not None else str(value)
            for value in sorted(values)[:LISTED]
        ]
        return ", ".join(texts) + (" ..." if len(values) > LISTED else "")


def label_rule(ids: Iterable[int], ignore: Iterable[int], tip: str) -> LabelRule:
    """Return the rule by which ``ids`` become 0, 1, 2 ... in this order.

    ``ignore`` becomes 255. Any other value must not occur.
    """
    table = np.full(256, INVALID, dtype=np.int16)
    ids, ignore = list(ids), sorted(set(ignore))
    table[ids] = range(len(ids))
    table[ignore] = IGNORE
    consecutive = bool(ids) and ids == list(range(ids[0], ids[0] + len(ids)))
    run = f"{ids[0]} .. {ids[-1]}" if consecutive else ", ".join(map(str, ids))
    need = f"{run}, or {' or '.join(map(str, ignore))} (ignored)" if ignore else run
    return LabelRule(table, need, tip)


def color_rule(colors: Mapping[int, int], tip: str) -> LabelRule:
    """Return the rule by which colors 0xRRGGBB become the given train ids, or 255.

    Any other color must not occur.
    """
    more = " ..." if len(colors) > LISTED else ""
    listed = ", ".join(f"#{color:06x}" for color in list(colors)[:LISTED]) + more
    return LabelRule(
        np.full(256, INVALID, dtype=np.int16), f"the colors {listed}", tip, dict(colors)
    )
