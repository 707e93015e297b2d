"""Settings of ``folder`` that may read mask values which the current ones reject or misread."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from freqkd_cli.datasets._folder_labels import LabelKeys
from freqkd_cli.datasets._label_orders import choices, mains
from freqkd_cli.datasets._label_seen import Seen
from freqkd_cli.datasets._label_values import as_setting, covers, uncovered
from freqkd_cli.images.label_advice import Advice, Doubt, black_and_white
from freqkd_cli.images.label_noise import noise_of
from freqkd_cli.images.label_rules import HIGHEST, LISTED, LabelRule
from freqkd_cli.images.label_trial import STRAY, Counts, Variant, outcome
from freqkd_cli.views.labels import IGNORE

_VOID_VALUES = frozenset({-1, 250, 254, HIGHEST})
"""Values beside 255 that often mean void."""

_ASCENDING = "the values stand for the classes in ascending order"


@dataclass(frozen=True)
class Fixes:
    """Makes settings for the recipe keys ``keys``; calling it returns those for some values."""

    keys: LabelKeys

    def __call__(self, counts: Counts) -> list[Variant]:
        """Return the settings to try, those that change least first.

        Args:
            counts: stored value -> pixels.
        """
        if self.keys.colored:
            return []
        seen = Seen(self.keys, counts)
        ways = [_second_class, _zero_label, _noisy, _fractions]
        ways += [] if noise_of(counts, len(self.keys.ids)) else [_ignored]
        if not any(_complete(seen, variant) for variant in _ignored(seen)):
            # One number is shorter than a long map.
            many = len(self.keys.ids) > LISTED
            ways += [_stretched, _in_order] if many else [_in_order, _stretched]
        variants = (variant for way in ways for variant in way(seen))
        return [variant for variant in variants if variant is not None]

    def with_entries(self, entries: Mapping[str, str]) -> str:
        """Return ``data.label_map`` with these entries added, as a setting."""
        kept = self.keys.label_map
        if any(key.startswith('"#') for key in entries) and not self.keys.colored:
            kept = {}
        return as_setting({**kept, **entries})


def advice_of(keys: LabelKeys, rule: LabelRule) -> Advice:
    """Return how the masks may be misread.

    Where the recipe defines 255, no doubt about it remains.
    """
    defined = IGNORE in keys.ignore or covers(keys.label_map, IGNORE) or keys.colored
    defined |= keys.threshold is not None or keys.scale is not None or keys.void != IGNORE
    doubts = () if defined or len(keys.ids) < 2 else _doubts(keys)
    fixes = Fixes(keys)
    return Advice(
        doubts=doubts, fixes=fixes, with_entries=fixes.with_entries, classes=len(keys.ids)
    )


def _doubts(keys: LabelKeys) -> tuple[Doubt, ...]:
    if keys.zero_label == "keep":
        return (black_and_white(),)
    what = "contain 255 but never the last class, so 1 may have been subtracted already"
    return (black_and_white(), Doubt(frozenset({len(keys.ids)}), what))


def _second_class(seen: Seen) -> Iterator[Variant | None]:
    """Yield the map of black and white masks, where 255 is the second class."""
    ids = seen.keys.ids
    defined = IGNORE in seen.keys.ignore or seen.keys.void != IGNORE
    if len(ids) < 2 or defined or not black_or_white(seen.free):
        return
    entries = {"0": ids[0], str(IGNORE): ids[1]} if 0 in seen.free else {str(IGNORE): ids[1]}
    strays = [value for value in seen.free if value not in (0, IGNORE)]
    if len(strays) <= LISTED and all(value == int(value) for value in strays):
        rejected = [str(value) for value in strays if value in seen.rejected]
        where = f"255 is {seen.keys.name(1)}{seen.strays(map(int, rejected))}"
        yield seen.mapped(entries | dict.fromkeys(rejected, IGNORE), where)


def black_or_white(counts: Counts) -> bool:
    """Return whether 255 occurs, and nearly no value but 0 beside it."""
    others = sum(pixels for value, pixels in counts.items() if value not in (0, IGNORE))
    return others < STRAY * counts.get(IGNORE, 0)


def _zero_label(seen: Seen) -> Iterator[Variant | None]:
    """Yield the other value of ``zero_label``, with what it rejects as void."""
    keys = seen.keys
    if not keys.consecutive or len(keys.ids) >= IGNORE or keys.threshold is not None:
        return
    other = "keep" if keys.zero_label == "void" else "void"
    where = "0 is the first class"
    if other == "void":
        where = f"0 is void{seen.share(0)} and the classes count from 1"
    ignore = tuple(value for value in keys.ignore if value not in keys.stored(other))
    dropped: dict[str, object] = {"ignore": ignore} if ignore != keys.ignore else {}
    flipped = seen.variant(where, usual=True, zero_label=other, **dropped)
    if flipped is None:
        return
    yield flipped
    more = seen.rejected_by(flipped.rule)
    if 0 < len(more) <= LISTED:
        wider = tuple(sorted({*ignore, *more}))
        yield seen.variant(f"{where}, and {_listed(more)} void", zero_label=other, ignore=wider)


def _ignored(seen: Seen) -> Iterator[Variant | None]:
    """Yield the rejected values as void."""
    rejected = seen.rejected
    if not 0 < len(rejected) <= LISTED:
        return
    total = sum(seen.counts.values())
    frequent = {v for v in rejected if seen.counts[v] >= STRAY * total}
    usual = frequent <= {*_VOID_VALUES, max(seen.keys.stored(seen.keys.zero_label)) + 1}
    wider = tuple(sorted({*seen.keys.ignore, *rejected}))
    one = rejected[0] if len(rejected) == 1 else None
    where = "they mean void" if one is None else f"{one} is void{seen.share(one)}"
    yield seen.variant(where, usual=usual, ignore=wider)


def _complete(seen: Seen, variant: Variant | None) -> bool:
    """Return whether every class has pixels with these settings."""
    return variant is not None and outcome(variant.rule, seen.counts).filled == len(seen.keys.ids)


def _in_order(seen: Seen) -> Iterator[Variant | None]:
    """Yield maps of the values in ascending order, with some of them as void."""
    whole = {int(value): n for value, n in seen.free.items() if value == int(value)}
    if len(whole) != len(seen.free) or len(whole) > len(seen.ids) + LISTED:
        return
    for main, rare in mains(whole, len(seen.ids)):
        strays = [value for value in rare if value in seen.rejected]
        for void, numbers in choices(main, seen.ids, seen.keys.void):
            entries = {str(value): number for value, number in numbers.items()}
            void_entries = dict.fromkeys(map(str, (*void, *strays)), seen.keys.void)
            yield seen.mapped(entries | void_entries, _order(void) + seen.strays(strays))


def _order(void: Sequence[int]) -> str:
    if not void or tuple(void) == (IGNORE,):
        return _ASCENDING
    return f"{_listed(void)} void and the others are the classes in ascending order"


def _noisy(seen: Seen) -> Iterator[Variant | None]:
    """Yield a threshold or ranges, where JPEG or interpolation changed the values."""
    keys = seen.keys
    noise = noise_of(seen.counts, len(keys.ids))
    if noise is None or keys.threshold is not None or keys.scale is not None:
        return
    if len(noise.levels) == len(keys.ids) == 2:
        bound = noise.bounds[0]
        void: dict[str, object] = {"zero_label": "keep"} if keys.zero_label == "void" else {}
        yield seen.variant(f"values from {bound} on are {keys.name(1)}", threshold=bound, **void)
        return
    highest = IGNORE if max(seen.counts) <= IGNORE else HIGHEST
    spans = dict(zip(noise.levels, noise.ranges(highest), strict=True))
    for empty, numbers in choices(noise.levels, keys.ids, keys.void):
        levels = numbers | dict.fromkeys(empty, keys.void)
        entries = {
            part: number
            for level, number in sorted(levels.items())
            for part in uncovered(spans[level], keys.label_map, keys.ignore)
        }
        yield seen.mapped(entries, _order(empty))


def _stretched(seen: Seen) -> Iterator[Variant | None]:
    """Yield steps in which the values may be stored."""
    keys = seen.keys
    if keys.label_map or keys.threshold is not None or keys.scale is not None:
        return
    values = [value for value in seen.free if value > 0]
    whole = [int(value) for value in values if value == int(value)]
    steps = [top / (len(keys.ids) - 1) for top in (IGNORE, HIGHEST) if max(whole, default=0) <= top]
    steps.append(math.gcd(*(value for value in whole if value not in (IGNORE, HIGHEST))))
    if len(whole) < len(values):
        steps = [1 / (len(keys.ids) - 1)]
    for step in dict.fromkeys(float(f"{step:.6g}") for step in steps if step not in (0, 1)):
        if len({round(value / step) for value in values}) >= 2:
            yield seen.variant(f"the classes are stored in steps of {step:g}", scale=step)


def _fractions(seen: Seen) -> Iterator[Variant | None]:
    """Yield the threshold between two classes that are stored as numbers such as 0.93."""
    keys = seen.keys
    parts = any(value != int(value) for value in seen.counts)
    if parts and len(keys.ids) == 2 and not keys.label_map and keys.scale is None:
        middle = float(f"{(min(seen.counts) + max(seen.counts)) / 2:.3g}")
        yield seen.variant(f"numbers from {middle:g} on are {keys.name(1)}", threshold=middle)


def _listed(values: Sequence[int]) -> str:
    return f"{', '.join(map(str, values))} {'is' if len(values) == 1 else 'are'}"
