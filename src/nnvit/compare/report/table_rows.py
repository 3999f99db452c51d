"""The tables of the page: from the numbers of a comparison to rows of cells, and lines of text about single figures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from nnvit.compare.audit.fairness import Audit
from nnvit.compare.inputs.costs import ArmCost
from nnvit.compare.scores.metrics import METRICS, Metric, metric_of
from nnvit.compare.stats.analysis import MEAN, ArmScore, Block, Comparison
from nnvit.compare.stats.verdict import ArmPair

from .wording import Cell, case_means, number, p_value

MAX_CASES = 2000
COST_COLUMNS = (
    ("parameters_total", "parameters", "millions", 1e-6, 2),
    ("parameters_trainable", "of them trained", "millions", 1e-6, 2),
    ("flops", "operations per patch", "GFLOP", 1e-9, 1),
    ("seconds_per_iteration", "iteration", "s", 1.0, 3),
    ("train_hours", "training of a fold", "h", 1.0, 2),
    ("peak_memory_bytes", "peak memory", "GiB", 2.0**-30, 2),
    ("checkpoint_bytes", "checkpoint", "MiB", 2.0**-20, 1),
    ("predict_seconds_per_case", "prediction of a case", "s", 1.0, 2),
)
"""(key, name, unit, factor, decimals)"""
STATES = {
    "different": "different", "declared": "declared", "unknown": "unknown", "by design": "design", "equal": "equal"
}  # fmt: skip
"""Status of an audit row -> class of the page, in the order in which rows are shown."""


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The rows of the tables that the page and the LaTeX files share, as dicts of texts and cells.

    scores: per data set, class and arm. pairs: per data set, metric, class and pair. cost: per arm. audit: per question.
    """

    scores: list[dict[str, Any]]
    pairs: list[dict[str, Any]]
    cost: list[dict[str, Any]]
    audit: list[dict[str, Any]]

    @classmethod
    def of(cls, comparison: Comparison, audit: Audit, cost: Sequence[ArmCost]) -> "Tables":
        """Makes the rows."""
        return cls(
            scores=_score_rows(comparison),
            pairs=_pair_rows(comparison),
            cost=_cost_rows(cost),
            audit=_audit_rows(audit, comparison.arms),
        )


def page_tables(comparison: Comparison, tables: Tables, cases: pd.DataFrame, cost: Sequence[ArmCost]) -> dict[str, Any]:
    """Returns what the page's template needs for its tables."""
    of_cases, data, left_out = _case_rows(cases, comparison)
    labels = list(dict.fromkeys(row["label"] for row in tables.scores))
    main = comparison.main.name
    return {
        "main_metric": main,
        "averaged": ", mean over classes" if len(labels) > 1 else "",
        "many_labels": len(labels) > 1,
        "metrics": [
            {"key": metric.key, "name": metric.title_in(comparison.spacing_unit)} for metric in comparison.metrics
        ],
        "less_is_better": _less_is_better(),
        "claims": _claims(comparison),
        "omnibus": _omnibus(comparison),
        "human": _human_lines(comparison),
        "scores": tables.scores,
        "score_labels": labels,
        "pairs": tables.pairs,
        "pair_metrics": sorted(dict.fromkeys(row["metric"] for row in tables.pairs), key=lambda name: name != main)
        or [main],
        "case_rows": of_cases,
        "case_data": data,
        "cases_left_out": left_out,
        "case_labels": list(dict.fromkeys(row["label"] for row in of_cases)),
        "case_folds": sorted({row["fold"] for row in of_cases} - {""}),
        "cost": tables.cost,
        "cost_columns": [(name, unit) for _, name, unit, _, _ in COST_COLUMNS],
        "cost_note": _cost_note(cost),
        "audit_rows": tables.audit,
    }


def _less_is_better() -> str:
    """`HD95 and FP volume (of false positives)`: the metrics where less is better."""
    *names, last = [f"{m.name} ({m.note})" if m.note else m.name for m in METRICS if m.lower_is_better]
    return f"{', '.join(names)} and {last}" if names else last


