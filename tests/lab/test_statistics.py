"""Intervals and p-values equal scipy's, cover what they promise, and seeds have a known power."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from freqkd_cli.lab import statistics
from freqkd_cli.lab.statistics import bootstrap, deviation, paired, seeds_needed, unpaired

NUMBERS = (2, 3, 6, 10)


def two_rows(number: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """mIoU of two recipes over seeds."""
    rng = np.random.default_rng(seed)
    return rng.normal(0.757, 0.004, number), rng.normal(0.744, 0.006, number)


@pytest.mark.parametrize("number", NUMBERS)
def test_the_paired_interval_is_scipys(number):
    own, base = two_rows(number)
    reference = stats.ttest_rel(own, base)
    result = paired(own - base)
    np.testing.assert_allclose(result.interval, reference.confidence_interval(), rtol=1e-12)
    assert result.p_value == pytest.approx(reference.pvalue, rel=1e-12)
    scale = stats.sem(own - base)
    direct = stats.t.interval(0.95, number - 1, loc=np.mean(own - base), scale=scale)
    np.testing.assert_allclose(result.interval, direct, rtol=1e-12)
    assert deviation(list(own)) == pytest.approx(stats.tstd(own), rel=1e-12)


@pytest.mark.parametrize("number", NUMBERS)
def test_the_unpaired_interval_is_scipys_welch_test(number):
    own, base = two_rows(number)[0], two_rows(number + 1, seed=2)[1]
    reference = stats.ttest_ind(own, base, equal_var=False)
    result = unpaired(own, base)
    np.testing.assert_allclose(result.interval, reference.confidence_interval(), rtol=1e-12)
    assert result.p_value == pytest.approx(reference.pvalue, rel=1e-12)


@pytest.mark.parametrize("number", NUMBERS)
def test_the_bootstrap_is_scipys(number):
    own, base = two_rows(number)
    settings = {"n_resamples": statistics.RESAMPLES, "method": "percentile"}
    pairs = stats.bootstrap((own - base,), np.mean, rng=np.random.default_rng(0), **settings)
    np.testing.assert_allclose(bootstrap(own - base), pairs.confidence_interval, rtol=1e-12)

    def difference(x, y, axis):
        return x.mean(axis) - y.mean(axis)

    both = stats.bootstrap((own, base), difference, rng=np.random.default_rng(0), **settings)
    np.testing.assert_allclose(bootstrap(own, base), both.confidence_interval, rtol=1e-12)


@pytest.mark.parametrize("number", [3, 6, 10])
def test_the_paired_interval_covers_the_true_difference_as_often_as_it_promises(number):
    """Seeds move both rows together, and each row by itself."""
    rng = np.random.default_rng(7)
    shape = (4000, number)
    shared = rng.normal(0.74, 0.006, shape)
    base, own = (shared + rng.normal(0, 0.003, shape) for _ in range(2))
    intervals = [paired(row).interval for row in own + 0.01 - base]
    assert 0.93 < np.mean([low <= 0.01 <= high for low, high in intervals]) < 0.97


@pytest.mark.parametrize(("number", "least", "most"), [(3, 0.70, 0.80), (10, 0.86, 0.94)])
def test_the_bootstrap_of_few_seeds_is_too_narrow(number, least, most):
    """So the t interval is the one that verdicts are taken from."""
    rows = np.random.default_rng(7).normal(0, 0.004, (300, number))
    covered = [low <= 0 <= high for low, high in map(bootstrap, rows)]
    assert least < np.mean(covered) < most


@pytest.mark.parametrize("effect", [0.3, 0.5, 1.0, 2.0])
def test_that_many_seeds_have_the_power_and_one_less_has_not(effect):
    number = seeds_needed(effect, 1.0)
    assert seeds_needed(-effect, 1.0) == number
    for seeds, enough in ((number, True), (number - 1, False)):
        critical = stats.t.ppf(0.975, seeds - 1)
        power = stats.nct.sf(critical, seeds - 1, effect * seeds**0.5)
        assert (power >= 0.8) == enough


def test_the_number_of_seeds_has_bounds():
    assert seeds_needed(0.0, 1.0) is None and seeds_needed(0.001, 1.0) is None
    assert seeds_needed(1.0, 0.0) == 2 and seeds_needed(100.0, 1.0) == 2


def test_equal_differences_have_an_interval_without_width():
    assert paired([0.0, 0.0]).interval == (0.0, 0.0) and paired([0.0, 0.0]).p_value == 1
    assert paired([0.5, 0.5]).interval == (0.5, 0.5) and paired([0.5, 0.5]).p_value == 0
    assert unpaired([0.5, 0.5], [0.25, 0.25]).interval == (0.25, 0.25)
    assert deviation([0.5]) is None
