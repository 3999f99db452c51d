"""The verdict on a pair of arms: the decision of both layers, in numbers and words."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .method_layer import MethodLayer
from .paired_tests import Friedman, Interval, Wilcoxon, p_text

ALPHA = 0.05
SEEDS = 3
"""Trainings per arm and fold that a headline claim needs."""


@dataclass(frozen=True, kw_only=True)
class _Claim:
    """One layer's part of a verdict."""

    shown: bool
    text: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """level: better | ahead, too few seeds | models differ | not shown. better: the arm that is ahead, if any.

    cases, method: the first layer (these trained models) and the second (the methods).
    """

    level: str
    better: str | None
    cases: _Claim
    method: _Claim

    @classmethod
    def of(cls, pair: "Difference", friedman: Friedman, lower_is_better: bool) -> "Verdict":
        """Returns the verdict on one pair."""
        omnibus = friedman.p if friedman.arms > 2 else 0.0
        spread, rank_test, test = pair.interval, pair.wilcoxon, pair.method_layer.test
        evidence = (spread.low, spread.high, rank_test.rank_biserial, rank_test.p_holm, omnibus)
        cases = int(cases_differ(*map(_number, evidence)))
        method = int(methods_differ(cases, _number(test.difference), _number(test.p_holm)))
        ahead, behind = (pair.a, pair.b) if (cases > 0) != lower_is_better else (pair.b, pair.a)
        level = "models differ" if cases else "not shown"
        if method:
            level = "better" if pair.method_layer.n_runs >= SEEDS else "ahead, too few seeds"
        return cls(
            level=level,
            better=ahead if cases else None,
            cases=_Claim(shown=bool(cases), text=_first_layer(pair, friedman, cases, ahead, behind)),
            method=_Claim(shown=level == "better", text=_second_layer(pair.method_layer, level, ahead, behind)),
        )


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The evidence on a pair, one metric and label: every difference is a - b, over n cases, in the metric's unit.

    family: "against the baseline" (then b is the baseline) or "every pair", the family of Holm's correction.
    """

    a: str
    b: str
    family: str
    n: int
    difference: float
    interval: Interval
    wilcoxon: Wilcoxon
    method_layer: MethodLayer


@dataclass(frozen=True, kw_only=True)
class ArmPair(Difference):
    """The evidence on a pair with its verdict."""

    verdict: Verdict


def cases_differ(
    low: ArrayLike, high: ArrayLike, effect: ArrayLike, p_holm: ArrayLike, p_friedman: ArrayLike = 0.0
) -> NDArray[np.int_]:
    """First layer: 1 or -1 where the trained models differ, the sign of the difference; 0 where that is not shown.

    The interval (low, high) of the mean and Wilcoxon after Holm, whose direction is that of `effect`, have to agree, and
    Friedman, with three arms or more, comes before them. NaN, for what could not be computed, shows nothing. Works on
    arrays, so that proofs/simulation.py decides as `analyse` does.
    """
    low, high, effect = (np.asarray(value, float) for value in (low, high, effect))
    shown = (np.asarray(p_holm, float) < ALPHA) & (np.asarray(p_friedman, float) < ALPHA)
    return np.where(shown & (low > 0) & (effect > 0), 1, np.where(shown & (high < 0) & (effect < 0), -1, 0))


def methods_differ(cases: ArrayLike, difference: ArrayLike, p_holm: ArrayLike) -> NDArray[np.int_]:
    """Second layer: the sign where the folds' test agrees with the first layer, otherwise 0."""
    cases = np.asarray(cases, int)
    agrees = (np.asarray(p_holm, float) < ALPHA) & (np.sign(difference) == cases)
    return np.where(agrees, cases, 0)


def _first_layer(pair: Difference, friedman: Friedman, cases: int, ahead: str, behind: str) -> str:
    test = pair.wilcoxon
    if cases:
        return f"these trained models differ: {ahead} scores better than {behind} ({p_text(test.p_holm)} after Holm)"
    if test.p_holm is None:
        return f"no difference can be claimed: {test.reason}"
    if friedman.arms > 2 and (friedman.p is None or friedman.p >= ALPHA):
        return f"not shown that these trained models differ (Friedman over all arms: {p_text(friedman.p)})"
    p = f"{p_text(test.p_holm)} after Holm"
    if test.p_holm < ALPHA:
        why = pair.interval.reason or "the interval of the mean difference does not agree"
        return f"not shown that these trained models differ: Wilcoxon says so ({p}), but {why}"
    return f"not shown that these trained models differ ({p})"


def _second_layer(folds: MethodLayer, level: str, ahead: str, behind: str) -> str:
    test, what = folds.test, folds.evidence
    if level == "better":
        return f"{ahead} is better than {behind} as a method ({what})"
    if level == "ahead, too few seeds":
        return (
            f"{ahead} is ahead of {behind} and the folds agree ({what}); "
            f"that a method is better takes {SEEDS} trainings per fold, so it is not claimed"
        )
    if folds.reason or test.p_holm is None:
        reason = str(folds.reason or test.reason)
        return f"that one method is better {reason if reason.startswith('cannot') else f'cannot be claimed ({reason})'}"
    if level == "models differ":
        return f"not shown that one method is better: the folds do not agree ({what}), so it may be training noise"
    if test.p_holm < ALPHA:
        return f"not shown that one method is better: the folds say so ({what}), but the cases do not"
    return f"not shown that one method is better ({what})"


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
