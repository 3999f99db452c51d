"""Which arm is first, and how firmly: ranks of the arms' means under resampling of cases, and over several data sets."""

from typing import Any

import numpy as np
import scikit_posthocs
from numpy.typing import NDArray
from scipy import stats

from .paired_tests import DIGITS, friedman, sign_test

Floats = NDArray[np.float64]


def ranks_of(means: Floats, lower_is_better: bool) -> Floats:
    """(…, arms) -> the same shape: 1 is best, ties share their mean rank."""
    means = np.round(means, DIGITS)
    return np.asarray(stats.rankdata(means if lower_is_better else -means, axis=-1))


def stability(means: Floats, resampled: Floats, arms: list[str], lower_is_better: bool) -> dict[str, Any]:
    """Aggregate, then rank (Wiesenfarth et al. 2021): the ranks of (arms,) means and of (resamples, arms) resampled ones.

    Kendall's tau-b is that of each resample's ranking to the full data's; a resample with all arms equal has none.
    """
    full, drawn = ranks_of(means, lower_is_better), ranks_of(resampled, lower_is_better)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    rows = [
        {
            "arm": arm,
            "rank": float(full[i]),
            "mean_rank": float(drawn[:, i].mean()),
            "sd": float(drawn[:, i].std()),
            "low": float(low[i]),
            "high": float(high[i]),
            "shares": _shares(drawn[:, i]),
        }
        for i, arm in enumerate(arms)
    ]
    return {
        "arms": rows,
        "kendall_tau": _kendall(full, drawn),
        "resamples": len(drawn),
        "method": f"ranks of the arms' means, bootstrap over cases, {len(drawn)} resamples",
    }


def _shares(ranks: Floats) -> list[list[float]]:
    """[[rank, share of the resamples], …]; tied arms share a half rank."""
    values, times = np.unique(ranks, return_counts=True)
    return [[float(value), float(n / len(ranks))] for value, n in zip(values, times, strict=True)]


def _kendall(full: Floats, drawn: Floats) -> dict[str, Any]:
    """Few orders of few arms occur, so each is compared once."""
    orders, times = np.unique(drawn, axis=0, return_counts=True)
    varied = np.array([np.ptp(order) > 0 for order in orders])
    found: dict[str, Any] = dict.fromkeys(("mean", "median", "low", "high"))
    found |= {"same_order": None, "shares": [], "n": int(times[varied].sum()), "reason": None}
    if np.ptp(full) == 0 or not varied.any():
        return found | {"reason": "not computable: all arms have the same mean"}
    taus = np.repeat([stats.kendalltau(full, order).statistic for order in orders[varied]], times[varied])
    low, median, high = (float(q) for q in np.quantile(taus, [0.025, 0.5, 0.975]))
    same = float((drawn == full).all(axis=1).mean())
    found |= {"mean": float(taus.mean()), "median": median, "low": low, "high": high, "same_order": same}
    return found | {"shares": _shares(np.round(taus, 9))}


def over_datasets(means: Floats, arms: list[str], datasets: list[str], lower_is_better: bool) -> dict[str, Any]:
    """Average ranks over data sets, Friedman or for two arms the sign test, Nemenyi and its critical difference (Demsar 2006).

    means: (data sets, arms). Arms whose average ranks lie within the critical difference are not told apart: `groups`.
    """
    by_dataset = ranks_of(means, lower_is_better)
    average = by_dataset.mean(axis=0)
    n, k = means.shape
    critical = critical_difference(k, n)
    p = np.asarray(scikit_posthocs.posthoc_nemenyi_friedman(by_dataset))
    pairs = [
        {"a": arms[i], "b": arms[j], "difference": float(average[i] - average[j]), "p": float(p[i, j])}
        for i in range(k)
        for j in range(i + 1, k)
    ]
    rows = [
        {
            "arm": arm,
            "average_rank": float(average[i]),
            "ranks": by_dataset[:, i].tolist(),
            "means": means[:, i].tolist(),
        }
        for i, arm in enumerate(arms)
    ]
    return {
        "datasets": datasets,
        "n": n,
        "arms": sorted(rows, key=lambda row: row["average_rank"]),
        "friedman": friedman(by_dataset),
        "sign_test": sign_test(by_dataset),
        "critical_difference": critical,
        "pairs": pairs,
        "groups": _groups(average, arms, critical),
        "method": "average ranks over data sets, Nemenyi critical difference, 5%",
    }


def critical_difference(k: int, n: int, alpha: float = 0.05) -> float:
    """How far apart the average ranks of k arms over n data sets have to be: Nemenyi's q times sqrt(k (k + 1) / 6 n)."""
    q = stats.studentized_range.ppf(1 - alpha, k, np.inf) / 2**0.5
    return float(q * (k * (k + 1) / (6 * n)) ** 0.5)


def _groups(average: Floats, arms: list[str], critical: float) -> list[list[str]]:
    """Longest runs of neighbours within the critical difference: the bars of the diagram."""
    order = np.argsort(average, kind="stable")
    ends = [int((average[order] - average[first] < critical).sum()) for first in order]
    groups, reached = [], 0
    for start, end in enumerate(ends):
        if end > max(reached, start + 1):
            groups.append([arms[i] for i in order[start:end]])
            reached = end
    return groups
