"""What is wrong with label values that a rule rejects, in the words of an error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from freqkd_cli.images.label_advice import Advice, color_noise
from freqkd_cli.images.label_noise import noise_of
from freqkd_cli.images.label_rules import INVALID, LISTED, LabelRule
from freqkd_cli.images.label_trial import Counts


@dataclass(frozen=True)
class Refusal:
    """The parts of an error; ``one`` and ``many`` are the verb phrases for one file and several."""

    one: str
    many: str
    got: str
    need: str
    tip: str


def rejected_values(counts: Counts, rule: LabelRule) -> list[float]:
    """Return the values that the rule rejects, ascending."""
    values = sorted(counts)
    ids = rule.ids(np.array(values)) if values else np.empty(0)
    return [value for value, number in zip(values, ids, strict=True) if number == INVALID]


def refusal(counts: Counts, rule: LabelRule, advice: Advice, classes: int) -> Refusal:
    """Return what is wrong with values of which ``rule`` rejects some.

    Args:
        counts: stored value, or color where the rule reads colors, -> pixels.
    """
    rejected = rejected_values(counts, rule)
    if rule.colors is not None:
        return _of_colors({int(v): n for v, n in counts.items()}, rejected, rule, advice)
    tip = advice.for_values(counts, rule)
    if any(value != int(value) for value in rejected):
        low, high = min(counts), max(counts)
        phrase = "numbers that are not whole"
        got, need = f"numbers from {low:g} to {high:g}", "one whole number per pixel"
    elif noise := noise_of(counts, classes):
        phrase, got, need = noise.what, noise.got, rule.need
    else:
        phrase = "label values that belong to no class"
        got, need = rule.format(rejected), rule.need
    return Refusal(f"contains {phrase}", f"contain {phrase}", got, need, tip)


def _of_colors(
    counts: Mapping[int, int], rejected: list[float], rule: LabelRule, advice: Advice
) -> Refusal:
    phrase, tip, noise = "colors that belong to no class", rule.tip, ""
    if len(rejected) > LISTED:
        noise = color_noise(counts)
    if noise:
        tip = "save the masks again as PNG, without interpolation"
    elif advice.with_entries is not None:
        tip = advice.color_map({int(color): counts[int(color)] for color in rejected})
    got = noise or rule.format(rejected)
    return Refusal(f"contains {phrase}", f"contain {phrase}", got, rule.need, tip)