def _blocks(comparison: Comparison) -> Iterator[tuple[str, Metric, str, Block]]:
    """(data set, metric, name of the label, block); the mean only where there are several labels."""
    for dataset, results in comparison.datasets.items():
        for key, by_label in results.metrics.items():
            for label, block in by_label.items():
                if label != MEAN:
                    yield dataset, metric_of(key), label, block
                elif len(results.labels) > 1:
                    yield dataset, metric_of(key), "mean over classes", block


def _score_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """A row per data set, class and arm: the means of all metrics with their intervals."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for dataset, metric, label, block in _blocks(comparison):
        means = [arm.mean for arm in block.arms.values() if arm.mean is not None]
        best = (min if block.lower_is_better else max)(means, default=None)
        for arm, found in block.arms.items():
            head = {"dataset": dataset, "label": label, "arm": arm, "n": found.n, "cells": {}}
            row = rows.setdefault((dataset, label, arm), head)
            row["n"] = max(row["n"], found.n)
            row["cells"][metric.key] = _score(found, metric.digits, found.mean == best and len(means) > 1)
    return list(rows.values())


def _score(found: ArmScore, digits: int, best: bool) -> Cell:
    spread = found.interval
    known = spread.low is not None
    text = f"{number(spread.low, digits)} to {number(spread.high, digits)}" if known else ""
    return Cell(text=number(found.mean, digits), value=found.mean, interval=text, best=best)


def _pair_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """A row per data set, metric, class and pair, with the two layers of the verdict."""
    return [
        {"dataset": dataset, "metric": metric.name, "label": label, "main": metric.key == comparison.metric}
        | _pair(pair, *metric.scale_in(comparison.spacing_unit))
        for dataset, metric, label, block in _blocks(comparison)
        for pair in block.pairs
    ]


def _pair(pair: ArmPair, scale: float, unit: str) -> dict[str, Any]:
    folds, test = pair.method_layer, pair.wilcoxon
    difference = scale * pair.difference
    return {
        "a": pair.a,
        "b": pair.b,
        "n": pair.n,
        "unit": unit,
        "difference": Cell(
            text=number(difference, 2, sign=True), value=difference, interval=_range(pair.interval, scale).text
        ),
        "hierarchical": _range(folds.hierarchical, scale),
        "p_holm": p_value(test.p_holm),
        "effect": Cell(text=number(test.rank_biserial, 2, sign=True), value=test.rank_biserial),
        "fold_t": p_value(folds.paired_t.p_holm),
        "nadeau_bengio": p_value(folds.nadeau_bengio.p_holm),
        "n_folds": folds.n_folds,
        "n_runs": folds.n_runs,
        "level": pair.verdict.level,
        "method": pair.verdict.method,
    }


def _range(spread: Any, scale: float) -> Cell:
    """The text of an interval, sorted by its lower end."""
    if spread.low is None:
        return Cell(text="–")
    low, high = scale * spread.low, scale * spread.high
    return Cell(text=f"{number(low, 2, sign=True)} to {number(high, 2, sign=True)}", value=low)


def _claims(comparison: Comparison) -> list[dict[str, Any]]:
    """The verdict's words on the headline's metric."""
    return [
        {"dataset": dataset, "a": pair.a, "b": pair.b, "cases": pair.verdict.cases, "method": pair.verdict.method}
        for dataset in comparison.datasets
        for pair in comparison.shown_pairs(comparison.main_block(dataset))
    ]


def _omnibus(comparison: Comparison) -> list[str]:
    """Friedman's test of each data set, where there is one, and the notes on its numbers."""
    lines = []
    for dataset in comparison.datasets:
        block = comparison.main_block(dataset)
        test = block.friedman
        if test.p is not None:
            p = p_value(test.p).text
            equals = "" if "<" in p else "= "
            lines.append(
                f"Friedman over all {test.arms} arms on {dataset}: χ² = {test.statistic:.2f}, p {equals}{p}, "
                f"n = {test.n} cases."
            )
        lines += block.notes
    return lines


def _human_lines(comparison: Comparison) -> list[str]:
    """The agreement of a second observer with the reference, and the arms on the same cases."""
    lines = []
    for dataset in comparison.datasets:
        human = comparison.main_block(dataset).human
        if human is None:
            continue
        if not human.n:
            lines.append(f"Second observer on {dataset}: {human.reason}.")
            continue
        digits = comparison.main.digits
        mean, low, high = (number(value, digits) for value in human.bounds)
        arms = ", ".join(f"{arm} {number(score, digits)}" for arm, score in human.arms_on_same_cases.items())
        lines.append(
            f"A second observer agrees with the reference at a mean {comparison.main.name} of {mean} "
            f"(95% interval {low} to {high}, n = {human.n} cases of {dataset}); on the same cases: {arms}."
        )
    return lines


