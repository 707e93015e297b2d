"""Intervals of mean differences, p-values and numbers of seeds, as pure functions in float64.

They equal those of ``scipy.stats``, whose import takes seconds; so the distributions come from
``scipy.special``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import nctdtr, stdtr, stdtrit

CONFIDENCE = 0.95
RESAMPLES = 9999
POWER = 0.8
"""Probability with which :func:`seeds_needed` seeds show the difference."""
MOST_SEEDS = 1000
"""More seeds than that are not counted."""


@dataclass(frozen=True)
class Difference:
    """A mean difference with its interval, and the standard error and freedom behind them."""

    mean: float
    error: float
    freedom: float

    @property
    def half_width(self) -> float:
        """Half of the 95 % interval."""
        return float(stdtrit(self.freedom, (1 + CONFIDENCE) / 2)) * self.error

    @property
    def interval(self) -> tuple[float, float]:
        return self.mean - self.half_width, self.mean + self.half_width

    @property
    def p_value(self) -> float:
        """Return the two-sided p-value of no difference; 1 where every difference is 0."""
        if self.error == 0:
            return float(self.mean == 0)
        return 2 * float(stdtr(self.freedom, -abs(self.mean / self.error)))


def deviation(values: Sequence[float]) -> float | None:
    """Return the standard deviation (n - 1); None for fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def paired(differences: Sequence[float]) -> Difference:
    """Return the mean of at least two differences, as a paired t test has it."""
    number = len(differences)
    error = np.std(differences, ddof=1) / np.sqrt(number)
    return Difference(float(np.mean(differences)), float(error), number - 1)


def unpaired(values: Sequence[float], baseline: Sequence[float]) -> Difference:
    """Return the difference of two means, as Welch's t test has it; at least two values each."""
    mean = float(np.mean(values) - np.mean(baseline))
    parts = (values, baseline)
    shares = [float(np.var(part, ddof=1)) / len(part) for part in parts]
    error = sum(shares) ** 0.5
    if error == 0:
        return Difference(mean, 0.0, len(values) + len(baseline) - 2)
    weights = [share**2 / (len(part) - 1) for share, part in zip(shares, parts, strict=True)]
    return Difference(mean, error, error**4 / sum(weights))


def bootstrap(
    values: Sequence[float], baseline: Sequence[float] | None = None, *, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of a mean.

    It is far too narrow for few seeds: of three differences it covers about 3 of 4 true ones.

    Args:
        values: paired differences, or the values of a row.
        baseline: the values of the baseline, where the seeds are not paired.
    """
    rng = np.random.default_rng(seed)
    means = _resampled_means(values, rng)
    if baseline is not None:
        means = means - _resampled_means(baseline, rng)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def _resampled_means(values: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    picked = rng.integers(0, len(values), (RESAMPLES, len(values)))
    return np.asarray(values, float)[picked].mean(-1)


def seeds_needed(difference: float, deviation: float) -> int | None:
    """Return the seeds with which a paired t test shows a difference with 80 % probability.

    Args:
        difference: the true mean difference, in practice the one that was measured.
        deviation: standard deviation of the differences.

    Returns:
        At least 2; None for more than :data:`MOST_SEEDS`.
    """
    number = np.arange(2, MOST_SEEDS + 1)
    if difference == 0 or not np.isfinite(deviation):
        return None
    if deviation == 0:
        return 2
    critical = stdtrit(number - 1, (1 + CONFIDENCE) / 2)
    shift = abs(difference) / deviation * np.sqrt(number)
    enough = nctdtr(number - 1, shift, critical) <= 1 - POWER
    return int(number[enough][0]) if enough.any() else None
