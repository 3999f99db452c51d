"""Ranks by hand, and over data sets as scikit-posthocs and Demsar's table have them."""

import numpy as np
import pytest
import scikit_posthocs
from scipy import stats

from nnvit.compare.stats.ranks import AcrossDatasets, Ranks, _critical_difference, _groups, _ranks_of


def test_the_best_mean_is_first_and_ties_share() -> None:
    means = np.array([0.9, 0.7, 0.8, 0.7])
    assert _ranks_of(means, lower_is_better=False).tolist() == [1, 3.5, 2, 3.5]
    assert _ranks_of(means, lower_is_better=True).tolist() == [4, 1.5, 3, 1.5]


def test_stability_by_hand() -> None:
    full = np.array([0.9, 0.8, 0.7])
    resampled = np.array([[0.9, 0.8, 0.7], [0.8, 0.9, 0.7], [0.9, 0.8, 0.7], [0.7, 0.7, 0.7]])
    found = Ranks.of(full, resampled, ["a", "b", "c"], lower_is_better=False)
    first, second, _ = found.arms
    assert (first.rank, first.mean_rank, second.mean_rank) == (1, (1 + 2 + 1 + 2) / 4, (2 + 1 + 2 + 2) / 4)
    assert first.shares == [[1.0, 0.5], [2.0, 0.5]]
    tau = found.kendall_tau  # 1, 1/3 (one of three pairs is turned round), 1; the tie of all has none
    assert tau.n == 3
    assert tau.mean == pytest.approx((1 + 1 / 3 + 1) / 3)
    assert tau.same_order == 0.5


def test_kendalls_tau_is_scipys_for_every_resample() -> None:
    rng = np.random.default_rng(0)
    full, resampled = rng.normal(size=5), rng.normal(size=(200, 5))
    theirs = [stats.kendalltau(full, row).statistic for row in resampled]
    tau = Ranks.of(full, resampled, list("abcde"), lower_is_better=False).kendall_tau
    assert tau.mean == pytest.approx(np.mean(theirs))
    assert tau.low == pytest.approx(np.quantile(theirs, 0.025))


def test_equal_arms_have_no_order() -> None:
    found = Ranks.of(np.full(3, 0.5), np.full((10, 3), 0.5), list("abc"), lower_is_better=False)
    assert found.kendall_tau.reason == "not computable: all arms have the same mean"
    assert [arm.rank for arm in found.arms] == [2, 2, 2]


# Demsar 2006, table 5 (a)
@pytest.mark.parametrize(("k", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (8, 3.031), (10, 3.164)])
def test_critical_difference_has_the_published_q(k: int, q: float) -> None:
    assert _critical_difference(k, 14) == pytest.approx(q * (k * (k + 1) / 84) ** 0.5, abs=6e-4)


def test_over_datasets_by_hand() -> None:
    # the worked example of Demsar 2006: four classifiers, fourteen data sets, average ranks 3.143, 2.000, 2.893, 1.964;
    # the last but one has .975 twice, ranked 2 and 3 there
    table = """
        .763 .768 .771 .798   .599 .591 .590 .569   .954 .971 .968 .967   .628 .661 .654 .657   .882 .888 .886 .898
        .936 .931 .916 .931   .661 .668 .609 .685   .583 .583 .563 .625   .775 .838 .866 .875   1.000 1.000 1.000 1.000
        .940 .962 .965 .962   .619 .666 .614 .669   .972 .981 .9751 .975   .957 .978 .946 .970
    """
    means = np.array(table.split(), float).reshape(14, 4)
    arms = ["C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf"]
    found = AcrossDatasets.of(means, arms, [str(i) for i in range(14)], lower_is_better=False)
    average = {row.arm: row.average_rank for row in found.arms}
    assert [average[arm] for arm in arms] == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    assert found.critical_difference == pytest.approx(1.25, abs=0.005)
    assert found.groups == [["C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5"]]
    assert found.arms[0].arm == "C4.5+m+cf"
    theirs = scikit_posthocs.posthoc_nemenyi_friedman(-means).to_numpy()
    assert [pair.p for pair in found.pairs] == pytest.approx(theirs[np.triu_indices(4, 1)], rel=1e-12)
    assert found.friedman.p == pytest.approx(stats.friedmanchisquare(*means.T).pvalue)


def test_arms_that_are_told_apart_share_no_bar() -> None:
    means = np.tile([0.9, 0.5, 0.1], (40, 1)) + np.random.default_rng(0).normal(0, 0.01, (40, 3))
    assert AcrossDatasets.of(means, list("abc"), [""] * 40, lower_is_better=False).groups == []
    assert AcrossDatasets.of(means[:2], list("abc"), [""] * 2, lower_is_better=True).groups == [["c", "b", "a"]]


def test_groups_are_the_longest_runs_within_the_critical_difference() -> None:
    assert _groups(np.array([1.0, 1.5, 2.4, 3.9]), list("abcd"), 1.0) == [["a", "b"], ["b", "c"]]
    assert _groups(np.array([1.0, 3.0]), list("ab"), 1.0) == []
