"""Tests of the difference between arms, each with its numbers, its n and its method's name.

A number that cannot be computed is None, and `reason` says why: nothing here raises, warns or returns NaN.
"""

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from scipy import stats

from .bootstrap import CONFIDENCE, Floats

DIGITS = 12
"""Differences that are equal to so many decimals are ties: averaging over runs and labels leaves rounding errors."""


@dataclass(frozen=True, kw_only=True)
class Wilcoxon:
    """Wilcoxon's test over cases. rank_biserial: 1 where all differences are above zero. n_zero: differences of zero."""

    statistic: float | None = None
    p: float | None = None
    p_holm: float | None = None
    rank_biserial: float | None = None
    n: int
    n_zero: int
    method: str = "Wilcoxon signed-rank, two-sided, zeros by Pratt"
    reason: str | None = None

    @classmethod
    def of(cls, difference: Floats) -> "Wilcoxon":
        """Signed-rank test of (cases,) with Pratt's zeros, and the matched-pairs rank-biserial correlation.

        Kerby 2014: the share of the ranks' sum in favour less the share against; zeros are ranked and then left out.
        """
        difference = np.round(difference, DIGITS)
        n, zeros = len(difference), int((difference == 0).sum())
        if n < 2 or n == zeros:
            reason = _too_few(n, "case") or "not computable: every difference is zero"
            return cls(n=n, n_zero=zeros, reason=reason)
        statistic, p = _signed_rank(difference)
        ranks = stats.rankdata(np.abs(difference))
        above, below = ranks[difference > 0].sum(), ranks[difference < 0].sum()
        effect = float((above - below) / (above + below))
        return cls(statistic=statistic, p=p, rank_biserial=effect, n=n, n_zero=zeros)


@dataclass(frozen=True, kw_only=True)
class Friedman:
    """Friedman's test over all arms. arms: how many."""

    statistic: float | None = None
    p: float | None = None
    n: int
    arms: int
    method: str = "Friedman chi-square"
    reason: str | None = None

    @classmethod
    def of(cls, values: Floats) -> "Friedman":
        """Tests whether any arm differs, over (cases, arms), three arms or more."""
        n, arms = values.shape
        values = np.round(values, DIGITS)
        reason = None
        if arms < 3:
            reason = "not computable: 2 arms, but at least 3 are needed"
        elif n < 2 or (values == values[:, :1]).all():
            reason = _too_few(n, "case") or "not computable: all arms are equal on every case"
        if reason:
            return cls(n=n, arms=arms, reason=reason)
        result = stats.friedmanchisquare(*values.T)
        return cls(statistic=float(result.statistic), p=float(result.pvalue), n=n, arms=arms)


@dataclass(frozen=True, kw_only=True)
class FoldTest:
    """A t test over folds. low, high: the interval of `difference`, in the metric's unit."""

    difference: float | None = None
    statistic: float | None = None
    df: int | None = None
    p: float | None = None
    p_holm: float | None = None
    low: float | None = None
    high: float | None = None
    n: int
    method: str
    reason: str | None = None

    @classmethod
    def paired(cls, differences: Floats, reason: str | None = None) -> "FoldTest":
        """Tests the mean differences of the folds, which are the sample. reason: why there is no test, if there is none."""
        factor = 1 / len(differences) if len(differences) else 0.0
        return cls._of(differences, factor, "paired t over the folds' means", reason)

    @classmethod
    def nadeau_bengio(cls, differences: Floats, k: int, reason: str | None = None) -> "FoldTest":
        """The corrected resampled t: training sets overlap, so the variance is multiplied by 1/n + 1/(k - 1), not by 1/n.

        differences: of each of the n trained folds (runs times folds). k: folds of one cross-validation, whose test sets are
        1/(k - 1) of the training sets. reason: as in `paired`. Nadeau & Bengio 2003; Bouckaert & Frank 2004.
        """
        factor = 1 / len(differences) + 1 / (k - 1) if len(differences) and k > 1 else 0.0
        return cls._of(differences, factor, "Nadeau-Bengio corrected t, 1/n + 1/(k-1)", reason)

    @classmethod
    def _of(cls, differences: Floats, factor: float, name: str, reason: str | None) -> "FoldTest":
        """t = mean / sqrt(factor * variance), n - 1 degrees of freedom."""
        n = len(differences)
        found = cls(n=n, method=f"{name}, two-sided, {CONFIDENCE:.0%} interval")
        if reason or n < 2 or factor == 0:
            why = reason or _too_few(n, "fold") or "not computable: 1 fold, but at least 2 are needed"
            return replace(found, reason=why)
        mean, spread = float(differences.mean()), float(differences.std(ddof=1))
        if spread <= 10.0**-DIGITS * max(1.0, abs(mean)):
            return replace(found, difference=mean, reason="not computable: every fold has the same difference")
        error = spread * factor**0.5
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
        p = float(2 * stats.t.sf(abs(mean / error), n - 1))
        low, high = mean - half, mean + half
        return replace(found, difference=mean, statistic=mean / error, df=n - 1, p=p, low=low, high=high)


def _signed_rank(difference: Floats) -> tuple[float, float]:
    """The statistic and p as scipy has them. For ties among 13 or fewer, scipy loops over all signs; here they are a matrix."""
    n, sizes = len(difference), np.abs(difference)
    if n > 13 or (len(np.unique(sizes)) == n and sizes.all()):
        result = stats.wilcoxon(difference, zero_method="pratt")
        return float(result.statistic), float(result.pvalue)
    ranks = stats.rankdata(sizes) * (sizes > 0)
    above, total = ranks[difference > 0].sum(), ranks.sum()
    sums = np.array(list(product((0, 1), repeat=n))) @ ranks
    p = 2 * min((sums >= above - 1e-9).mean(), (sums <= above + 1e-9).mean())
    return float(min(above, total - above)), float(min(p, 1.0))


def holm(p: Floats) -> Floats:
    """Corrects p values (…, tests) along the last axis, after Holm 1979.

    statsmodels.stats.multitest.multipletests gives the same, but collects garbage at every call: a tenth of a second.
    """
    order = np.argsort(p, axis=-1)
    steps = np.take_along_axis(p, order, axis=-1) * np.arange(p.shape[-1], 0, -1)
    corrected = np.minimum(np.maximum.accumulate(steps, axis=-1), 1)
    return np.asarray(np.take_along_axis(corrected, np.argsort(order, axis=-1), axis=-1))


def p_text(p: float | None) -> str:
    """Returns `p = 0.012`."""
    if p is None:
        return "p not computable"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _too_few(n: int, what: str) -> str | None:
    return f"not computable: {n} {what}{'s' * (n != 1)}, but at least 2 are needed" if n < 2 else None
