"""The statistics of a comparison in two layers: do these trained models differ, and is one method better?

`analyse` makes the dict that docs/statistics.md describes and stats.json holds; `headline` says it in one sentence.
"""

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from nnvit.compare.scores.metrics import LOWER_IS_BETTER, METRICS
from nnvit.errors import CompareError

from . import paired_tests as tests
from . import ranks
from .bootstrap import bca, resampled_means
from .case_table import Cube, cubes
from .method_layer import MethodLayer
from .paired_tests import Floats
from .verdict import decide, headline

__all__ = ["SCHEMA", "analyse", "headline"]

SCHEMA = 1
MEAN = "mean"
"""The label that stands for the mean over a case's labels."""
RESAMPLES = 9999
FEW_CASES = 100
"""Below it, BCa intervals of skewed scores may cover less than 93%."""


def analyse(
    cases: pd.DataFrame,
    baseline: str | None = None,
    metric: str = "dice",
    human: pd.DataFrame | None = None,
    rng: int = 0,
    num_bootstrap: int = RESAMPLES,
) -> dict[str, Any]:
    """Everything that is said about a table of cases (one row per arm, run, fold, case and label), ready for JSON.

    baseline: the arm that the others are held against. metric: the column that the headline is about. human: rows of a
    second observer, read as another arm on the same references. rng: a seed; every block starts from it, so that no
    number depends on what else was computed. Raises CompareError where the arms' cases differ.
    """
    metrics = _metrics(cases, metric)
    tables = cubes(cases, metrics)
    arms = tables[0].arms
    if baseline is not None and baseline not in arms:
        raise CompareError(f"The baseline '{baseline}' is none of the arms {arms}.")
    options = _Options(baseline, rng, num_bootstrap)
    return {
        "schema": SCHEMA,
        "arms": arms,
        "baseline": baseline,
        "metric": metric,
        "lower_is_better": metric in LOWER_IS_BETTER,
        "settings": {"confidence": tests.CONFIDENCE, "resamples": num_bootstrap, "rng": rng},
        "datasets": {cube.dataset: _dataset(cube, metrics, human, options) for cube in tables},
        "across_datasets": _across(tables, metrics) if len(tables) > 1 else None,
    }


class _Options:
    """What every block is computed with."""

    def __init__(self, baseline: str | None, seed: int, num: int) -> None:
        self.baseline, self.seed, self.num = baseline, seed, num

    def rng(self) -> np.random.Generator:
        """The same for every block."""
        return np.random.default_rng(self.seed)


def _metrics(cases: pd.DataFrame, metric: str) -> list[str]:
    known = [name for name in (*METRICS, "fp_volume_mm3") if name in cases.columns]
    if metric not in known:
        raise CompareError(f"The table of cases has no metric '{metric}'; it has {known}.")
    return [name for name in known if name == metric or np.isfinite(cases[name].astype(float)).any()]


def _dataset(cube: Cube, metrics: list[str], human: pd.DataFrame | None, options: _Options) -> dict[str, Any]:
    observer = None if human is None else human[human["dataset"].astype(str) == cube.dataset]
    return {
        "n_cases": len(cube.cases),
        "labels": cube.labels,
        "runs": cube.runs,
        "folds": {arm: sorted({str(name) for name in folds.ravel()}) for arm, folds in cube.folds.items()},
        "metrics": {
            name: {label: _block(cube, name, label, observer, options) for label in [MEAN, *cube.labels]}
            for name in metrics
        },
    }


def _block(cube: Cube, metric: str, label: str, human: pd.DataFrame | None, options: _Options) -> dict[str, Any]:
    """All that is said about one metric of one label."""
    values, keep = cube.block(metric, label)
    arms, lower = cube.arms, metric in LOWER_IS_BETTER
    by_case = np.stack([values[arm].mean(axis=0) for arm in arms], axis=1)
    n = len(by_case)
    omnibus = tests.friedman(by_case)
    means = by_case.mean(axis=0) if n else np.full(len(arms), np.nan)
    return {
        "n": n,
        "left_out": len(cube.cases) - n,
        "lower_is_better": lower,
        "arms": _arms(cube, values, by_case, options),
        "friedman": omnibus,
        "pairs": _pairs(cube, values, by_case, keep, omnibus, lower, options) if n else [],
        "ranks": ranks.stability(means, resampled_means(by_case, options.num, options.rng()), arms, lower)
        if n
        else None,
        "notes": _notes(n),
        "human": None if human is None else _human(cube, by_case, keep, human, metric, label, options),
    }


def _notes(n: int) -> list[str]:
    """What a reader of a block has to know; docs/statistics.md has the simulated coverage."""
    if 0 < n < FEW_CASES:
        return [f"{n} case{'s' * (n != 1)}: BCa intervals of fewer than {FEW_CASES} cases are too narrow"]
    return []


