"""The statistics of a comparison in two layers: do these trained models differ, and is one method better?

`analyse` makes the Comparison whose `to_dict` docs/statistics.md describes and stats.json holds, and whose `headline` opens
the report.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from nnvit.compare.audit.fairness import Audit
from nnvit.compare.scores.metrics import METRICS, Metric, metric_of
from nnvit.errors import CompareError

from .bootstrap import CONFIDENCE, Bootstrap, Floats, Interval
from .case_table import Cube
from .paired_tests import Friedman, p_text
from .ranks import AcrossDatasets, Ranks
from .verdict import ALPHA, SEEDS, ArmPair, PairStatistics

SCHEMA = 1
MEAN = "mean"
"""The label that stands for the mean over a case's labels."""
RESAMPLES = 9999
FEW_CASES = 100
"""With fewer cases, BCa intervals of skewed scores may cover less than 93%."""
MAX_PAIRS = 15
"""Pairs that a figure shows where there is no baseline."""


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
class _Block:
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

    def leading_pair(self, baseline: str | None) -> ArmPair:
        """Returns the best arm but the baseline against it; without one, the best against the second."""
        by_mean = sorted(self.arms, key=lambda arm: self.arms[arm].mean or 0.0, reverse=not self.lower_is_better)
        wanted = {baseline, next(arm for arm in by_mean if arm != baseline)} if baseline else set(by_mean[:2])
        return next(pair for pair in self.pairs if {pair.a, pair.b} == wanted)

    def in_order(self, pair: ArmPair) -> tuple[str, str]:
        """Returns the arm that is shown or, failing that, measured to be better, and the other one."""
        first_ahead = (pair.difference >= 0) != self.lower_is_better or pair.difference == 0
        ahead = pair.verdict.better or (pair.a if first_ahead else pair.b)
        return (pair.a, pair.b) if ahead == pair.a else (pair.b, pair.a)