def _case_rows(cases: pd.DataFrame, comparison: Comparison) -> tuple[list[dict[str, Any]], dict[str, Any], int]:
    """Rows of the table of cases with the headline's metric, all metrics' values for the page's script, and the rows left out.

    Where there are too many rows, those with the widest spread between arms stay.
    """
    tables = {metric.key: case_means(cases, metric.key, comparison.arms) for metric in comparison.metrics}
    main, digits = tables[comparison.metric], comparison.main.digits
    kept = _widest(main)
    facts = cases.groupby(["dataset", "case", "label"], sort=False).agg(
        fold=("fold", lambda folds: ", ".join(dict.fromkeys(map(str, folds)))),
        n_ref=("n_ref", "first"),
        missed=("missed", "sum"),
    )
    rows = []
    for key in kept:
        values, fact = _plain(main.loc[key]), facts.loc[key]
        rows.append(
            {
                "dataset": key[0],
                "case": key[1],
                "label": key[2],
                "fold": fact["fold"],
                "n_ref": int(fact["n_ref"]),
                "missed": int(fact["missed"]),
                "cells": [Cell(text=number(value, digits), value=value) for value in values],
                "spread": _spread([value for value in values if value is not None], digits),
            }
        )
    data = {
        metric.key: {
            "name": metric.title_in(comparison.spacing_unit),
            "digits": metric.digits,
            "values": [
                [None if value is None else round(value, 5) for value in _plain(row)]
                for _, row in tables[metric.key].loc[kept].iterrows()
            ],
        }
        for metric in comparison.metrics
    }
    return rows, data, len(main) - len(kept)


def _widest(table: pd.DataFrame) -> Any:
    """The keys of the rows that are shown."""
    if len(table) <= MAX_CASES:
        return table.index
    spread = (table.max(axis=1) - table.min(axis=1)).fillna(-1)
    chosen = set(spread.sort_values(ascending=False, kind="stable").index[:MAX_CASES])
    return pd.MultiIndex.from_tuples([key for key in table.index if key in chosen], names=table.index.names)


def _plain(row: pd.Series) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in row.to_numpy(float)]


def _spread(known: Sequence[float], digits: int) -> Cell:
    if len(known) < 2:
        return Cell(text="–")
    return Cell(text=number(max(known) - min(known), digits), value=max(known) - min(known))


def _cost_rows(cost: Sequence[ArmCost]) -> list[dict[str, Any]]:
    """A row per arm; what its records do not state is `unknown`."""
    return [
        {
            "arm": row.arm,
            "device": row.device or "unknown",
            "cells": [_cost(getattr(row, key), factor, digits) for key, _, _, factor, digits in COST_COLUMNS],
        }
        for row in cost
    ]


def _cost(value: float | None, factor: float, digits: int) -> Cell:
    if value is None:
        return Cell(text="unknown")
    least = 10.0**-digits
    text = f"< {least:.{digits}f}" if 0 < value * factor < least else number(value * factor, digits)
    return Cell(text=text, value=value * factor)


def _cost_note(cost: Sequence[ArmCost]) -> str:
    """Notes: what the seconds of an iteration comprise, and whether times can be compared."""
    of = {row.seconds_per_iteration_of for row in cost if row.seconds_per_iteration_of}
    devices = {row.device for row in cost if row.device}
    notes = [f"Seconds per iteration: {', '.join(sorted(of))}."] if of else []
    notes += ["The records name different devices, so that times may not be comparable."] if len(devices) > 1 else []
    return " ".join(notes)


def _audit_rows(audit: Audit, arms: Sequence[str]) -> list[dict[str, Any]]:
    """The rows in the order in which they need attention."""
    order = list(STATES)
    return [
        {
            "key": row.title,
            "status": row.status,
            "state": STATES[row.status],
            "told": [row.values.get(arm, "unknown") for arm in arms],
        }
        for row in sorted(audit.rows, key=lambda row: order.index(row.status))
    ]