def _arms(cube: Cube, values: dict[str, Floats], by_case: Floats, options: _Options) -> dict[str, Any]:
    spreads = _intervals(by_case, options)
    rows = {}
    for arm, column, spread in zip(cube.arms, by_case.T, spreads, strict=True):
        by_run = values[arm].mean(axis=1) if len(column) else np.array([])
        rows[arm] = _describe(column, spread) | {
            "runs": {run: float(mean) for run, mean in zip(cube.runs[arm], by_run, strict=False)},
            "sd_of_runs": float(by_run.std(ddof=1)) if len(by_run) > 1 else None,
        }
    return rows


def _describe(column: Floats, spread: dict[str, Any]) -> dict[str, Any]:
    n = len(column)
    return {
        "mean": float(column.mean()) if n else None,
        "sd": float(column.std(ddof=1)) if n > 1 else None,
        "n": n,
        "interval": spread,
    }


def _intervals(columns: Floats, options: _Options) -> list[dict[str, Any]]:
    """Of each column's mean: (cases, columns)."""
    n = len(columns)
    nothing = np.full(columns.shape[1], np.nan)
    low, high = bca(columns, options.num, options.rng(), tests.CONFIDENCE) if n > 2 else (nothing, nothing)
    return [tests.interval(a, b, n, options.num) for a, b in zip(low, high, strict=True)]


def _pairs(
    cube: Cube,
    values: dict[str, Floats],
    by_case: Floats,
    keep: Any,
    omnibus: dict[str, Any],
    lower: bool,
    options: _Options,
) -> list[dict[str, Any]]:
    """Every pair, a - b; pairs with the baseline come as (arm, baseline)."""
    order = sorted(cube.arms, key=lambda arm: arm == options.baseline)
    chosen = list(combinations(order, 2))
    column = {arm: i for i, arm in enumerate(cube.arms)}
    gaps = np.stack([by_case[:, column[a]] - by_case[:, column[b]] for a, b in chosen], axis=1)
    layer = MethodLayer(cube, values, keep, options.num, options.seed)
    rows: list[dict[str, Any]] = [
        {
            "a": a,
            "b": b,
            "family": "against the baseline" if options.baseline in (a, b) else "every pair",
            "n": len(gap),
            "difference": float(gap.mean()),
            "interval": spread,
            "wilcoxon": tests.wilcoxon(gap),
            "method_layer": layer.pair(a, b),
        }
        for (a, b), gap, spread in zip(chosen, gaps.T, _intervals(gaps, options), strict=True)
    ]
    for family in ("against the baseline", "every pair"):
        members = [row for row in rows if row["family"] == family]
        tests.add_holm([row["wilcoxon"] for row in members])
        for name in ("paired_t", "nadeau_bengio"):
            tests.add_holm([row["method_layer"][name] for row in members])
    return [row | {"verdict": decide(row, omnibus, lower)} for row in rows]


def _human(
    cube: Cube, by_case: Floats, keep: Any, human: pd.DataFrame, metric: str, label: str, options: _Options
) -> dict[str, Any]:
    """Agreement of a second observer with the reference, and the arms' means, on the cases that both have."""
    rows = human[human["label"].astype(str).isin(cube.labels if label == MEAN else [label])]
    observed = rows.assign(case=rows["case"].astype(str)).groupby("case")[metric].mean().dropna()
    names = [case for case, kept in zip(cube.cases, keep, strict=True) if kept]
    both = np.array([name in observed.index for name in names], bool)
    scores = observed.reindex([name for name, shared in zip(names, both, strict=True) if shared]).to_numpy(float)
    spread = _intervals(scores[:, None], options)[0]
    means = by_case[both].mean(axis=0) if both.any() else [None] * len(cube.arms)
    on_same = {arm: None if mean is None else float(mean) for arm, mean in zip(cube.arms, means, strict=True)}
    reason = None if both.any() else "not computable: the observer has none of these cases"
    return _describe(scores, spread) | {"arms_on_same_cases": on_same, "reason": reason}


def _across(tables: list[Cube], metrics: list[str]) -> dict[str, Any]:
    """metric -> ranks over the data sets that have a value for it."""
    found = {}
    for metric in metrics:
        means = {cube.dataset: _means(cube, metric) for cube in tables}
        rows = {name: row for name, row in means.items() if row is not None}
        if rows:
            lower = metric in LOWER_IS_BETTER
            found[metric] = ranks.over_datasets(np.stack(list(rows.values())), tables[0].arms, list(rows), lower)
    return found


def _means(cube: Cube, metric: str) -> Floats | None:
    values, keep = cube.block(metric, MEAN)
    return np.array([values[arm].mean() for arm in cube.arms]) if keep.any() else None
