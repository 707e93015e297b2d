"""Which setting of the recipe reads label values that the current one rejects or misreads."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from freqkd_cli.images.label_rules import LISTED, LabelRule
from freqkd_cli.views.labels import IGNORE

_PHOTOGRAPH = 256
"""An image with more colors than this is no label image."""

BLACK_AND_WHITE = frozenset({0, IGNORE})
"""The values of two-class masks that were saved as black and white images."""


@dataclass(frozen=True)
class Variant:
    """Another form of the same data set.

    Attributes:
        setting: the recipe key and value that read this form.
        where: the condition under which it is right.
        rule: how it is read.
    """

    setting: str
    where: str
    rule: LabelRule

    @property
    def option(self) -> str:
        return f"--set {self.setting} if {self.where}"


@dataclass(frozen=True)
class Doubt:
    """A reason to doubt that 255 means void.

    It applies where a whole split holds none of the values that would prove it.

    Attributes:
        proof: stored values of which at least one occurs where 255 does mean void.
        what: what is wrong when none does.
        tip: how to fix it.
    """

    proof: frozenset[int]
    what: str
    tip: str


def black_and_white(tip: str) -> Doubt:
    """Return the doubt of black and white masks: 255 is the second class, not void."""
    return Doubt(frozenset(range(1, IGNORE)), "contain only the values 0 and 255", tip)


def two_classes(published: str) -> Doubt:
    """Return :func:`black_and_white` for a data set of fixed classes.

    Black and white masks can only be a reduced copy of its labels.
    """
    folder = "data.name: folder with data.classes: [OTHER, THING] and data.label_map: {255: 1}"
    return black_and_white(f"use {published}; for two classes use {folder}")


@dataclass(frozen=True)
class Advice:
    """How the labels of a data set may be misread, and the settings that read them.

    Attributes:
        variants: other forms of the same data.
        ids: the ids that ``data.label_map`` may use; empty where the data set has no such key.
        doubts: reasons to doubt that 255 is void, the first that applies is reported; none where
            the recipe defines 255.
        ground: the class that fills the lower quarter of the images, if there is one.
    """

    variants: tuple[Variant, ...] = ()
    ids: tuple[int, ...] = ()
    doubts: tuple[Doubt, ...] = ()
    ground: int | None = None

    def for_values(self, values: Collection[int], rule: LabelRule) -> str:
        """Return what to do where masks hold ``values`` and the rule rejects some of them."""
        options = [
            variant.option
            for variant in self.variants
            if variant.rule.colors is None and variant.rule.allows(values)
        ]
        table = _ascending(values, self.ids)
        if table:
            condition = "if the values stand for the classes in ascending order"
            options.append(f"--set 'data.label_map={_yaml(table)}' {condition}")
        elif self.ids and not options:
            rejected = [value for value in sorted(values) if not rule.allows([value])]
            if 0 < len(rejected) <= LISTED and 0 <= rejected[0] and rejected[-1] <= IGNORE:
                options.append(f"--set 'data.ignore={rejected}' if they mean void")
        return ", or ".join(options) or rule.tip

    def for_colors(self, counts: Mapping[int, int]) -> str:
        """Return what to do where a mask holds colors but grey values or indices are read.

        ``counts``: 0xRRGGBB -> pixels.
        """
        options = [
            variant.option
            for variant in self.variants
            if variant.rule.colors is not None and set(counts) <= set(variant.rule.colors)
        ]
        if self.ids and not options and len(counts) <= _PHOTOGRAPH:
            options.append(self._color_map(counts))
        return ", or ".join(options) or (
            "save the masks again with one grey value or palette index per pixel"
        )

    def _color_map(self, counts: Mapping[int, int]) -> str:
        greys = {color & 255 for color in counts}
        if all(color == 0x010101 * (color & 255) for color in counts):
            table = self._grey_map(greys)
            if table:
                named = {f'"#{0x010101 * grey:06x}"': number for grey, number in table.items()}
                condition = "if the greys stand for the classes in ascending order"
                return f"--set 'data.label_map={_yaml(named)}' {condition}"
        frequent = sorted(counts, key=lambda color: -counts[color])
        named = {f'"#{color:06x}"': "ID" for color in frequent[:LISTED]}
        rest = len(frequent) - LISTED
        more = f" (add the other {rest} colors)" if rest > 0 else ""
        return (
            f"--set 'data.label_map={_yaml(named)}'{more}; "
            "replace ID by the class id of the color, or by 255 for void"
        )

    def _grey_map(self, greys: Collection[int]) -> dict[int, int]:
        """Return grey -> id where the greys are ids already, or as many as there are ids."""
        # Black and white is two classes, not one class beside void.
        two = {min(self.ids), IGNORE}
        if greys <= {*self.ids, IGNORE} and greys != two:
            return {grey: grey for grey in sorted(greys)}
        return _ascending(greys, self.ids, whole=True)


NO_ADVICE = Advice()


def _yaml(table: Mapping[object, object]) -> str:
    return "{" + ", ".join(f"{key}: {value}" for key, value in table.items()) + "}"


def _ascending(values: Collection[int], ids: Sequence[int], whole: bool = False) -> dict[int, int]:
    """Return values -> ids in ascending order where both are equally many, with or without 255.

    Values that keep their number are left out unless ``whole``.
    """
    for ordered in (sorted(values), sorted({*values} - {IGNORE})):
        if len(ordered) == len(ids) > 0 and 0 <= ordered[0] and ordered[-1] <= IGNORE:
            table = dict(zip(ordered, sorted(ids), strict=True))
            if whole and IGNORE in values:
                table.setdefault(IGNORE, IGNORE)
            return {value: number for value, number in table.items() if whole or value != number}
    return {}
