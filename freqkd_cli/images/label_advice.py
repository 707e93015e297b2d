"""Which setting of the recipe reads label values that the current one rejects or misreads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from freqkd_cli.images.label_rules import LISTED, LabelRule
from freqkd_cli.images.label_trial import STRAY, Counts, Variant, accepted, pasted
from freqkd_cli.images.stored_labels import NEED
from freqkd_cli.views.labels import IGNORE

__all__ = ["Advice", "Counts", "Doubt", "NO_ADVICE", "Variant", "black_and_white", "two_classes"]

_PHOTOGRAPH = 256
"""An image with more colors than this is no label image."""

_MANY = 64
"""A clean label image has at most this many colors."""

_EXACT, _NEAR, _COARSE = 0.4, 0.85, 0xE0E0E0
"""Shares of the pixels that the most frequent colors of a noisy label image have, exactly and
without their lowest five bits."""


@dataclass(frozen=True)
class Doubt:
    """A reason to doubt that 255 means void.

    It applies where a whole split holds too little of the values that would prove it.

    Attributes:
        proof: stored values that occur where 255 does mean void.
        what: what is wrong when they do not.
        tip: how to fix it; None where the settings that read the values are the tip.
        share: pixels of ``proof`` beside those of 255 that count as none, as a share.
    """

    proof: frozenset[int]
    what: str
    tip: str | None = None
    share: float = 0.0


def black_and_white(tip: str | None = None) -> Doubt:
    """Return the doubt of black and white masks: 255 is the second class, not void."""
    return Doubt(frozenset(range(1, IGNORE)), "contain only the values 0 and 255", tip, STRAY)


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
        doubts: reasons to doubt that 255 is void, the first that applies is reported; none where
            the recipe defines 255.
        ground: the class that fills the lower quarter of the images, if there is one.
        fixes: for data sets whose recipe says what values mean: returns the settings that may
            read values, from their pixels.
        with_entries: returns ``data.label_map`` with these entries added, as a setting.
        classes: number of classes.
    """

    variants: tuple[Variant, ...] = ()
    doubts: tuple[Doubt, ...] = ()
    ground: int | None = None
    fixes: Callable[[Counts], Sequence[Variant]] | None = None
    with_entries: Callable[[Mapping[str, str]], str] | None = None
    classes: int = 0

    def for_values(self, counts: Counts, rule: LabelRule) -> str:
        """Return what to do where masks hold these values and the rule misreads some of them."""
        candidates = [variant for variant in self.variants if variant.rule.colors is None]
        candidates += self.fixes(counts) if self.fixes else ()
        options = [variant.option for variant in accepted(candidates, counts)]
        rejected = [value for value in sorted(counts) if not rule.allows([value])]
        if self.with_entries is not None and not options and 0 < len(rejected) <= LISTED:
            options.append(self.template({f"{value:g}": "ID" for value in rejected}, "value"))
        return ", or ".join(options) or rule.tip

    def for_colors(self, counts: Mapping[int, int]) -> str:
        """Return what to do where a mask holds colors but grey values or indices are read.

        ``counts``: 0xRRGGBB -> pixels.
        """
        candidates = [variant for variant in self.variants if variant.rule.colors is not None]
        options = [variant.option for variant in accepted(candidates, counts)]
        noise = color_noise(counts)
        if options or noise or self.with_entries is None or len(counts) > _PHOTOGRAPH:
            again = "as PNG, without interpolation" if noise else f"with {NEED}"
            return ", or ".join(options) or f"save the masks again {again}"
        return self.color_map(counts)

    def color_map(self, counts: Mapping[int, int]) -> str:
        """Return ``data.label_map`` with these colors added, as a tip with places to fill in."""
        frequent = sorted(counts, key=lambda color: (-counts[color], color))
        ids = _channel_ids(counts, self.classes)
        named = {f'"#{color:06x}"': str(ids.get(color, "ID")) for color in frequent[:LISTED]}
        more = len(frequent) - len(named)
        tip = self.template(named, "color")
        return f"{tip} (add the other {more} colors)" if more else tip

    def template(self, entries: Mapping[str, str], kind: str) -> str:
        """Return ``data.label_map`` with entries in which ``ID`` is to be replaced."""
        assert self.with_entries is not None
        tip = pasted([self.with_entries(entries)])
        if "ID" not in entries.values():
            return tip
        return f"{tip}; replace ID by the class id of the {kind}, or by 255 for void"


NO_ADVICE = Advice()


def _channel_ids(counts: Mapping[int, int], classes: int) -> dict[int, int]:
    """Return color -> id where one channel holds ids, or 255, and the others are 0."""
    for shift in (16, 8, 0):
        ids = {color: color >> shift for color in counts}
        if all(number << shift == color for color, number in ids.items()):
            if {*ids.values()} <= {*range(classes), IGNORE} and len(ids) > 1:
                return ids
    return {}


def color_noise(counts: Mapping[int, int]) -> str:
    """Return what colors show that JPEG or interpolation changed; empty where they were not."""
    total = sum(counts.values())
    bins: Counter[int] = Counter()
    for color, pixels in counts.items():
        bins[color & _COARSE] += pixels
    exact = sum(sorted(counts.values(), reverse=True)[:LISTED])
    near = sum(pixels for _, pixels in bins.most_common(LISTED))
    if len(counts) <= _MANY or exact < _EXACT * total or near < _NEAR * total:
        return ""
    return (
        f"{len(counts):,} colors, most of them close to a few: "
        "saved as JPEG or resized with interpolation"
    )
