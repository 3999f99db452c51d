"""The tables of a comparison: rows of cells, the lines of text beside them on the page, and LaTeX for a paper."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from nnvit.compare.audit.fairness import Audit
from nnvit.compare.inputs.costs import ArmCost
from nnvit.compare.scores.metrics import METRICS, Metric, metric_of
from nnvit.compare.stats.analysis import MEAN, Block, Comparison
from nnvit.compare.stats.verdict import ArmPair

from .latex import latex_table
from .wording import case_means, number, p_value

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
class _Cell:
    """One figure of a table: text, the value that it sorts by, and its interval."""

    text: str
    value: float | None = None
    interval: str = ""
    best: bool = False


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The rows of the tables that the page and the LaTeX files share, as dicts of texts and cells.

    scores: per data set, class and arm. pairs: per data set, metric, class and pair. cost: per arm. audit: per question.
    """

    comparison: Comparison
    scores: list[dict[str, Any]]
    pairs: list[dict[str, Any]]
    cost: list[dict[str, Any]]
    cost_note: str
    audit: list[dict[str, Any]]
    audit_verdict: str

    @classmethod
    def of(cls, comparison: Comparison, audit: Audit, cost: Sequence[ArmCost]) -> "Tables":
        """Makes the rows."""
        return cls(
            comparison=comparison,
            scores=_score_rows(comparison),
            pairs=_pair_rows(comparison),
            cost=_cost_rows(cost),
            cost_note=_cost_note(cost),
            audit=_audit_rows(audit, comparison.arms),
            audit_verdict=audit.verdict,
        )

    def page(self, cases: pd.DataFrame) -> dict[str, Any]:
        """Returns what the page's template needs for its tables."""
        comparison, main = self.comparison, self.comparison.main.name
        case_rows, case_data, left_out = _case_rows(cases, comparison)
        labels = list(dict.fromkeys(row["label"] for row in self.scores))
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
            "scores": self.scores,
            "score_labels": labels,
            "pairs": self.pairs,
            "pair_metrics": sorted(dict.fromkeys(row["metric"] for row in self.pairs), key=lambda name: name != main)
            or [main],
            "case_rows": case_rows,
            "case_data": case_data,
            "cases_left_out": left_out,
            "case_labels": list(dict.fromkeys(row["label"] for row in case_rows)),
            "case_folds": sorted({row["fold"] for row in case_rows} - {""}),
            "cost": self.cost,
            "cost_columns": [(name, unit) for _, name, unit, _, _ in COST_COLUMNS],
            "cost_note": self.cost_note,
            "audit_rows": self.audit,
        }

    def latex(self) -> dict[str, str]:
        """Returns name -> LaTeX with booktabs rules and everything escaped."""
        comparison, metrics, main = self.comparison, self.comparison.metrics, self.comparison.main
        _, unit = main.scale_in(comparison.spacing_unit)
        ahead = {"data set": "dataset"} if len(comparison.datasets) > 1 else {}
        lines = "l" * len(ahead)

        def rows(found: Sequence[Mapping[str, Any]], *keys: str) -> list[list[str]]:
            return [[_tex(row[key]) for key in (*ahead.values(), *keys)] for row in found]

        titles = [metric.title_in(comparison.spacing_unit) for metric in metrics]
        scores = [row | {metric.key: row["cells"].get(metric.key) for metric in metrics} for row in self.scores]
        pairs = [row for row in self.pairs if row["main"]]
        numbers = ("difference", "p_holm", "fold_t", "nadeau_bengio")
        columns = [f"{name} ({unit_})" for _, name, unit_, _, _ in COST_COLUMNS]
        return {
            "scores": latex_table(
                [*ahead, "class", "arm", "n", *titles],
                rows(scores, "label", "arm", "n", *(metric.key for metric in metrics)),
                caption="Mean over n cases with its 95% BCa bootstrap interval.",
                label="tab:scores",
                align=f"{lines}llr{'l' * len(metrics)}",
            ),
            "differences": latex_table(
                [
                    *ahead,
                    "class",
                    "A",
                    "B",
                    "n",
                    f"A − B ({unit})",
                    "Wilcoxon p",
                    "fold t p",
                    "Nadeau–Bengio p",
                    "verdict",
                ],
                rows(pairs, "label", "a", "b", "n", *numbers, "level"),
                caption=f"Paired differences in {main.name} with 95% BCa bootstrap intervals over n cases; "
                "p values after Holm.",
                label="tab:differences",
                align=f"{lines}lllrlrrrl",
            ),
            "cost": latex_table(
                ["arm", *columns],
                [[row["arm"], *map(_tex, row["cells"])] for row in self.cost],
                caption="What each arm costs, as its records tell.",
                label="tab:cost",
                align=f"l{'r' * len(columns)}",
            ),
            "audit": latex_table(
                ["what", "state", *comparison.arms],
                [[row["key"], row["status"], *row["told"]] for row in self.audit],
                caption=f"Audit of the arms: {self.audit_verdict}.",
                label="tab:audit",
                align=f"ll{'l' * len(comparison.arms)}",
            ),
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
            spread = found.interval
            row["cells"][metric.key] = _Cell(
                text=number(found.mean, metric.digits),
                value=found.mean,
                interval=""
                if spread.low is None
                else " to ".join(number(x, metric.digits) for x in (spread.low, spread.high)),
                best=found.mean == best and len(means) > 1,
            )
    return list(rows.values())


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
        "difference": _Cell(
            text=number(difference, 2, sign=True), value=difference, interval=_range(pair.interval, scale).text
        ),
        "hierarchical": _range(folds.hierarchical, scale),
        "p_holm": _p(test.p_holm),
        "effect": _Cell(text=number(test.rank_biserial, 2, sign=True), value=test.rank_biserial),
        "fold_t": _p(folds.paired_t.p_holm),
        "nadeau_bengio": _p(folds.nadeau_bengio.p_holm),
        "n_folds": folds.n_folds,
        "n_runs": folds.n_runs,
        "level": pair.verdict.level,
        "method": pair.verdict.method,
    }


def _p(p: float | None) -> _Cell:
    return _Cell(text=p_value(p), value=p)


def _range(spread: Any, scale: float) -> _Cell:
    """The text of an interval, sorted by its lower end."""
    if spread.low is None:
        return _Cell(text="–")
    low, high = scale * spread.low, scale * spread.high
    return _Cell(text=f"{number(low, 2, sign=True)} to {number(high, 2, sign=True)}", value=low)


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
            p = p_value(test.p)
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
                "cells": [_Cell(text=number(value, digits), value=value) for value in values],
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


def _spread(known: Sequence[float], digits: int) -> _Cell:
    if len(known) < 2:
        return _Cell(text="–")
    return _Cell(text=number(max(known) - min(known), digits), value=max(known) - min(known))


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


def _cost(value: float | None, factor: float, digits: int) -> _Cell:
    if value is None:
        return _Cell(text="unknown")
    least = 10.0**-digits
    text = f"< {least:.{digits}f}" if 0 < value * factor < least else number(value * factor, digits)
    return _Cell(text=text, value=value * factor)


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


def _tex(cell: Any) -> str:
    """The text of a cell with its interval, or of anything else."""
    if cell is None:
        return "–"
    if not isinstance(cell, _Cell):
        return str(cell)
    return f"{cell.text} [{cell.interval}]" if cell.interval else cell.text
