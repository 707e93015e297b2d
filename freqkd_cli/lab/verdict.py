"""A verdict in words about a difference and its interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from freqkd_cli.lab.statistics import MOST_SEEDS, Difference, seeds_needed


@dataclass(frozen=True)
class Verdict:
    """The result of a comparison.

    Attributes:
        kind: ``open`` where these seeds show no difference, ``equal`` where every difference is 0,
            ``single`` where there are too few seeds for an interval.
        words: the same in words, as tables print it.
        seeds_needed: seeds that would show a difference of this size; None where that is not asked.
    """

    kind: Literal["baseline", "better", "worse", "open", "equal", "single"]
    words: str
    seeds_needed: int | None = None


BASELINE = Verdict("baseline", "baseline")


def verdict(
    difference: Difference | None, seeds: int, *, deviation: float = 0.0, larger_is_better: bool
) -> Verdict:
    """Return the verdict about a difference to the baseline.

    Args:
        difference: None where there are too few seeds for an interval.
        seeds: pairs of seeds, or the seeds of the smaller row where they are not paired.
        deviation: standard deviation of the difference of one pair.
    """
    if difference is None:
        number = "no seed in common" if not seeds else "one seed"
        return Verdict("single", f"{number}: no interval")
    low, high = difference.interval
    if low > 0 or high < 0:
        return Verdict(*(2 * ("better" if (low > 0) == larger_is_better else "worse",)))
    if low == high:
        return Verdict("equal", "the same score for every seed")
    needed = seeds_needed(difference.mean, deviation)
    more = f"about {needed:,d}" if needed else f"more than {MOST_SEEDS:,d}"
    words = f"no difference that these {seeds} seeds can show; {more} would show one of this size"
    return Verdict("open", words, needed)
