"""The statistics of a comparison in two layers: do these trained models differ, and is one method better?

`analyse` makes the Comparison whose `to_dict` docs/statistics.md describes and stats.json holds.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from nnvit.compare.scores.metrics import METRICS, Metric, metric_of
from nnvit.errors import CompareError

from .bootstrap import CONFIDENCE, Floats, Interval, resampled_means
from .case_table import Cube
from .paired_tests import FoldTest, Friedman, Wilcoxon, holm
from .ranks import AcrossDatasets, Ranks
from .verdict import ArmPair, FoldStatistics

SCHEMA = 1
MEAN = "mean"
"""The label that stands for the mean over a case's labels."""
RESAMPLES = 9999
FEW_CASES = 100
"""With fewer cases, BCa intervals of skewed scores may cover less than 93%."""
MAX_PAIRS = 15
"""Pairs that a figure shows where there is no baseline."""
FAMILIES = ("against the baseline", "every pair")
_Test = TypeVar("_Test", Wilcoxon, FoldTest)


@dataclass(frozen=True, kw_only=True)
class _Mean:
    """A mean over n cases with its SD and interval, in the metric's unit."""

    mean: float | None
    sd: float | None
    n: int
    interval: Interval

    @property
    def bounds(self) -> tuple[float, float, float]:
        """(mean, low, high); without an interval, the mean three times."""
        mean = float("nan") if self.mean is None else self.mean
        low, high = self.interval.low, self.interval.high
        return (mean, mean, mean) if low is None or high is None else (mean, low, high)


@dataclass(frozen=True, kw_only=True)
class _ArmScore(_Mean):
    """The mean of one arm. runs: run -> mean. sd_of_runs: the SD of these."""

    runs: dict[str, float]
    sd_of_runs: float | None


@dataclass(frozen=True, kw_only=True)
class _ObserverScore(_Mean):
    """The agreement of a second observer with the reference. arms_on_same_cases: arm -> mean on the observer's cases."""

    arms_on_same_cases: dict[str, float | None]
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Block:
    """Everything about one metric of one label on one data set.

    n, left_out: cases that count, and those without a value in some arm. pairs: empty and ranks: None where n is 0. notes:
    sentences that a reader has to know. human: None without a second observer.
    """

    n: int
    left_out: int
    lower_is_better: bool
    arms: dict[str, _ArmScore]
    friedman: Friedman
    pairs: list[ArmPair]
    ranks: Ranks | None
    notes: list[str]
    human: _ObserverScore | None