@dataclass(frozen=True, kw_only=True)
class _DatasetResult:
    """One data set. runs: arm -> names of its trainings. folds: arm -> names. metrics: metric -> label -> block."""

    n_cases: int
    labels: list[str]
    runs: dict[str, list[str]]
    folds: dict[str, list[str]]
    metrics: dict[str, dict[str, _Block]]


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

    def main_block(self, dataset: str, label: str = MEAN) -> _Block:
        """Returns the block of the headline's metric."""
        return self.datasets[dataset].metrics[self.metric][label]

    def blocks(self) -> Iterator[tuple[str, Metric, str, _Block]]:
        """Yields (data set, metric, label, block); "mean over classes" only where there are several labels."""
        for dataset, results in self.datasets.items():
            for key, by_label in results.metrics.items():
                for label, block in by_label.items():
                    if label != MEAN:
                        yield dataset, metric_of(key), label, block
                    elif len(results.labels) > 1:
                        yield dataset, metric_of(key), "mean over classes", block

    def shown_pairs(self, dataset: str, label: str = MEAN) -> list[ArmPair]:
        """Returns the pairs with the baseline, or without one all pairs, the largest differences first."""
        pairs = self.main_block(dataset, label).pairs
        if self.baseline:
            return [pair for pair in pairs if self.baseline in (pair.a, pair.b)]
        return sorted(pairs, key=lambda pair: -abs(pair.difference))[:MAX_PAIRS]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for stats.json, without NaN."""
        return {key: value for key, value in asdict(self).items() if key != "spacing_unit"}

    def headline(self, audit: Audit) -> str:
        """Returns the answer in one sentence: effect, interval, n, and what may be claimed.

        It ends with the audit's reserve and notes on random-init twins, without which a gain is not the architecture's.
        """
        fair = audit.verdict != "not comparable"
        said = self._over_datasets(fair) if len(self.datasets) > 1 else self._on_one_dataset(fair)
        if not fair:
            said = f"no claim, because the audit finds the arms not comparable; as measured, {said}"
        if audit.verdict == "fair with declared differences":  # the verdict as well where a record is missing
            declared = any(row.status == "declared" for row in audit.rows)
            reserve = (
                "the audit's declared differences apply" if declared else "what the audit could not find out applies"
            )
            said = f"{said}; {reserve}"
        twins = [note.partition(":")[0].rstrip(".") for note in audit.notes if "twin" in note.lower()]
        return f"{said}; the audit notes: {'; '.join(twins)}." if twins else f"{said}."

    def _on_one_dataset(self, fair: bool) -> str:
        (dataset,) = self.datasets
        block = self.main_block(dataset)
        if not block.n:
            return f"on {dataset} nothing can be said of {self.main.name}: no case has a value for every arm"
        pair = block.leading_pair(self.baseline)
        a, b = block.in_order(pair)
        effect = self._effect(block, pair, a, b)
        if not fair:
            return f"{a} against {b} on {dataset}: {effect}"
        claims = {
            "better": f"{a} is better than {b} on {dataset}",
            "ahead, too few seeds": f"{a} is ahead of {b} on {dataset}, but to call it better takes {SEEDS} trainings per fold",
            "models differ": f"as trained, {a} scores better than {b} on {dataset}; "
            "that it is the better method is not shown",
            "not shown": f"it is not shown that {a} is better than {b} on {dataset}",
        }
        folds = pair.method_layer
        why = f"nothing can be said about the methods: {folds.hindrance}" if folds.hindrance else folds.evidence
        return f"{claims[pair.verdict.level]}: {effect}; {why}"

    def _effect(self, block: _Block, pair: ArmPair, a: str, b: str) -> str:
        """`mean Dice 0.812 against 0.802, a difference of +1.0 points (95% interval 0.6 to 1.4 over 300 cases)`."""
        metric, spread = self.main, pair.interval
        scale, unit = metric.scale_in(self.spacing_unit)
        sign, digits = 1 if a == pair.a else -1, metric.digits if metric.unit else 3
        means = " against ".join(f"{block.arms[arm].mean:.{digits}f}" for arm in (a, b))
        text = f"mean {metric.name} {means}, a difference of {sign * scale * pair.difference:+.2f} {unit}"
        cases = f"{pair.n} case{'s' * (pair.n != 1)}"
        if spread.low is None or spread.high is None:
            return f"{text} over {cases}, its interval {spread.reason}"
        low, high = sorted(sign * scale * bound for bound in (spread.low, spread.high))
        return f"{text} (95% BCa interval {low:+.2f} to {high:+.2f} over {cases})"

    def _over_datasets(self, fair: bool) -> str:
        """The ranking by average rank, and how often the leader's verdict is `better` on a data set of its own.

        With few data sets, average ranks exceed Nemenyi's critical difference, an approximation, too early: a test of all
        arms has to agree.
        """
        across = (self.across_datasets or {}).get(self.metric)
        if not across or not across.n:
            return f"nothing can be said of {self.main.name} over the data sets: none has a value for every arm"
        first, second = across.arms[:2]
        critical = across.critical_difference
        test, p = ("Friedman", across.friedman.p) if len(across.arms) > 2 else ("sign test", across.sign_test.p)
        apart = second.average_rank - first.average_rank >= critical and p is not None and p < ALPHA
        verdicts = [[pair.verdict for pair in self.main_block(dataset).pairs] for dataset in self.datasets]
        wins = sum(any(v.level == "better" and v.better == first.arm for v in of_one) for of_one in verdicts)
        claim = "against" if not fair else "ranks above" if apart else "is not shown to rank above"
        method = f", and is better than at least one other arm as a method on {wins} of them" if fair else ""
        return (
            f"over {across.n} data sets {first.arm} {claim} {second.arm} by {self.main.name} "
            f"(average ranks {first.average_rank:.2f} and {second.average_rank:.2f}, "
            f"{test} {p_text(p)}, Nemenyi critical difference {critical:.2f}){method}"
        )


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

    def block(cube: Cube, metric: Metric, label: str) -> _Block:
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

    def block(self, baseline: str | None, human: pd.DataFrame | None) -> _Block:
        """Returns all of them. human: the second observer's rows on this data set."""
        n, less, arms = len(self.by_case), self.metric.lower_is_better, self.cube.arms
        omnibus = Friedman.of(self.by_case)
        ranks, notes = None, []
        pairs: list[ArmPair] = []
        if n:
            resampled = Bootstrap(self.num, self.seed).means(self.by_case)
            ranks = Ranks.of(self.by_case.mean(axis=0), resampled, arms, less)
            both_layers = PairStatistics(self.cube, self.values, self.keep, self.num, self.seed)
            pairs = both_layers.pairs(baseline, omnibus, lower_is_better=less)
        if 0 < n < FEW_CASES:  # docs/statistics.md has the simulated coverage
            notes = [f"{n} case{'s' * (n != 1)}: BCa intervals of fewer than {FEW_CASES} cases are too narrow"]
        return _Block(
            n=n,
            left_out=len(self.cube.cases) - n,
            lower_is_better=less,
            arms={arm: self._arm(arm, mean) for arm, mean in zip(arms, self._means(self.by_case), strict=True)},
            friedman=omnibus,
            pairs=pairs,
            ranks=ranks,
            notes=notes,
            human=None if human is None else self._observer(human),
        )

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
            for column, interval in zip(columns.T, Bootstrap(self.num, self.seed).intervals(columns), strict=True)
        ]

    def _arm(self, arm: str, mean: dict[str, Any]) -> _ArmScore:
        by_run = self.values[arm].mean(axis=1).tolist() if mean["n"] else []
        sd = float(np.std(by_run, ddof=1)) if len(by_run) > 1 else None
        return _ArmScore(**mean, runs=dict(zip(self.cube.runs[arm], by_run, strict=False)), sd_of_runs=sd)

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
