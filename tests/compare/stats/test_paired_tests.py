"""Every test equals scipy's or statsmodels' own, or a value computed by hand; undefined cases give no warning."""

from typing import Any

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from nnvit.compare.stats.bootstrap import Bootstrap
from nnvit.compare.stats.paired_tests import FoldTest, Friedman, Wilcoxon, holm
from nnvit.compare.stats.ranks import _SignTest
from nnvit.compare.stats.verdict import _with_holm


def _differences(n: int, kind: str) -> np.ndarray:
    values = np.random.default_rng(n).normal(0.2, 1, n)
    return {"smooth": values, "ties": np.round(values, 1), "zeros": np.where(values < 0, 0, values)}[kind]


@pytest.mark.parametrize("n", [2, 3, 8, 14, 50, 51, 300])
@pytest.mark.parametrize("kind", ["smooth", "ties", "zeros"])
def test_wilcoxon_is_scipys(n: int, kind: str) -> None:
    values = _differences(n, kind)
    theirs = stats.wilcoxon(np.round(values, 12), zero_method="pratt")
    ours = Wilcoxon.of(values)
    assert (ours.statistic, ours.p) == pytest.approx((theirs.statistic, theirs.pvalue), rel=1e-14)
    assert (ours.n, ours.n_zero, ours.reason) == (n, (values == 0).sum(), None)


def test_rank_biserial_by_hand() -> None:
    # |d| 0, 1, 2, 3, 3: ranks 1, 2, 3, 4.5, 4.5; above zero 2 + 4.5 + 4.5, below zero 3
    assert Wilcoxon.of(np.array([0.0, 1.0, -2.0, 3.0, 3.0])).rank_biserial == pytest.approx((11 - 3) / 14)


def test_rank_biserial_from_scipys_one_sided_sums() -> None:
    values = _differences(60, "ties")
    above, below = (
        stats.wilcoxon(sign * values, zero_method="pratt", alternative="greater").statistic for sign in (1, -1)
    )
    assert Wilcoxon.of(values).rank_biserial == pytest.approx((above - below) / (above + below), abs=1e-12)


def test_dust_from_averaging_makes_no_ranks() -> None:
    assert Wilcoxon.of(np.array([1e-16, -1e-17, 0.0])).reason == "not computable: every difference is zero"


def test_the_sign_test_counts_who_is_ahead_and_leaves_ties_out() -> None:
    ahead = np.array([[1.0, 2.0]] * 6 + [[1.5, 1.5]] * 3)
    assert _SignTest.of(ahead).p == pytest.approx(2 / 2**6)
    assert _SignTest.of(ahead[4:]).p == pytest.approx(0.5)


def test_friedman_is_scipys_with_ties() -> None:
    values = np.round(np.random.default_rng(0).normal(size=(25, 4)), 1)
    theirs = stats.friedmanchisquare(*values.T)
    ours = Friedman.of(values)
    assert (ours.statistic, ours.p) == (theirs.statistic, theirs.pvalue)


@pytest.mark.parametrize("n", [2, 5, 15])
def test_paired_t_is_scipys(n: int) -> None:
    values = _differences(n, "smooth")
    theirs, ours = stats.ttest_1samp(values, 0), FoldTest.paired(values)
    bounds = theirs.confidence_interval(0.95)
    expected = [theirs.statistic, theirs.pvalue, theirs.df, bounds.low, bounds.high]
    np.testing.assert_allclose(
        [getattr(ours, key) for key in ("statistic", "p", "df", "low", "high")], expected, rtol=1e-12
    )


def test_nadeau_bengio_by_hand() -> None:
    # differences 1, 2, 3, 4, 5 of five folds: mean 3, variance 2.5; error sqrt((1/5 + 1/4) 2.5) = sqrt(1.125)
    ours = FoldTest.nadeau_bengio(np.arange(1.0, 6.0), 5)
    assert ours.statistic == pytest.approx(2.8284271247461903)  # 3 / sqrt(1.125) = sqrt(8)
    assert ours.df == 4
    assert ours.p == pytest.approx(0.0474, abs=5e-5)  # of t = 2.828, 4 degrees of freedom
    assert ours.high == pytest.approx(3 + 2.7764451 * 1.0606602, abs=1e-6)


def test_nadeau_bengio_of_three_repeats_by_hand() -> None:
    # fifteen differences, 5 x (0, 1, 2): mean 1, variance 10 / 14; factor 1/15 + 1/4 = 19/60
    ours = FoldTest.nadeau_bengio(np.repeat([0.0, 1.0, 2.0], 5), 5)
    assert ours.statistic == pytest.approx((10 / 14 * 19 / 60) ** -0.5)
    assert (ours.df, ours.n) == (14, 15)


@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_holm_is_statsmodels(n: int) -> None:
    p = np.random.default_rng(n).uniform(0, 0.2, n)
    expected = multipletests(p, method="holm")[1] if n else p
    np.testing.assert_allclose(holm(p), expected, rtol=1e-14)
    np.testing.assert_allclose(holm(np.stack([p, p[::-1]])), np.stack([expected, expected[::-1]]), rtol=1e-14)


def test_a_test_that_was_not_computable_is_no_part_of_its_family() -> None:
    tests = _with_holm([FoldTest(p=p, n=5, method="") for p in (0.01, None, 0.04)], ["one"] * 3)
    assert [test.p_holm for test in tests] == [0.02, None, 0.04]


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (Wilcoxon.of(np.array([])), "0 cases, but at least 2 are needed"),
        (Wilcoxon.of(np.array([0.1])), "1 case, but at least 2 are needed"),
        (Wilcoxon.of(np.zeros(9)), "every difference is zero"),
        (_SignTest.of(np.zeros((9, 2))), "both arms are equal on every data set"),
        (_SignTest.of(np.zeros((9, 3))), "3 arms, but the sign test compares 2"),
        (Friedman.of(np.zeros((9, 2))), "2 arms, but at least 3 are needed"),
        (Friedman.of(np.ones((1, 3))), "1 case, but at least 2 are needed"),
        (Friedman.of(np.ones((9, 3))), "all arms are equal on every case"),
        (FoldTest.paired(np.array([])), "0 folds, but at least 2 are needed"),
        (FoldTest.paired(np.array([0.3])), "1 fold, but at least 2 are needed"),
        (FoldTest.paired(np.zeros(5)), "every fold has the same difference"),
        (FoldTest.paired(np.full(5, 0.1 + 0.2)), "every fold has the same difference"),
        (FoldTest.nadeau_bengio(np.array([0.1, 0.2]), 1), "1 fold, but at least 2 are needed"),
    ],
)
def test_what_cannot_be_computed_says_why(found: Any, reason: str) -> None:
    assert found.reason == f"not computable: {reason}"
    assert (found.p, found.statistic) == (None, None)


def test_an_interval_of_two_cases_is_none() -> None:
    (few,), (flat,) = (Bootstrap(999, 0).intervals(np.ones((n, 1))) for n in (2, 9))
    assert few.reason == "not computable: 2 cases, but at least 3 are needed"
    assert flat.reason == "not computable: every case has the same value"
    assert (few.low, flat.low) == (None, None)
