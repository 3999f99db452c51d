"""The verdict on a pair of arms: two layers of evidence, and the decision of both in numbers and words.

First layer: do these trained models differ? Here cases are the sample. Second layer: is one method better? Here folds, and
trainings within folds, are the sample.
"""

from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .bootstrap import CONFIDENCE, Floats, Interval, hierarchical
from .case_table import Cube
from .paired_tests import FoldTest, Friedman, Wilcoxon, p_text

ALPHA = 0.05
SEEDS = 3
"""Trainings per arm and fold that a headline claim needs."""


@dataclass(frozen=True, kw_only=True)
class _FoldGap:
    """The mean difference in one fold over n cases; run: None for the mean over runs."""

    fold: str
    run: str | None
    difference: float
    n: int


@dataclass(frozen=True, kw_only=True)
class _HierarchicalInterval:
    """The interval of the difference by a bootstrap of folds, cases and runs."""

    low: float | None = None
    high: float | None = None
    method: str
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class _MethodLayer:
    """The second layer of one pair. n_runs: trainings per fold of the arm that has fewer. reason: why it claims nothing.

    decides: "paired_t" or "nadeau_bengio", the test that the verdict uses.
    """

    n_folds: int
    n_runs: int
    folds: list[_FoldGap]
    paired_t: FoldTest
    nadeau_bengio: FoldTest
    hierarchical: _HierarchicalInterval
    decides: str
    reason: str | None = None

    @property
    def test(self) -> FoldTest:
        """The test that decides."""
        return self.paired_t if self.decides == "paired_t" else self.nadeau_bengio

    @property
    def hindrance(self) -> str | None:
        """The reason why the deciding test has no p, None if it has one."""
        reason = self.reason or self.test.reason
        return reason and reason.partition(": ")[2]

    @property
    def evidence(self) -> str:
        """`fold-level t p = 0.012 after Holm, stricter Nadeau–Bengio p = 0.041, 5 folds, 3 trainings per fold`."""
        strict, n = self.nadeau_bengio, self.n_runs
        decided = self.test is strict
        beside = "" if decided or strict.p is None else f", stricter Nadeau–Bengio {_after_holm(strict)}"
        name = "Nadeau–Bengio t" if decided else "fold-level t"
        trainings = f"{n} training{'s' * (n != 1)} per fold"
        return f"{name} {_after_holm(self.test)}{beside}, {self.n_folds} folds, {trainings}"


def _after_holm(test: FoldTest) -> str:
    return p_text(test.p_holm) + (" after Holm" if test.p_holm != test.p else "")


