"""Intervals of means: the same as scipy's on the same random numbers, and the hierarchical one by enumeration."""

import numpy as np
import pytest
from scipy import stats

from nnvit.compare.stats.bootstrap import Bootstrap


@pytest.mark.parametrize("n", [17, 300])
@pytest.mark.parametrize("skew", [False, True])
def test_bca_is_scipys_on_the_same_random_numbers(n: int, skew: bool) -> None:
    rng = np.random.default_rng(1)
    values = rng.gamma(0.5, size=(n, 3)) if skew else rng.normal(size=(n, 3))
    low, high = Bootstrap(2000, 7).bca(values)
    theirs = stats.bootstrap(
        (values.T,), np.mean, axis=-1, n_resamples=2000, method="BCa", rng=np.random.default_rng(7)
    ).confidence_interval
    np.testing.assert_allclose(low, theirs.low, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(high, theirs.high, rtol=1e-12, atol=1e-12)


def test_bca_counts_resamples_that_equal_the_mean_by_half_as_scipy_does() -> None:
    values = np.array([[0.0], [1.0], [2.0], [5.0]])  # sums without rounding, so that both see the same ties
    low, high = Bootstrap(2000, 7).bca(values)
    theirs = stats.bootstrap(
        (values[:, 0],), np.mean, n_resamples=2000, method="BCa", rng=np.random.default_rng(7)
    ).confidence_interval
    np.testing.assert_allclose([low[0], high[0]], [theirs.low, theirs.high], rtol=1e-12)


def test_bca_of_a_column_without_spread_is_nan_and_leaves_the_others_alone() -> None:
    values = np.random.default_rng(0).normal(size=(20, 2))
    flat = np.column_stack([values, np.full(20, 0.3)])
    low, high = Bootstrap(500, 0).bca(flat)
    alone = Bootstrap(500, 0).bca(values)
    assert np.isnan([low[2], high[2]]).all()
    np.testing.assert_allclose([low[:2], high[:2]], alone, rtol=1e-12)


def test_bca_of_two_values_spans_them() -> None:
    low, high = Bootstrap(999, 0).bca(np.array([[0.0], [1.0]]))
    assert (low[0], high[0]) == (0.0, 1.0)


def test_resamples_in_chunks_have_the_mean_and_the_spread_of_a_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnvit.compare.stats.bootstrap.CELLS", 70)
    values = np.random.default_rng(0).normal(size=(30, 1))
    means = Bootstrap(20_001, 0).means(values)
    assert means.shape == (20_001, 1)
    assert means.std() == pytest.approx(values.std() / 30**0.5, rel=0.02)
    assert means.mean() == pytest.approx(values.mean(), abs=0.005)


def test_hierarchical_draws_folds_then_cases() -> None:
    folds = [[np.array([[0.0, 2.0]])], [np.array([[10.0, 10.0]])]]
    means = Bootstrap(40_000, 0).hierarchical(folds)[:, 0]
    # both folds the first: mean of four draws of 0 or 2; one of each: 10 and the mean of two draws; both the second: 10
    chance = {0: 1 / 64, 0.5: 4 / 64, 1: 6 / 64, 1.5: 4 / 64, 2: 1 / 64, 5: 1 / 8, 5.5: 1 / 4, 6: 1 / 8, 10: 1 / 4}
    values, times = np.unique(means, return_counts=True)
    assert values.tolist() == list(chance)
    assert stats.chisquare(times, np.array(list(chance.values())) * 40_000).pvalue > 0.001


def test_hierarchical_weighs_every_case_alike_in_folds_of_unequal_size() -> None:
    folds = [[np.full((1, 3), 1.0)], [np.full((1, 1), 5.0)]]
    assert set(Bootstrap(200, 0).hierarchical(folds)[:, 0]) == {1.0, 2.0, 5.0}


def test_hierarchical_draws_the_runs_of_each_arm_by_themselves_and_the_cases_for_all() -> None:
    two_runs, one_run = np.array([[0.0, 1.0], [100.0, 101.0]]), np.array([[0.0, 1.0]])
    means = Bootstrap(8000, 0).hierarchical([[two_runs, one_run]])
    gaps, times = np.unique(means[:, 0] - means[:, 1], return_counts=True)
    np.testing.assert_allclose(gaps, [0, 50, 100])
    assert stats.chisquare(times, [2000, 4000, 2000]).pvalue > 0.001
