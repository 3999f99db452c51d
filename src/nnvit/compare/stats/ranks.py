"""Ranks of the arms' means: how stable they are under resampling of cases, and over several data sets."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import scikit_posthocs
from scipy import stats

from .bootstrap import Floats
from .paired_tests import DIGITS, Friedman

Shares = list[list[float]]
"""[[rank, share of the resamples], …]; tied arms share a half rank."""


@dataclass(frozen=True, kw_only=True)
class _ArmRank:
    """The rank of one arm on all cases, and its mean, SD, 95% range and shares over the resamples."""

    arm: str
    rank: float
    mean_rank: float
    sd: float
    low: float
    high: float
    shares: Shares


@dataclass(frozen=True, kw_only=True)
class _Kendall:
    """Kendall's tau-b of each resample's ranking to the full one; n: resamples in which the arms are not all equal."""

    mean: float | None = None
    median: float | None = None
    low: float | None = None
    high: float | None = None
    same_order: float | None = None
    shares: Shares
    n: int
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The ranks of all arms on one data set."""

    arms: list[_ArmRank]
    kendall_tau: _Kendall
    resamples: int
    method: str

    @classmethod
    def of(cls, means: Floats, resampled: Floats, arms: list[str], lower_is_better: bool) -> "Ranks":
        """Ranks the arms' means, (arms,), and the resampled ones, (resamples, arms): aggregate, then rank.

        Wiesenfarth et al. 2021.
        """
        full, drawn = _ranks_of(means, lower_is_better), _ranks_of(resampled, lower_is_better)
        low, high = np.quantile(drawn, [0.025, 0.975], axis=0).tolist()
        rows = [
            _ArmRank(
                arm=arm, rank=rank, mean_rank=float(own.mean()), sd=float(own.std()), low=a, high=b, shares=_shares(own)
            )
            for arm, rank, own, a, b in zip(arms, full.tolist(), drawn.T, low, high, strict=True)
        ]
        method = f"ranks of the arms' means, bootstrap over cases, {len(drawn)} resamples"
        return cls(arms=rows, kendall_tau=_kendall(full, drawn), resamples=len(drawn), method=method)


@dataclass(frozen=True, kw_only=True)
class _SignTest:
    """The exact sign test of two arms over data sets."""

    statistic: float | None = None
    p: float | None = None
    n: int
    reason: str | None = None
    method: str = "exact sign test, two-sided, ties left out"

    @classmethod
    def of(cls, values: Floats) -> "_SignTest":
        """Exact test over (data sets, 2 arms), ties left out: for two arms what Friedman is for three or more."""
        n, arms = values.shape
        if arms != 2:
            return cls(n=n, reason=f"not computable: {arms} arms, but the sign test compares 2")
        signs = np.sign(np.round(values[:, 0] - values[:, 1], DIGITS))
        above, below = int((signs > 0).sum()), int((signs < 0).sum())
        if above + below == 0:
            return cls(n=n, reason="not computable: both arms are equal on every data set")
        return cls(statistic=min(above, below), p=float(stats.binomtest(above, above + below).pvalue), n=n)


@dataclass(frozen=True, kw_only=True)
class _ArmAverage:
    """One arm over data sets: average_rank, and the rank and mean on each."""

    arm: str
    average_rank: float
    ranks: list[float]
    means: list[float]


@dataclass(frozen=True, kw_only=True)
class _RankGap:
    """The difference of two arms' average ranks, and Nemenyi's p."""

    a: str
    b: str
    difference: float
    p: float


@dataclass(frozen=True, kw_only=True)
class AcrossDatasets:
    """The ranks over data sets. arms: by rank. groups: arms within the critical difference, which are not told apart."""

    datasets: list[str]
    n: int
    arms: list[_ArmAverage]
    friedman: Friedman
    sign_test: _SignTest
    critical_difference: float
    pairs: list[_RankGap]
    groups: list[list[str]]
    method: str = "average ranks over data sets, Nemenyi critical difference, 5%"

    @classmethod
    def of(cls, means: Floats, arms: list[str], datasets: list[str], lower_is_better: bool) -> "AcrossDatasets":
        """Ranks (data sets, arms) on each data set and averages: Friedman or the sign test, and Nemenyi (Demsar 2006)."""
        by_dataset = _ranks_of(means, lower_is_better)
        average = by_dataset.mean(axis=0)
        n, k = means.shape
        critical = _critical_difference(k, n)
        p = np.asarray(scikit_posthocs.posthoc_nemenyi_friedman(by_dataset))
        pairs = [
            _RankGap(a=arms[i], b=arms[j], difference=float(average[i] - average[j]), p=float(p[i, j]))
            for i, j in combinations(range(k), 2)
        ]
        rows = [
            _ArmAverage(arm=arm, average_rank=rank, ranks=ranks, means=own)
            for arm, rank, ranks, own in zip(
                arms, average.tolist(), by_dataset.T.tolist(), means.T.tolist(), strict=True
            )
        ]
        return cls(
            datasets=datasets,
            n=n,
            arms=sorted(rows, key=lambda row: row.average_rank),
            friedman=Friedman.of(by_dataset),
            sign_test=_SignTest.of(by_dataset),
            critical_difference=critical,
            pairs=pairs,
            groups=_groups(average, arms, critical),
        )


def _ranks_of(means: Floats, lower_is_better: bool) -> Floats:
    """Ranks of (…, arms) along the last axis: 1 is best, ties share their mean rank."""
    means = np.round(means, DIGITS)
    return np.asarray(stats.rankdata(means if lower_is_better else -means, axis=-1))


def _shares(ranks: Floats) -> Shares:
    values, times = np.unique(ranks, return_counts=True)
    return [[float(value), float(n / len(ranks))] for value, n in zip(values, times, strict=True)]


def _kendall(full: Floats, drawn: Floats) -> _Kendall:
    """The agreement of the resamples' rankings `drawn`, (resamples, arms), with the full one, (arms,)."""
    # few arms have few orders: each order that occurs is compared once
    orders, times = np.unique(drawn, axis=0, return_counts=True)
    varied = np.array([np.ptp(order) > 0 for order in orders])
    n = int(times[varied].sum())
    if np.ptp(full) == 0 or not varied.any():
        return _Kendall(shares=[], n=n, reason="not computable: all arms have the same mean")
    taus = np.repeat([stats.kendalltau(full, order).statistic for order in orders[varied]], times[varied])
    low, median, high = (float(q) for q in np.quantile(taus, [0.025, 0.5, 0.975]))
    same = float((drawn == full).all(axis=1).mean())
    shares = _shares(np.round(taus, 9))
    return _Kendall(mean=float(taus.mean()), median=median, low=low, high=high, same_order=same, shares=shares, n=n)


def _critical_difference(k: int, n: int, alpha: float = 0.05) -> float:
    """Nemenyi's q times sqrt(k (k + 1) / 6 n), for the average ranks of k arms over n data sets."""
    q = stats.studentized_range.ppf(1 - alpha, k, np.inf) / 2**0.5
    return float(q * (k * (k + 1) / (6 * n)) ** 0.5)


def _groups(average: Floats, arms: list[str], critical: float) -> list[list[str]]:
    """The longest runs of neighbours within the critical difference: the bars of the diagram."""
    order = np.argsort(average, kind="stable")
    ends = [int((average[order] - average[first] < critical).sum()) for first in order]
    groups, reached = [], 0
    for start, end in enumerate(ends):
        if end > max(reached, start + 1):
            groups.append([arms[i] for i in order[start:end]])
            reached = end
    return groups
