"""The verdict on a pair of arms: two layers of evidence, and the decision of both in numbers and words.

First layer: do these trained models differ? Here cases are the sample. Second layer: is one method better? Here folds, and
trainings within folds, are the sample.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .bootstrap import CONFIDENCE, Bootstrap, Floats, Interval
from .case_table import Cube
from .paired_tests import FoldTest, Friedman, Wilcoxon, holm, p_text

ALPHA = 0.05
SEEDS = 3
"""Trainings per arm and fold that a headline claim needs."""
_Test = TypeVar("_Test", Wilcoxon, FoldTest)


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


class PairStatistics:
    """Computes both layers of every pair of arms, for one metric and label.

    values: arm -> (runs, kept cases). folds: arm -> run -> the fold of each kept case. split: arm -> the same of all its runs;
    None where they used different splits (repeated cross-validation). names: arm -> names of its folds.
    """

    def __init__(self, cube: Cube, values: dict[str, Floats], keep: NDArray[np.bool_], num: int, seed: int) -> None:
        self.cube, self.values, self.num, self.seed = cube, values, num, seed
        held = {arm: [tuple(fold) for fold in folds[:, keep].tolist()] for arm, folds in cube.folds.items()}
        self.folds = {arm: dict(zip(cube.runs[arm], folds, strict=True)) for arm, folds in held.items()}
        self.split = {arm: folds[0] if len(set(folds)) == 1 else None for arm, folds in held.items()}
        self.names = {arm: sorted({name for fold in folds for name in fold}) for arm, folds in held.items()}
        self.resampled = self._resample()

    def pairs(self, baseline: str | None, friedman: Friedman, *, lower_is_better: bool) -> "list[ArmPair]":
        """Returns every pair with its verdict; those with the baseline come as (arm, baseline).

        friedman: over all arms, on the same cases.
        """
        names = list(combinations(sorted(self.cube.arms, key=lambda arm: arm == baseline), 2))
        families = ["against the baseline" if baseline in pair else "every pair" for pair in names]
        by_case = {arm: scores.mean(axis=0) for arm, scores in self.values.items()}
        gaps = np.stack([by_case[a] - by_case[b] for a, b in names], axis=1)
        intervals = Bootstrap(self.num, self.seed).intervals(gaps)
        layers = [self._method_layer(a, b) for a, b in names]
        wilcoxon = _with_holm([Wilcoxon.of(gap) for gap in gaps.T], families)
        paired_t = _with_holm([layer.paired_t for layer in layers], families)
        strict = _with_holm([layer.nadeau_bengio for layer in layers], families)
        pairs = []
        for i, (a, b) in enumerate(names):
            layer = replace(layers[i], paired_t=paired_t[i], nadeau_bengio=strict[i])
            arms = (b, a) if lower_is_better else (a, b)
            pairs.append(
                ArmPair(
                    a=a,
                    b=b,
                    family=families[i],
                    n=len(gaps),
                    difference=float(gaps[:, i].mean()),
                    interval=intervals[i],
                    wilcoxon=wilcoxon[i],
                    method_layer=layer,
                    verdict=_Verdict.of(wilcoxon[i], intervals[i], layer, friedman, arms),
                )
            )
        return pairs

    def _method_layer(self, a: str, b: str) -> _MethodLayer:
        """The folds' differences a - b, their paired t, the stricter Nadeau-Bengio and the hierarchical bootstrap.

        Nadeau-Bengio tests every trained fold where the arms' runs have the same names, otherwise the folds' means.
        """
        reason, one_split = self._hindrance(a, b), self.split[a] is not None
        same_runs = self.folds[a].keys() == self.folds[b].keys()
        own = [] if reason else self._gaps(a, b, each_run=not one_split)
        trained = [] if reason else self._gaps(a, b, each_run=same_runs)
        several = None if one_split else "not computable: the runs used different splits; Nadeau-Bengio decides"
        return _MethodLayer(
            n_folds=0 if reason else len(self.names[a]),
            n_runs=min(len(self.cube.runs[a]), len(self.cube.runs[b])),
            folds=own,
            paired_t=FoldTest.paired(np.array([gap.difference for gap in own if one_split]), reason or several),
            nadeau_bengio=FoldTest.nadeau_bengio(
                np.array([gap.difference for gap in trained]), len(self.names[a]), reason
            ),
            hierarchical=self._hierarchical(a, b, reason),
            decides="paired_t" if reason or one_split else "nadeau_bengio",
            reason=reason,
        )

    def _hindrance(self, a: str, b: str) -> str | None:
        """The reason why nothing can be said about a pair, None if something can."""
        if self.cube.crossed:
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
        if self.split[a] is not None and self.split[b] is not None:
            return self.split[a] == self.split[b]
        return self.folds[a] == self.folds[b]

    def _gaps(self, a: str, b: str, *, each_run: bool) -> list[_FoldGap]:
        """The mean difference in each fold: of each run, where the arms' runs have the same names, or of the mean over runs."""
        parts: list[tuple[str | None, Any, Floats]]
        if each_run:
            of_b = dict(zip(self.cube.runs[b], self.values[b], strict=True))
            runs = zip(self.folds[a].items(), self.values[a], strict=True)
            parts = [(run, fold, values - of_b[run]) for (run, fold), values in runs]
        else:
            parts = [(None, self.split[a], self.values[a].mean(axis=0) - self.values[b].mean(axis=0))]
        gaps = []
        for run, fold, gap in parts:
            for name in sorted(set(fold)):
                here = np.array(fold) == name
                gaps.append(_FoldGap(fold=name, run=run, difference=float(gap[here].mean()), n=int(here.sum())))
        return gaps

    def _resample(self) -> dict[tuple[str, str], Floats]:
        """(a, b) -> resampled differences. Arms with the same split are resampled together."""
        bootstrap = Bootstrap(self.num, self.seed)
        groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for arm, fold in self.split.items():
            if fold is not None and len(self.names[arm]) > 1 and not self.cube.crossed:
                groups[fold].append(arm)
        found: dict[tuple[str, str], Floats] = {}
        for fold, group in groups.items():
            if len(group) > 1:
                held = [np.array(fold) == name for name in self.names[group[0]]]
                means = bootstrap.hierarchical([[self.values[arm][:, here] for arm in group] for here in held])
                found |= {
                    (group[i], group[j]): means[:, i] - means[:, j] for i, j in permutations(range(len(group)), 2)
                }
        return found

    def _hierarchical(self, a: str, b: str, reason: str | None) -> _HierarchicalInterval:
        method = f"percentile bootstrap of folds, cases, runs, {self.num} resamples, {CONFIDENCE:.0%}"
        if reason is None and (a, b) not in self.resampled:
            reason = "not computable: the runs used different splits"
        if reason is not None:
            return _HierarchicalInterval(method=method, reason=reason)
        low, high = np.quantile(self.resampled[a, b], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return _HierarchicalInterval(low=float(low), high=float(high), method=method)


def _with_holm(tests: Sequence[_Test], families: Sequence[str]) -> list[_Test]:
    """The tests with `p_holm` within each family; tests that could not be computed are no part of theirs."""
    found = list(tests)
    for family in set(families):
        known = [i for i, test in enumerate(tests) if families[i] == family and test.p is not None]
        for i, p in zip(known, holm(np.array([tests[i].p for i in known], float)).tolist(), strict=True):
            found[i] = replace(tests[i], p_holm=p)
    return found


@dataclass(frozen=True, kw_only=True)
class _Claim:
    """One layer's part of a verdict."""

    shown: bool
    text: str


@dataclass(frozen=True, kw_only=True)
class _Verdict:
    """The verdict on a pair. level: better | ahead, too few seeds | models differ | not shown.

    better: the arm that is ahead, if any. cases, method: the first layer (these trained models) and the second (the methods).
    """

    level: str
    better: str | None
    cases: _Claim
    method: _Claim

    @classmethod
    def of(
        cls, test: Wilcoxon, interval: Interval, layer: _MethodLayer, friedman: Friedman, arms: tuple[str, str]
    ) -> "_Verdict":
        """Decides from all evidence. arms: the one that a difference above zero speaks for, and the other."""
        omnibus = friedman.p if friedman.arms > 2 else 0.0
        cases = int(cases_differ(interval.low, interval.high, test.rank_biserial, test.p_holm, omnibus))
        method = int(methods_differ(cases, layer.test.difference, layer.test.p_holm))
        ahead, behind = arms if cases > 0 else arms[::-1]
        level = "models differ" if cases else "not shown"
        if method:
            level = "better" if layer.n_runs >= SEEDS else "ahead, too few seeds"
        return cls(
            level=level,
            better=ahead if cases else None,
            cases=_Claim(shown=bool(cases), text=_first_layer(test, interval, friedman, cases, ahead, behind)),
            method=_Claim(shown=level == "better", text=_second_layer(layer, level, ahead, behind)),
        )


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
