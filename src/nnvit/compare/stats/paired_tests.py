"""Tests and intervals of the difference between arms. Each gives a dict with its numbers, its n and its method's name.

A number that cannot be computed is None, and `reason` says why: nothing here raises, warns or gives NaN.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
CONFIDENCE = 0.95
DIGITS = 12
"""Differences that are equal to so many decimals are ties: averaging over runs and labels leaves dust behind."""


def interval(low: float, high: float, n: int, num: int, reason: str | None = None) -> dict[str, Any]:
    """Of a mean over `n` cases by BCa bootstrap; NaN bounds get a reason."""
    if reason is None and n < 3:
        reason = f"not computable: {n} case{'s' * (n != 1)}, and three are the least"
    if reason is None and not np.isfinite(low + high):
        reason = "not computable: every case has the same value"
    bounds = (None, None) if reason else (float(low), float(high))
    method = f"BCa bootstrap over cases, {num} resamples, {CONFIDENCE:.0%}"
    return {"low": bounds[0], "high": bounds[1], "n": n, "method": method, "reason": reason}


def wilcoxon(difference: Floats) -> dict[str, Any]:
    """Signed-rank test with Pratt's zeros, and the matched-pairs rank-biserial correlation: 1 where all are above zero.

    Kerby 2014: the share of the ranks' sum in favour less the share against; zeros are ranked and then left out.
    """
    difference = np.round(difference, DIGITS)
    n, zeros = len(difference), int((difference == 0).sum())
    found: dict[str, Any] = {
        "statistic": None,
        "p": None,
        "p_holm": None,
        "rank_biserial": None,
        "n": n,
        "n_zero": zeros,
    }
    found |= {"method": "Wilcoxon signed-rank, two-sided, zeros by Pratt", "reason": None}
    if n < 2 or n == zeros:
        return found | {"reason": _too_few(n, "case") or "not computable: every difference is zero"}
    result = _signed_rank(difference)
    ranks = stats.rankdata(np.abs(difference))
    above, below = ranks[difference > 0].sum(), ranks[difference < 0].sum()
    effect = float((above - below) / (above + below))
    return found | {"statistic": result[0], "p": result[1], "rank_biserial": effect}


def _signed_rank(difference: Floats) -> tuple[float, float]:
    """scipy's statistic and p. For ties among 13 or fewer it walks through all signs one by one: here they are a matrix."""
    n, sizes = len(difference), np.abs(difference)
    if n > 13 or (len(np.unique(sizes)) == n and sizes.all()):
        result = stats.wilcoxon(difference, zero_method="pratt")
        return float(result.statistic), float(result.pvalue)
    ranks = stats.rankdata(sizes) * (sizes > 0)
    above, total = ranks[difference > 0].sum(), ranks.sum()
    sums = np.array(list(product((0, 1), repeat=n))) @ ranks
    p = 2 * min((sums >= above - 1e-9).mean(), (sums <= above + 1e-9).mean())
    return float(min(above, total - above)), float(min(p, 1.0))


def friedman(values: Floats) -> dict[str, Any]:
    """Over (cases, arms), three arms or more: does any arm differ?"""
    n, arms = values.shape
    found: dict[str, Any] = {
        "statistic": None,
        "p": None,
        "n": n,
        "arms": arms,
        "method": "Friedman chi-square",
        "reason": None,
    }
    values = np.round(values, DIGITS)
    if arms < 3:
        return found | {"reason": "not computable: two arms, and three are the least"}
    if n < 2 or (values == values[:, :1]).all():
        return found | {"reason": _too_few(n, "case") or "not computable: all arms are equal on every case"}
    result = stats.friedmanchisquare(*values.T)
    return found | {"statistic": float(result.statistic), "p": float(result.pvalue)}


def sign_test(values: Floats) -> dict[str, Any]:
    """Over (data sets, 2 arms), exact, ties left out: what Friedman is for three arms or more."""
    n, arms = values.shape
    found: dict[str, Any] = {"statistic": None, "p": None, "n": n, "reason": None}
    found |= {"method": "exact sign test, two-sided, ties left out"}
    if arms != 2:
        return found | {"reason": f"not computable: {arms} arms, and it is for two"}
    signs = np.sign(np.round(values[:, 0] - values[:, 1], DIGITS))
    above, below = int((signs > 0).sum()), int((signs < 0).sum())
    if above + below == 0:
        return found | {"reason": "not computable: both arms are equal on every data set"}
    return found | {"statistic": min(above, below), "p": float(stats.binomtest(above, above + below).pvalue)}


def paired_t(differences: Floats) -> dict[str, Any]:
    """Of the mean differences of the folds, which are its sample."""
    return _t(differences, 1 / len(differences) if len(differences) else 0.0, "paired t over the folds' means")


def nadeau_bengio(differences: Floats, k: int) -> dict[str, Any]:
    """The corrected resampled t: training sets overlap, so the variance is multiplied by 1/n + 1/(k - 1), not by 1/n.

    differences: of each of the n trained folds (runs times folds); k: folds of one cross-validation, whose test sets are
    1/(k - 1) of the training sets. Nadeau & Bengio 2003; Bouckaert & Frank 2004.
    """
    n = len(differences)
    return _t(differences, 1 / n + 1 / (k - 1) if n and k > 1 else 0.0, "Nadeau-Bengio corrected t, 1/n + 1/(k-1)")


def _t(differences: Floats, factor: float, name: str) -> dict[str, Any]:
    """t = mean / sqrt(factor * variance), n - 1 degrees of freedom."""
    n = len(differences)
    found: dict[str, Any] = dict.fromkeys(("difference", "statistic", "df", "p", "p_holm", "low", "high"))
    found |= {"n": n, "method": f"{name}, two-sided, {CONFIDENCE:.0%} interval", "reason": None}
    if n < 2 or factor == 0:
        return found | {"reason": _too_few(n, "fold") or "not computable: one fold, and two are the least"}
    mean, spread = float(differences.mean()), float(differences.std(ddof=1))
    if spread <= 10.0**-DIGITS * max(1.0, abs(mean)):
        return found | {"difference": mean, "reason": "not computable: every fold has the same difference"}
    error = spread * factor**0.5
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
    p = float(2 * stats.t.sf(abs(mean / error), n - 1))
    return found | {
        "difference": mean, "statistic": mean / error, "df": n - 1, "p": p, "low": mean - half, "high": mean + half
    }  # fmt: skip


def holm(p: Floats) -> Floats:
    """(…, tests) -> the same shape, corrected along the last axis.

    Holm 1979, as statsmodels.stats.multitest.multipletests has it, which collects garbage at every call: a tenth of a second.
    """
    order = np.argsort(p, axis=-1)
    steps = np.take_along_axis(p, order, axis=-1) * np.arange(p.shape[-1], 0, -1)
    corrected = np.minimum(np.maximum.accumulate(steps, axis=-1), 1)
    return np.asarray(np.take_along_axis(corrected, np.argsort(order, axis=-1), axis=-1))


def add_holm(tests: Sequence[dict[str, Any]]) -> None:
    """Writes `p_holm` into each of a family's tests; those that could not be computed are no part of the family."""
    known = [test for test in tests if test["p"] is not None]
    for test, p in zip(known, holm(np.array([test["p"] for test in known])), strict=True):
        test["p_holm"] = float(p)


def _too_few(n: int, what: str) -> str | None:
    return f"not computable: {n} {what}{'s' * (n != 1)}, and two are the least" if n < 2 else None
