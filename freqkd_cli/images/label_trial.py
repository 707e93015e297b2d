"""Try settings that read label values on what was seen, before they are suggested."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from freqkd_cli.images.label_rules import INVALID, LabelRule

Counts = Mapping[float, int]
"""Stored value, or color 0xRRGGBB, -> pixels."""

STRAY = 0.02
"""A value is stray beside another if it has less than this share of its pixels."""


@dataclass(frozen=True)
class Variant:
    """Settings of the recipe that read another form of the same labels.

    Attributes:
        settings: recipe keys with their values, such as ``data.labels=32``.
        where: the condition under which they are right.
        rule: how labels are then read.
        usual: a common form, suggested although another one leaves fewer classes without pixels.
    """

    settings: tuple[str, ...]
    where: str
    rule: LabelRule
    usual: bool = False

    @property
    def option(self) -> str:
        """The words to paste, and the condition."""
        return f"{pasted(self.settings)} if {self.where}"


def pasted(settings: Iterable[str]) -> str:
    """Return settings as options of a command line, each in single quotes."""
    return " ".join("--set '" + setting.replace("'", "'\\''") + "'" for setting in settings)


@dataclass(frozen=True)
class Outcome:
    """What a rule makes of the values that were seen.

    Attributes:
        rejected: pixels that the rule rejects.
        void: pixels that become void.
        classes: train id -> pixels, for the classes that have any.
    """

    rejected: int = 0
    void: int = 0
    classes: Mapping[int, int] = field(default_factory=dict)

    @property
    def filled(self) -> int:
        """Number of classes with more pixels than stray values beside void would have."""
        return sum(pixels >= STRAY * self.void for pixels in self.classes.values())


def outcome(rule: LabelRule, counts: Counts) -> Outcome:
    """Return what ``rule`` makes of the values that were seen."""
    values = list(counts)
    ids = rule.ids(np.array(values)).tolist() if values else []
    totals: dict[int, int] = {}
    for value, number in zip(values, ids, strict=True):
        totals[number] = totals.get(number, 0) + counts[value]
    rejected, void = totals.pop(INVALID, 0), totals.pop(rule.void, 0)
    return Outcome(rejected, void, totals)


def accepted(variants: Sequence[Variant], counts: Counts) -> list[Variant]:
    """Return the variants that read all values, the one with the fewest void pixels first.

    A variant is left out if all pixels are void, if another one gives pixels to more classes
    (a usual one needs two), or if one before it reads every value in the same way.
    """
    tried: dict[tuple[int, ...], tuple[Variant, Outcome]] = {}
    values = np.array(list(counts))
    for variant in variants:
        if variant.rule.colors is not None and not set(counts) <= set(variant.rule.colors):
            continue
        result = outcome(variant.rule, counts)
        if not result.rejected and result.filled:
            tried.setdefault(tuple(variant.rule.ids(values).tolist()), (variant, result))
    most = max((result.filled for _, result in tried.values()), default=0)
    kept = [
        (variant, result)
        for variant, result in tried.values()
        if result.filled == most or (variant.usual and result.filled > 1)
    ]
    kept.sort(key=lambda pair: (-pair[1].filled, pair[1].void))
    return [variant for variant, _ in kept]