@dataclass(frozen=True, kw_only=True)
class _DatasetResult:
    """One data set. runs: arm -> names of its trainings. folds: arm -> names. metrics: metric -> label -> block."""

    n_cases: int
    labels: list[str]
    runs: dict[str, list[str]]
    folds: dict[str, list[str]]
    metrics: dict[str, dict[str, Block]]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The whole comparison. metric: the one that the headline is about. settings: confidence, resamples, rng (a seed).

    across_datasets: metric -> ranks over data sets; None for one data set. spacing_unit: of the masks, "mm" or "px".
    """

    schema: int = SCHEMA
    arms: list[str]
    baseline: str | None
    metric: str
    lower_is_better: bool
    settings: dict[str, float | int]
    datasets: dict[str, _DatasetResult]
    across_datasets: dict[str, AcrossDatasets] | None
    spacing_unit: str = "mm"

    @property
    def main(self) -> Metric:
        """The metric that the headline is about."""
        return metric_of(self.metric)

    @property
    def metrics(self) -> list[Metric]:
        """The metrics of any data set, the headline's first."""
        keys = dict.fromkeys(key for results in self.datasets.values() for key in results.metrics)
        return [metric_of(key) for key in sorted(keys, key=lambda key: key != self.metric)]

    def main_block(self, dataset: str) -> Block:
        """Returns the block of the headline's metric, mean over labels."""
        return self.datasets[dataset].metrics[self.metric][MEAN]

    def shown_pairs(self, block: Block) -> list[ArmPair]:
        """Returns the pairs with the baseline, or without one all pairs, the largest differences first."""
        if self.baseline:
            return [pair for pair in block.pairs if self.baseline in (pair.a, pair.b)]
        return sorted(block.pairs, key=lambda pair: -abs(pair.difference))[:MAX_PAIRS]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for stats.json, without NaN."""
        return {key: value for key, value in asdict(self).items() if key != "spacing_unit"}


def analyse(
    cases: pd.DataFrame,
    baseline: str | None = None,
    metric: str = "dice",
    human: pd.DataFrame | None = None,
    rng: int = 0,
    num_bootstrap: int = RESAMPLES,
    spacing_unit: str = "mm",
) -> Comparison:
    """Computes all statistics of a table of cases (one row per arm, run, fold, case and label).

    baseline: the arm that the others are compared with. metric: the column that the headline is about. human: rows of a
    second observer, read as another arm on the same references. rng: a seed; every block starts from it, so that no
    number depends on what else was computed. spacing_unit: of the masks, "mm" or "px". Raises CompareError where the
    arms' cases differ.
    """
    metrics = _metrics(cases, metric)
    tables = Cube.of_table(cases, [each.key for each in metrics])
    arms = tables[0].arms
    if baseline is not None and baseline not in arms:
        raise CompareError(f"The baseline '{baseline}' is none of the arms {arms}.")

    def block(cube: Cube, metric: Metric, label: str) -> Block:
        observer = None if human is None else human[human["dataset"].astype(str) == cube.dataset]
        return _BlockStatistics(cube, metric, label, num_bootstrap, rng).block(baseline, observer)

    datasets = {
        cube.dataset: _DatasetResult(
            n_cases=len(cube.cases),
            labels=cube.labels,
            runs=cube.runs,
            folds={arm: sorted({str(name) for name in folds.ravel()}) for arm, folds in cube.folds.items()},
            metrics={each.key: {label: block(cube, each, label) for label in [MEAN, *cube.labels]} for each in metrics},
        )
        for cube in tables
    }
    return Comparison(
        arms=arms,
        baseline=baseline,
        metric=metric,
        lower_is_better=metric_of(metric).lower_is_better,
        settings={"confidence": CONFIDENCE, "resamples": num_bootstrap, "rng": rng},
        datasets=datasets,
        across_datasets=_across(tables, metrics) if len(tables) > 1 else None,
        spacing_unit=spacing_unit,
    )


def _metrics(cases: pd.DataFrame, chosen: str) -> list[Metric]:
    """The metrics of the table that have a value, and the chosen one."""
    known = [metric for metric in METRICS if metric.key in cases.columns]
    keys = [metric.key for metric in known]
    if chosen not in keys:
        raise CompareError(f"The table of cases has no metric '{chosen}'; it has {keys}.")
    return [each for each in known if each.key == chosen or np.isfinite(cases[each.key].astype(float)).any()]


class _BlockStatistics:
    """The scores of one metric and label on one data set, and their statistics by `num` resamples.

    seed: every interval starts from it, so that no number depends on what else was computed.
    """

    def __init__(self, cube: Cube, metric: Metric, label: str, num: int, seed: int) -> None:
        self.cube, self.metric, self.label, self.num, self.seed = cube, metric, label, num, seed
        self.values, self.keep = cube.block(metric.key, label)  # arm -> (runs, kept cases); which cases were kept
        self.by_case = np.stack([self.values[arm].mean(axis=0) for arm in cube.arms], axis=1)

    def block(self, baseline: str | None, human: pd.DataFrame | None) -> Block:
        """Returns all of them. human: the second observer's rows on this data set."""
        n, less, arms = len(self.by_case), self.metric.lower_is_better, self.cube.arms
        omnibus = Friedman.of(self.by_case)
        ranks, notes = None, []
        if n:
            resampled = resampled_means(self.by_case, self.num, np.random.default_rng(self.seed))
            ranks = Ranks.of(self.by_case.mean(axis=0), resampled, arms, less)
        if 0 < n < FEW_CASES:  # docs/statistics.md has the simulated coverage
            notes = [f"{n} case{'s' * (n != 1)}: BCa intervals of fewer than {FEW_CASES} cases are too narrow"]
        return Block(
            n=n,
            left_out=len(self.cube.cases) - n,
            lower_is_better=less,
            arms={arm: self._arm(arm, mean) for arm, mean in zip(arms, self._means(self.by_case), strict=True)},
            friedman=omnibus,
            pairs=self._pairs(baseline, omnibus) if n else [],
            ranks=ranks,
            notes=notes,
            human=None if human is None else self._observer(human),
        )

    def _intervals(self, columns: Floats) -> list[Interval]:
        return Interval.of_means(columns, self.num, np.random.default_rng(self.seed))

    def _means(self, columns: Floats) -> list[dict[str, Any]]:
        """The fields of a `_Mean` for each column of (cases, columns)."""
        n = len(columns)
        return [
            {
                "mean": float(column.mean()) if n else None,
                "sd": float(column.std(ddof=1)) if n > 1 else None,
                "n": n,
                "interval": interval,
            }
            for column, interval in zip(columns.T, self._intervals(columns), strict=True)
        ]

    def _arm(self, arm: str, mean: dict[str, Any]) -> _ArmScore:
        by_run = self.values[arm].mean(axis=1).tolist() if mean["n"] else []
        sd = float(np.std(by_run, ddof=1)) if len(by_run) > 1 else None
        return _ArmScore(**mean, runs=dict(zip(self.cube.runs[arm], by_run, strict=False)), sd_of_runs=sd)

    def _pairs(self, baseline: str | None, omnibus: Friedman) -> list[ArmPair]:
        """Every pair, a - b, with Holm's correction; pairs with the baseline come as (arm, baseline)."""
        names = list(combinations(sorted(self.cube.arms, key=lambda arm: arm == baseline), 2))
        column = dict(zip(self.cube.arms, self.by_case.T, strict=True))
        gaps = np.stack([column[a] - column[b] for a, b in names], axis=1)
        folds = FoldStatistics(self.cube, self.values, self.keep, self.num, self.seed)
        layers = [folds.pair(a, b) for a, b in names]
        families = [FAMILIES[0] if baseline in pair else FAMILIES[1] for pair in names]
        wilcoxon = _with_holm([Wilcoxon.of(gap) for gap in gaps.T], families)
        paired_t = _with_holm([layer.paired_t for layer in layers], families)
        strict = _with_holm([layer.nadeau_bengio for layer in layers], families)
        return [
            ArmPair.decided(
                omnibus,
                self.metric.lower_is_better,
                a=a,
                b=b,
                family=families[i],
                n=len(gaps),
                difference=float(gaps[:, i].mean()),
                interval=interval,
                wilcoxon=wilcoxon[i],
                method_layer=replace(layers[i], paired_t=paired_t[i], nadeau_bengio=strict[i]),
            )
            for i, ((a, b), interval) in enumerate(zip(names, self._intervals(gaps), strict=True))
        ]

    def _observer(self, human: pd.DataFrame) -> _ObserverScore:
        """The observer's mean, and the arms' means, on the cases that both have."""
        rows = human[human["label"].astype(str).isin(self.cube.labels if self.label == MEAN else [self.label])]
        observed = rows.assign(case=rows["case"].astype(str)).groupby("case")[self.metric.key].mean().dropna()
        names = np.array(self.cube.cases)[self.keep]
        both = np.isin(names, observed.index)
        scores = observed.reindex(names[both]).to_numpy(float)
        means = self.by_case[both].mean(axis=0).tolist() if both.any() else [None] * len(self.cube.arms)
        return _ObserverScore(
            **self._means(scores[:, None])[0],
            arms_on_same_cases=dict(zip(self.cube.arms, means, strict=True)),
            reason=None if both.any() else "not computable: the observer has none of these cases",
        )


def _with_holm(tests: Sequence[_Test], families: Sequence[str]) -> list[_Test]:
    """The tests with `p_holm` within each family; tests that could not be computed are no part of theirs."""
    found = list(tests)
    for family in set(families):
        known = [(i, test, test.p) for i, test in enumerate(tests) if families[i] == family and test.p is not None]
        for (i, test, _), p in zip(known, holm(np.array([p for *_, p in known])).tolist(), strict=True):
            found[i] = replace(test, p_holm=p)
    return found


def _across(tables: list[Cube], metrics: Sequence[Metric]) -> dict[str, AcrossDatasets]:
    """metric -> ranks over the data sets that have a value for it."""
    found = {}
    for metric in metrics:
        rows = {}
        for cube in tables:
            values, keep = cube.block(metric.key, MEAN)
            if keep.any():
                rows[cube.dataset] = [values[arm].mean() for arm in cube.arms]
        if rows:
            means = np.array(list(rows.values()))
            found[metric.key] = AcrossDatasets.of(means, tables[0].arms, list(rows), metric.lower_is_better)
    return found
