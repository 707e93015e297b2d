"""How stored label values become train ids, and which setting of the recipe would read values that this one does not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from freqkd_cli.views.labels import IGNORE

INVALID = -1
"""Entry of a label table for values that must not occur."""

LISTED = 12
"""Values or colours that a message names before it says ``...``."""

_PHOTOGRAPH = 256
"""More colours than that are no label image."""


@dataclass(frozen=True)
class LabelRule:
    """How stored label values become train ids.

    Attributes:
        table: int16 ``[256]``, stored value -> train id, 255 for ignore, :data:`INVALID` for values that must not occur.
        need: the allowed values, in words.
        tip: what to try when others turn up and no setting of the recipe would read them.
        colours: where given, masks are read as colours, 0xRRGGBB -> train id, and ``table`` is not used; other colours must not occur.
    """

    table: np.ndarray
    need: str
    tip: str
    colours: Mapping[int, int] | None = None

    def stored(self, picture: Image.Image) -> np.ndarray:
        """What a mask holds: grey values or palette indices as they are, never expanded to colours; 0xRRGGBB where colours are read.

        An array that is not ``[H, W]`` integers is no mask by this rule.
        """
        if self.colours is not None:
            return packed(picture)
        return stored_values(picture)

    def ids(self, stored: np.ndarray) -> np.ndarray:
        """Train ids, int16 of the same shape; :data:`INVALID` where a value must not occur."""
        if self.colours is not None:
            keys = np.array(sorted(self.colours), np.int32)
            found = np.array([self.colours[key] for key in sorted(self.colours)], np.int16)
            place = np.searchsorted(keys, stored).clip(max=len(keys) - 1)
            return np.where(keys[place] == stored, found[place], np.int16(INVALID))
        if stored.dtype == np.uint8:
            return self.table[stored]
        inside = stored.clip(0, 255).astype(np.uint8)
        return np.where(inside == stored, self.table[inside], np.int16(INVALID))

    def takes(self, values: Iterable[int]) -> bool:
        """Whether all these stored values may occur."""
        return not (self.ids(np.array(list(values), np.int32)) == INVALID).any()

    def spelled(self, values: Collection[int]) -> str:
        """Stored values as a message lists them."""
        texts = [
            f"#{value:06x}" if self.colours is not None else str(value)
            for value in sorted(values)[:LISTED]
        ]
        return ", ".join(texts) + (" ..." if len(values) > LISTED else "")


@dataclass(frozen=True)
class Variant:
    """Another form in which the same data set is found: what the recipe says for it, when that is right, and how it is read."""

    setting: str
    where: str
    rule: LabelRule


@dataclass(frozen=True)
class Doubt:
    """What it means when 255 is read as void and a whole split holds none of the values that would prove it.

    Attributes:
        proof: stored values of which at least one occurs where 255 is void indeed.
        what: what is wrong when none does.
        tip: what mends it.
    """

    proof: frozenset[int]
    what: str
    tip: str


BLACK_AND_WHITE = frozenset({0, IGNORE})
"""All that masks of two classes hold when they were written as pictures."""


def black_and_white(tip: str) -> Doubt:
    """The doubt of masks that are black and white: 255 is the second class and would be read as void."""
    return Doubt(frozenset(range(1, IGNORE)), "hold 0 and 255 and nothing else", tip)


def two_classes(published: str) -> Doubt:
    """:func:`black_and_white` for a data set of fixed classes, of which black and white masks can only be a reduced copy."""
    other = "data.name: folder with data.classes: [OTHER, THING] and data.label_map: {255: 1}"
    return black_and_white(f"{published}; or, where two classes are meant, {other}")


@dataclass(frozen=True)
class Advice:
    """What a data set knows of the ways in which its labels are taken for something else.

    Attributes:
        variants: other forms of the same data.
        ids: the ids that ``data.label_map`` may name; empty where the data set takes no such key.
        doubts: of 255 as void, the first that applies is told; none where the recipe says what 255 is.
        ground: the class that fills the lower quarter of the pictures, where the data set has one.
    """

    variants: tuple[Variant, ...] = ()
    ids: tuple[int, ...] = ()
    doubts: tuple[Doubt, ...] = ()
    ground: int | None = None

    def for_values(self, seen: Collection[int], rule: LabelRule) -> str:
        """What to try where masks hold the values ``seen`` and the rule takes some of them only."""
        ways = [
            f"--set {v.setting} where {v.where}"
            for v in self.variants
            if v.rule.colours is None and v.rule.takes(seen)
        ]
        table = _ascending(seen, self.ids)
        if table:
            ways.append(
                f"--set 'data.label_map={_flow(table)}' where the values stand for the classes in ascending order"
            )
        elif self.ids and not ways:
            odd = [value for value in sorted(seen) if not rule.takes([value])]
            if odd and len(odd) <= LISTED and 0 <= odd[0] and odd[-1] <= IGNORE:
                ways.append(f"--set 'data.ignore={odd}' where they are void")
        return "; or ".join(ways) or rule.tip

    def for_colours(self, found: Mapping[int, int]) -> str:
        """What to try where a mask holds colours (0xRRGGBB -> pixels) and grey values or indices are read."""
        ways = [
            f"--set {v.setting} where {v.where}"
            for v in self.variants
            if v.rule.colours is not None and set(found) <= set(v.rule.colours)
        ]
        if self.ids and not ways and len(found) <= _PHOTOGRAPH:
            ways.append(self._colour_map(found))
        return (
            "; or ".join(ways)
            or "write the masks again with one grey value or palette index per pixel"
        )

    def _colour_map(self, found: Mapping[int, int]) -> str:
        greys = {colour & 255 for colour in found}
        if all(colour == 0x010101 * (colour & 255) for colour in found):
            same = greys <= {*self.ids, IGNORE} and greys != {
                min(self.ids),
                IGNORE,
            }  # black and white is no class beside void
            table = (
                {grey: grey for grey in sorted(greys)}
                if same
                else _ascending(greys, self.ids, whole=True)
            )
            if table:
                named = {f'"#{0x010101 * grey:06x}"': number for grey, number in table.items()}
                return f"--set 'data.label_map={_flow(named)}' where the greys stand for the classes in ascending order"
        often = sorted(found, key=lambda colour: -found[colour])
        named = {f'"#{colour:06x}"': "ID" for colour in often[:LISTED]}
        more = f", and the {len(often) - LISTED} colours left" if len(often) > LISTED else ""
        return f"--set 'data.label_map={_flow(named)}'{more}, with the id of each colour's class for ID, 255 for void"


NO_ADVICE = Advice()


def _flow(table: Mapping[object, object]) -> str:
    return "{" + ", ".join(f"{key}: {value}" for key, value in table.items()) + "}"


def _ascending(seen: Collection[int], ids: Sequence[int], whole: bool = False) -> dict[int, int]:
    """Values -> ids in ascending order, where there are as many of them, 255 counted or not; those that stay are left out."""
    for values in (sorted(seen), sorted({*seen} - {IGNORE})):
        if len(values) == len(ids) > 0 and 0 <= values[0] and values[-1] <= IGNORE:
            table = dict(zip(values, sorted(ids), strict=True))
            if whole and IGNORE in seen:
                table.setdefault(IGNORE, IGNORE)
            return {value: number for value, number in table.items() if whole or value != number}
    return {}


def label_rule(ids: Iterable[int], ignore: Iterable[int], tip: str) -> LabelRule:
    """Stored ``ids`` become 0, 1, 2 ... in the order given, ``ignore`` becomes 255; anything else must not occur."""
    table = np.full(256, INVALID, dtype=np.int16)
    ids, ignore = list(ids), sorted(set(ignore))
    table[ids] = range(len(ids))
    table[ignore] = IGNORE
    run = (
        f"{ids[0]} .. {ids[-1]}"
        if ids and ids == list(range(ids[0], ids[0] + len(ids)))
        else ", ".join(map(str, ids))
    )
    return LabelRule(
        table, f"{run}, or {' or '.join(map(str, ignore))} to ignore" if ignore else run, tip
    )


def colour_rule(colours: Mapping[int, int], tip: str) -> LabelRule:
    """Colours 0xRRGGBB become the train ids given, or 255; any other colour must not occur."""
    listed = ", ".join(f"#{colour:06x}" for colour in list(colours)[:LISTED]) + (
        " ..." if len(colours) > LISTED else ""
    )
    return LabelRule(
        np.full(256, INVALID, dtype=np.int16), f"the colours {listed}", tip, dict(colours)
    )


def stored_values(picture: Image.Image) -> np.ndarray:
    """Grey values or palette indices as stored, never expanded to colours; an array of another rank for anything else."""
    values = np.array(picture)
    return values.astype(np.uint8) if values.dtype == bool else values


def packed(picture: Image.Image) -> np.ndarray:
    """``[H, W]`` int32 0xRRGGBB; palettes are looked up, transparency is dropped."""
    red, green, blue = np.moveaxis(np.array(picture.convert("RGB"), np.int32), -1, 0)
    return red << 16 | green << 8 | blue


def pack(colour: Sequence[int]) -> int:
    """(red, green, blue) as 0xRRGGBB."""
    red, green, blue = (int(part) for part in colour)
    return red << 16 | green << 8 | blue
