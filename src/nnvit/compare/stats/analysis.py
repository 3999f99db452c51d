"""The statistics of a comparison in two layers: do these trained models differ, and is one method better?

`analyse` makes the Comparison whose `to_dict` docs/statistics.md describes and stats.json holds.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nnvit.compare.scores.metrics import METRICS, Metric, metric_of
from nnvit.errors import CompareError

from .bootstrap import bca, resampled_means
from .case_table import Cube
from .paired_tests import CONFIDENCE, Floats, Friedman, Interval, Wilcoxon, with_holm
from .ranks import AcrossDatasets, Ranks
from .verdict import ArmPair, Difference, FoldStatistics

SCHEMA = 1
MEAN = "mean"
"""The label that stands for the mean over a case's labels."""
RESAMPLES = 9999
FEW_CASES = 100
"""With fewer cases, BCa intervals of skewed scores may cover less than 93%."""
MAX_PAIRS = 15
"""Pairs that a figure shows where there is no baseline."""
FAMILIES = ("against the baseline", "every pair")


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


@dataclass(frozen=True, kw_only=True)
class _Options:
    """The settings of every block: resamples and the seed with which every block starts."""

    baseline: str | None
    seed: int
    num: int

    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)


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
    options = _Options(baseline=baseline, seed=rng, num=num_bootstrap)
    return Comparison(
        arms=arms,
        baseline=baseline,
        metric=metric,
        lower_is_better=metric_of(metric).lower_is_better,
        settings={"confidence": CONFIDENCE, "resamples": num_bootstrap, "rng": rng},
        datasets={cube.dataset: _dataset(cube, metrics, human, options) for cube in tables},
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


def _dataset(cube: Cube, metrics: Sequence[Metric], human: pd.DataFrame | None, options: _Options) -> _DatasetResult:
    observer = None if human is None else human[human["dataset"].astype(str) == cube.dataset]
    return _DatasetResult(
        n_cases=len(cube.cases),
        labels=cube.labels,
        runs=cube.runs,
        folds={arm: sorted({str(name) for name in folds.ravel()}) for arm, folds in cube.folds.items()},
        metrics={
            metric.key: {label: _block(cube, metric, label, observer, options) for label in [MEAN, *cube.labels]}
            for metric in metrics
        },
    )


def _block(cube: Cube, metric: Metric, label: str, human: pd.DataFrame | None, options: _Options) -> Block:
    values, keep = cube.block(metric.key, label)
    by_case = np.stack([values[arm].mean(axis=0) for arm in cube.arms], axis=1)
    n, less = len(by_case), metric.lower_is_better
    omnibus = Friedman.of(by_case)
    gaps = _differences(cube, values, by_case, keep, options) if n else []
    ranks, notes = None, []
    if n:
        resampled = resampled_means(by_case, options.num, options.rng())
        ranks = Ranks.of(by_case.mean(axis=0), resampled, cube.arms, less)
    if 0 < n < FEW_CASES:  # docs/statistics.md has the simulated coverage
        notes = [f"{n} case{'s' * (n != 1)}: BCa intervals of fewer than {FEW_CASES} cases are too narrow"]
    return Block(
        n=n,
        left_out=len(cube.cases) - n,
        lower_is_better=less,
        arms=_arms(cube, values, by_case, options),
        friedman=omnibus,
        pairs=[gap.decided(omnibus, less) for gap in gaps],
        ranks=ranks,
        notes=notes,
        human=None if human is None else _human(cube, by_case, keep, human, metric, label, options),
    )


def _arms(cube: Cube, values: dict[str, Floats], by_case: Floats, options: _Options) -> dict[str, _ArmScore]:
    spreads = _intervals(by_case, options)
    rows = {}
    for arm, column, spread in zip(cube.arms, by_case.T, spreads, strict=True):
        by_run = values[arm].mean(axis=1) if len(column) else np.array([])
        rows[arm] = _ArmScore(
            **_describe(column, spread),
            runs={run: float(mean) for run, mean in zip(cube.runs[arm], by_run, strict=False)},
            sd_of_runs=float(by_run.std(ddof=1)) if len(by_run) > 1 else None,
        )
    return rows


def _describe(column: Floats, spread: Interval) -> dict[str, Any]:
    """The fields of a mean."""
    n = len(column)
    return {
        "mean": float(column.mean()) if n else None,
        "sd": float(column.std(ddof=1)) if n > 1 else None,
        "n": n,
        "interval": spread,
    }


def _intervals(columns: Floats, options: _Options) -> list[Interval]:
    """The interval of each column's mean: (cases, columns)."""
    n = len(columns)
    nothing = np.full(columns.shape[1], np.nan)
    low, high = bca(columns, options.num, options.rng(), CONFIDENCE) if n > 2 else (nothing, nothing)
    return [Interval.of(a, b, n, options.num) for a, b in zip(low, high, strict=True)]


def _differences(
    cube: Cube, values: dict[str, Floats], by_case: Floats, keep: NDArray[np.bool_], options: _Options
) -> list[Difference]:
    """Every pair, a - b, with Holm's correction; pairs with the baseline come as (arm, baseline)."""
    order = sorted(cube.arms, key=lambda arm: arm == options.baseline)
    chosen = list(combinations(order, 2))
    column = {arm: i for i, arm in enumerate(cube.arms)}
    gaps = np.stack([by_case[:, column[a]] - by_case[:, column[b]] for a, b in chosen], axis=1)
    layer = FoldStatistics(cube, values, keep, options.num, options.seed)
    rows = [
        Difference(
            a=a,
            b=b,
            family=FAMILIES[0] if options.baseline in (a, b) else FAMILIES[1],
            n=len(gap),
            difference=float(gap.mean()),
            interval=spread,
            wilcoxon=Wilcoxon.of(gap),
            method_layer=layer.pair(a, b),
        )
        for (a, b), gap, spread in zip(chosen, gaps.T, _intervals(gaps, options), strict=True)
    ]
    for family in FAMILIES:
        places = [i for i, row in enumerate(rows) if row.family == family]
        for i, row in zip(places, _corrected([rows[i] for i in places]), strict=True):
            rows[i] = row
    return rows


def _corrected(family: list[Difference]) -> list[Difference]:
    """The pairs of one family with their p values after Holm."""
    cases = with_holm([row.wilcoxon for row in family])
    folds = with_holm([row.method_layer.paired_t for row in family])
    strict = with_holm([row.method_layer.nadeau_bengio for row in family])
    return [
        replace(row, wilcoxon=test, method_layer=replace(row.method_layer, paired_t=fold, nadeau_bengio=corrected))
        for row, test, fold, corrected in zip(family, cases, folds, strict, strict=True)
    ]


def _human(
    cube: Cube,
    by_case: Floats,
    keep: NDArray[np.bool_],
    human: pd.DataFrame,
    metric: Metric,
    label: str,
    options: _Options,
) -> _ObserverScore:
    """The observer's mean, and the arms' means, on the cases that both have."""
    rows = human[human["label"].astype(str).isin(cube.labels if label == MEAN else [label])]
    observed = rows.assign(case=rows["case"].astype(str)).groupby("case")[metric.key].mean().dropna()
    names = [case for case, kept in zip(cube.cases, keep, strict=True) if kept]
    both = np.array([name in observed.index for name in names], bool)
    scores = observed.reindex([name for name, shared in zip(names, both, strict=True) if shared]).to_numpy(float)
    means = by_case[both].mean(axis=0) if both.any() else [None] * len(cube.arms)
    return _ObserverScore(
        **_describe(scores, _intervals(scores[:, None], options)[0]),
        arms_on_same_cases={
            arm: None if mean is None else float(mean) for arm, mean in zip(cube.arms, means, strict=True)
        },
        reason=None if both.any() else "not computable: the observer has none of these cases",
    )


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