class FoldStatistics:
    """Computes the second layer of every pair of arms, for one metric and label.

    values: arm -> (runs, kept cases). folds: arm -> run -> (kept cases,), the fold of each case. split: arm -> the same of
    all its runs; None where they used different splits (repeated cross-validation). names: arm -> names of its folds.
    """

    def __init__(self, cube: Cube, values: dict[str, Floats], keep: NDArray[np.bool_], num: int, seed: int) -> None:
        self.values, self.num, self.crossed, self.runs = values, num, cube.crossed, cube.runs
        held = {arm: folds[:, keep] for arm, folds in cube.folds.items()}
        self.folds = {arm: dict(zip(cube.runs[arm], folds, strict=True)) for arm, folds in held.items()}
        self.split = {arm: folds[0] if (folds == folds[:1]).all() else None for arm, folds in held.items()}
        self.names = {arm: sorted({str(name) for name in folds.ravel()}) for arm, folds in held.items()}
        self.resampled = self._resample(cube.arms, np.random.default_rng(seed))

    def pair(self, a: str, b: str) -> _MethodLayer:
        """Returns the folds' differences a - b, their paired t, the stricter Nadeau-Bengio and the hierarchical bootstrap.

        Nadeau-Bengio tests every trained fold where the arms' runs have the same names, otherwise the folds' means.
        """
        reason, one_split = self._hindrance(a, b), self.split[a] is not None
        same_runs = self.folds[a].keys() == self.folds[b].keys()
        own = [] if reason else self._gaps(a, b, each_run=not one_split)
        trained = [] if reason else self._gaps(a, b, each_run=same_runs)
        several = None if one_split else "not computable: the runs used different splits; Nadeau-Bengio decides"
        return _MethodLayer(
            n_folds=0 if reason else len(self.names[a]),
            n_runs=min(len(self.runs[a]), len(self.runs[b])),
            folds=own,
            paired_t=FoldTest.paired(_differences(own if one_split else []), reason or several),
            nadeau_bengio=FoldTest.nadeau_bengio(_differences(trained), len(self.names[a]), reason),
            hierarchical=self._hierarchical(a, b, reason),
            decides="paired_t" if reason or one_split else "nadeau_bengio",
            reason=reason,
        )

    def _hindrance(self, a: str, b: str) -> str | None:
        """The reason why nothing can be said about a pair, None if something can."""
        if self.crossed:
            why = "a case was scored in several folds, so the folds are not independent samples of cases"
        elif not self.names[a]:
            why = "no case"
        elif not self._same_folds(a, b):
            why = "the folds of the two arms hold different cases"
        elif len(self.names[a]) < 2:
            why = "with one fold, training noise cannot be seen (at least two folds are needed; five are usual)"
        else:
            return None
        return f"cannot be claimed: {why}"

    def _same_folds(self, a: str, b: str) -> bool:
        """True if fold-level differences between two arms can be taken."""
        one, other = self.split[a], self.split[b]
        if one is not None and other is not None:
            return bool((one == other).all())
        return self.folds[a].keys() == self.folds[b].keys() and all(
            (fold == self.folds[b][run]).all() for run, fold in self.folds[a].items()
        )

    def _gaps(self, a: str, b: str, *, each_run: bool) -> list[_FoldGap]:
        """The mean difference in each fold: of each run, where the arms' runs have the same names, or of the mean over runs."""
        parts: list[tuple[str | None, Any, Floats]]
        if each_run:
            of_b = dict(zip(self.runs[b], self.values[b], strict=True))
            runs = zip(self.folds[a].items(), self.values[a], strict=True)
            parts = [(run, fold, values - of_b[run]) for (run, fold), values in runs]
        else:
            parts = [(None, self.split[a], self.values[a].mean(axis=0) - self.values[b].mean(axis=0))]
        return [
            _FoldGap(fold=name, run=run, difference=float(gap[fold == name].mean()), n=int((fold == name).sum()))
            for run, fold, gap in parts
            for name in sorted(set(fold.tolist()))
        ]

    def _resample(self, arms: list[str], rng: np.random.Generator) -> dict[tuple[str, str], Floats]:
        """(a, b) -> resampled differences. Arms with the same split are resampled together."""
        groups: list[list[str]] = []
        for arm in arms:
            like = [group for group in groups if self._same_folds(group[0], arm)]
            if like:
                like[0].append(arm)
            else:
                groups.append([arm])
        found: dict[tuple[str, str], Floats] = {}
        for group in groups:
            fold, names = self.split[group[0]], self.names[group[0]]
            if self.crossed or fold is None or len(names) < 2 or len(group) < 2:
                continue
            by_fold = [[self.values[arm][:, fold == name] for arm in group] for name in names]
            means = hierarchical(by_fold, self.num, rng)
            found |= {(group[i], group[j]): means[:, i] - means[:, j] for i, j in permutations(range(len(group)), 2)}
        return found

    def _hierarchical(self, a: str, b: str, reason: str | None) -> _HierarchicalInterval:
        method = f"percentile bootstrap of folds, cases, runs, {self.num} resamples, {CONFIDENCE:.0%}"
        if reason is None and (a, b) not in self.resampled:
            reason = "not computable: the runs used different splits"
        if reason is not None:
            return _HierarchicalInterval(method=method, reason=reason)
        low, high = np.quantile(self.resampled[a, b], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return _HierarchicalInterval(low=float(low), high=float(high), method=method)


def _differences(gaps: list[_FoldGap]) -> Floats:
    return np.array([gap.difference for gap in gaps])


@dataclass(frozen=True, kw_only=True)
class _Claim:
    """One layer's part of a verdict."""

    shown: bool
    text: str


@dataclass(frozen=True, kw_only=True)
class _Verdict:
    """level: better | ahead, too few seeds | models differ | not shown. better: the arm that is ahead, if any.

    cases, method: the first layer (these trained models) and the second (the methods).
    """

    level: str
    better: str | None
    cases: _Claim
    method: _Claim


@dataclass(frozen=True, kw_only=True)
class ArmPair:
    """The evidence on a pair and its verdict, for one metric and label.

    Every difference is a - b, over n cases, in the metric's unit. family: of Holm's correction, "against the baseline" (then
    b is the baseline) or "every pair".
    """

    a: str
    b: str
    family: str
    n: int
    difference: float
    interval: Interval
    wilcoxon: Wilcoxon
    method_layer: _MethodLayer
    verdict: _Verdict

    @classmethod
    def decided(
        cls,
        friedman: Friedman,
        lower_is_better: bool,
        *,
        a: str,
        b: str,
        interval: Interval,
        wilcoxon: Wilcoxon,
        method_layer: _MethodLayer,
        **rest: Any,
    ) -> "ArmPair":
        """Returns the pair with its verdict. friedman: over all arms, on the same cases. rest: family, n, difference."""
        layer, omnibus = method_layer, friedman.p if friedman.arms > 2 else 0.0
        evidence = (interval.low, interval.high, wilcoxon.rank_biserial, wilcoxon.p_holm, omnibus)
        cases = int(cases_differ(*evidence))
        method = int(methods_differ(cases, layer.test.difference, layer.test.p_holm))
        ahead, behind = (a, b) if (cases > 0) != lower_is_better else (b, a)
        level = "models differ" if cases else "not shown"
        if method:
            level = "better" if layer.n_runs >= SEEDS else "ahead, too few seeds"
        verdict = _Verdict(
            level=level,
            better=ahead if cases else None,
            cases=_Claim(shown=bool(cases), text=_first_layer(wilcoxon, interval, friedman, cases, ahead, behind)),
            method=_Claim(shown=level == "better", text=_second_layer(layer, level, ahead, behind)),
        )
        return cls(a=a, b=b, interval=interval, wilcoxon=wilcoxon, method_layer=layer, verdict=verdict, **rest)


def cases_differ(
    low: ArrayLike | None,
    high: ArrayLike | None,
    effect: ArrayLike | None,
    p_holm: ArrayLike | None,
    p_friedman: ArrayLike | None = 0.0,
) -> NDArray[np.int_]:
    """First layer: 1 or -1 where the trained models differ, the sign of the difference; 0 where that is not shown.

    The interval (low, high) of the mean and Wilcoxon after Holm, whose direction is that of `effect`, have to agree, and
    Friedman, with three arms or more, comes before them. NaN or None, for what could not be computed, shows nothing. Works
    on arrays, so that proofs/simulation.py decides as `analyse` does.
    """
    low, high, effect, p_holm, p_friedman = (np.asarray(x, float) for x in (low, high, effect, p_holm, p_friedman))
    shown = (p_holm < ALPHA) & (p_friedman < ALPHA)
    return np.where(shown & (low > 0) & (effect > 0), 1, np.where(shown & (high < 0) & (effect < 0), -1, 0))


def methods_differ(cases: ArrayLike, difference: ArrayLike | None, p_holm: ArrayLike | None) -> NDArray[np.int_]:
    """Second layer: the sign where the folds' test agrees with the first layer, otherwise 0; NaN or None shows nothing."""
    cases, difference, p_holm = np.asarray(cases, int), np.asarray(difference, float), np.asarray(p_holm, float)
    return np.where((p_holm < ALPHA) & (np.sign(difference) == cases), cases, 0)


def _first_layer(test: Wilcoxon, interval: Interval, friedman: Friedman, cases: int, ahead: str, behind: str) -> str:
    if cases:
        return f"these trained models differ: {ahead} scores better than {behind} ({p_text(test.p_holm)} after Holm)"
    if test.p_holm is None:
        return f"no difference can be claimed: {test.reason}"
    if friedman.arms > 2 and (friedman.p is None or friedman.p >= ALPHA):
        return f"not shown that these trained models differ (Friedman over all arms: {p_text(friedman.p)})"
    p = f"{p_text(test.p_holm)} after Holm"
    if test.p_holm < ALPHA:
        why = interval.reason or "the interval of the mean difference does not agree"
        return f"not shown that these trained models differ: Wilcoxon says so ({p}), but {why}"
    return f"not shown that these trained models differ ({p})"


def _second_layer(folds: _MethodLayer, level: str, ahead: str, behind: str) -> str:
    what = folds.evidence
    if level == "better":
        return f"{ahead} is better than {behind} as a method ({what})"
    if level == "ahead, too few seeds":
        return (
            f"{ahead} is ahead of {behind} and the folds agree ({what}); "
            f"that a method is better takes {SEEDS} trainings per fold, so it is not claimed"
        )
    if folds.hindrance or folds.test.p_holm is None:
        return f"it cannot be claimed that one method is better: {folds.hindrance}"
    if level == "models differ":
        return f"not shown that one method is better: the folds do not agree ({what}), so it may be training noise"
    if folds.test.p_holm < ALPHA:
        return f"not shown that one method is better: the folds say so ({what}), but the cases do not"
    return f"not shown that one method is better ({what})"
