"""The tables of a comparison, for the page and as LaTeX: rows of cells, and the lines of text beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from nnvit.compare.audit.fairness import Audit
from nnvit.compare.inputs.arms import ArmCost
from nnvit.compare.scores.metrics import METRICS
from nnvit.compare.stats.analysis import Comparison
from nnvit.compare.stats.verdict import ArmPair

from .wording import number, p_value

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
STATES = ("different", "declared", "unknown", "by design", "equal")
"""Statuses of audit rows, in the order in which rows are shown."""
_ESCAPES = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "−": "$-$", "×": r"$\times$", "±": r"$\pm$", "≥": r"$\geq$", "≤": r"$\leq$", "³": r"$^3$", "→": r"$\rightarrow$",
    "τ": r"$\tau$", "…": r"\ldots{}", "–": "--", "—": "---", "\u2009": r"\,", "\u00a0": "~",
})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """One figure of a table: text, the value that it sorts by, and its interval."""

    text: str
    value: float | None = None
    interval: str = ""
    best: bool = False

    def __str__(self) -> str:
        return f"{self.text} [{self.interval}]" if self.interval else self.text


class Tables:
    """The rows of the tables that the page and the LaTeX files share, as dicts of texts and cells.

    scores: per data set, class and arm. pairs: per data set, metric, class and pair. cost: per arm. audit: per question.
    case_means: metric -> (data set, case, label) -> a column per arm, the mean over its runs, in the order of `cases`.
    """

    def __init__(self, comparison: Comparison, audit: Audit, cost: Sequence[ArmCost], cases: pd.DataFrame) -> None:
        self.comparison, self.verdict, self.cases = comparison, audit.verdict, cases
        by_arm = cases.groupby(["dataset", "case", "label", "arm"], sort=False)
        self.case_means = {
            metric.key: by_arm[metric.key].mean().unstack("arm").reindex(columns=comparison.arms)
            for metric in comparison.metrics
        }
        self.scores = _score_rows(comparison)
        self.pairs = _pair_rows(comparison)
        self.cost, self.cost_note = _cost_rows(cost), _cost_note(cost)
        self.audit = _audit_rows(audit, comparison.arms)

    def page(self) -> dict[str, Any]:
        """Returns what the page's template needs for its tables besides their rows."""
        comparison, main = self.comparison, self.comparison.main.name
        labels = list(dict.fromkeys(row["label"] for row in self.scores))
        *lower, last = [f"{m.name} ({m.note})" if m.note else m.name for m in METRICS if m.lower_is_better]
        return {
            "averaged": ", mean over classes" if len(labels) > 1 else "",
            "many_labels": len(labels) > 1,
            "less_is_better": f"{', '.join(lower)} and {last}",
            "omnibus": _omnibus(comparison),
            "human": _human_lines(comparison),
            "score_labels": labels,
            "pair_metrics": sorted(dict.fromkeys(row["metric"] for row in self.pairs), key=lambda name: name != main)
            or [main],
            "cost_columns": [(name, unit) for _, name, unit, _, _ in COST_COLUMNS],
            **self._every_case(),
        }

    def latex(self) -> dict[str, str]:
        """Returns name -> LaTeX with booktabs rules and everything escaped."""
        comparison = self.comparison
        metrics, main, unit = comparison.metrics, comparison.main, comparison.spacing_unit
        ahead = {"data set": "dataset"} if len(comparison.datasets) > 1 else {}
        lines = "l" * len(ahead)

        def rows(found: Sequence[Mapping[str, Any]], *keys: str) -> list[list[Any]]:
            return [[row[key] for key in (*ahead.values(), *keys)] for row in found]

        keys = [metric.key for metric in metrics]
        difference = f"A − B ({main.scale_in(unit)[1]})"
        tests = ("Wilcoxon p", "fold t p", "Nadeau–Bengio p", "verdict")
        tables: dict[str, tuple[list[str], list[list[Any]], str, str]] = {
            "scores": (
                [*ahead, "class", "arm", "n", *(metric.title_in(unit) for metric in metrics)],
                rows([row | dict.fromkeys(keys) | row["cells"] for row in self.scores], "label", "arm", "n", *keys),
                f"{lines}llr{'l' * len(metrics)}",
                "Mean over n cases with its 95% BCa bootstrap interval.",
            ),
            "differences": (
                [*ahead, "class", "A", "B", "n", difference, *tests],
                rows(
                    [row for row in self.pairs if row["main"]],
                    *("label", "a", "b", "n", "difference", "p_holm", "fold_t", "nadeau_bengio", "level"),
                ),
                f"{lines}lllrlrrrl",
                f"Paired differences in {main.name} with 95% BCa bootstrap intervals over n cases; p values after Holm.",
            ),
            "cost": (
                ["arm", *(f"{name} ({unit})" for _, name, unit, _, _ in COST_COLUMNS)],
                [[row["arm"], *row["cells"]] for row in self.cost],
                f"l{'r' * len(COST_COLUMNS)}",
                "What each arm costs, as its records tell.",
            ),
            "audit": (
                ["what", "state", *comparison.arms],
                [[row["key"], row["status"], *row["told"]] for row in self.audit],
                f"ll{'l' * len(comparison.arms)}",
                f"Audit of the arms: {self.verdict}.",
            ),
        }
        return {
            name: _latex_table(header, body, caption=caption, label=f"tab:{name}", align=align)
            for name, (header, body, align, caption) in tables.items()
        }

    def _every_case(self) -> dict[str, Any]:
        """The rows of the table of cases, all metrics' values for the page's script, and the choices of the filters.

        Where there are too many rows, those with the widest spread between arms in the headline's metric stay.
        """
        comparison, tables = self.comparison, self.case_means
        main, digits = tables[comparison.metric], comparison.main.digits
        spread = (main.max(axis=1) - main.min(axis=1)).fillna(-1).sort_values(ascending=False, kind="stable")
        kept = main.index[main.index.isin(spread.index[:MAX_CASES])]
        grouped = self.cases.groupby(["dataset", "case", "label"], sort=False)
        facts = grouped.agg(
            fold=("fold", lambda folds: ", ".join(dict.fromkeys(map(str, folds)))),
            n_ref=("n_ref", "first"),
            missed=("missed", "sum"),
        )
        facts = facts.loc[kept].astype({"n_ref": int, "missed": int}).reset_index()
        rows = []
        for fact, values in zip(facts.to_dict("records"), _plain(main.loc[kept]), strict=True):
            known = [value for value in values if value is not None]
            width = max(known) - min(known) if len(known) > 1 else None
            rows.append(fact | {"cells": [_cell(value, digits) for value in values], "spread": _cell(width, digits)})
        data = {
            metric.key: {
                "name": metric.title_in(comparison.spacing_unit),
                "digits": metric.digits,
                "values": [
                    [None if x is None else round(x, 5) for x in row] for row in _plain(tables[metric.key].loc[kept])
                ],
            }
            for metric in comparison.metrics
        }
        return {
            "case_rows": rows,
            "case_data": data,
            "cases_left_out": len(main) - len(kept),
            "case_labels": list(dict.fromkeys(row["label"] for row in rows)),
            "case_folds": sorted({row["fold"] for row in rows} - {""}),
        }


def _score_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """A row per data set, class and arm: the means of all metrics with their intervals."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for dataset, metric, label, block in comparison.blocks():
        means = [arm.mean for arm in block.arms.values() if arm.mean is not None]
        best = (min if block.lower_is_better else max)(means, default=None)
        for arm, found in block.arms.items():
            head = {"dataset": dataset, "label": label, "arm": arm, "n": found.n, "cells": {}}
            row = rows.setdefault((dataset, label, arm), head)
            row["n"] = max(row["n"], found.n)
            row["cells"][metric.key] = _Cell(
                text=number(found.mean, metric.digits),
                value=found.mean,
                interval=_interval(found.interval, metric.digits),
                best=found.mean == best and len(means) > 1,
            )
    return list(rows.values())


def _pair_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """A row per data set, metric, class and pair, with the two layers of the verdict."""
    rows = []
    for dataset, metric, label, block in comparison.blocks():
        scale, unit = metric.scale_in(comparison.spacing_unit)
        head = {"dataset": dataset, "metric": metric.name, "label": label, "main": metric.key == comparison.metric}
        rows += [head | {"unit": unit} | _pair(pair, scale) for pair in block.pairs]
    return rows


def _pair(pair: ArmPair, scale: float) -> dict[str, Any]:
    folds, test, wide = pair.method_layer, pair.wilcoxon, pair.method_layer.hierarchical
    difference = _interval(pair.interval, 2, scale, sign=True) or "–"
    hierarchical = _interval(wide, 2, scale, sign=True) or "–"
    return {
        "a": pair.a,
        "b": pair.b,
        "n": pair.n,
        "difference": _cell(scale * pair.difference, 2, sign=True, interval=difference),
        "hierarchical": _Cell(text=hierarchical, value=None if wide.low is None else scale * wide.low),
        "p_holm": _p(test.p_holm),
        "effect": _cell(test.rank_biserial, 2, sign=True),
        "fold_t": _p(folds.paired_t.p_holm),
        "nadeau_bengio": _p(folds.nadeau_bengio.p_holm),
        "n_folds": folds.n_folds,
        "n_runs": folds.n_runs,
        "level": pair.verdict.level,
        "method": pair.verdict.method,
    }


def _cell(value: float | None, digits: int, *, sign: bool = False, interval: str = "") -> _Cell:
    return _Cell(text=number(value, digits, sign), value=value, interval=interval)


def _p(p: float | None) -> _Cell:
    return _Cell(text=p_value(p), value=p)


def _interval(spread: Any, digits: int, scale: float = 1.0, *, sign: bool = False) -> str:
    """`0.80 to 0.84`; empty where there is no interval."""
    if spread.low is None:
        return ""
    return " to ".join(number(scale * bound, digits, sign) for bound in (spread.low, spread.high))


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


def _plain(table: pd.DataFrame) -> list[list[float | None]]:
    """The rows of a table; None where there is no value."""
    return [[x if np.isfinite(x) else None for x in row] for row in table.to_numpy(float).tolist()]


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
    return [
        {
            "key": row.title,
            "status": row.status,
            "state": row.status.removeprefix("by "),
            "told": [row.values.get(arm, "unknown") for arm in arms],
        }
        for row in sorted(audit.rows, key=lambda row: STATES.index(row.status))
    ]


def _escape(cell: Any) -> str:
    """Escapes any text for LaTeX; line ends become spaces. (pandas escapes ten signs, and none beyond ASCII.)"""
    return ("–" if cell is None else str(cell)).replace("\n", " ").translate(_ESCAPES)


def _latex_table(header: Sequence[str], rows: Sequence[Sequence[Any]], *, caption: str, label: str, align: str) -> str:
    """A booktabs table with everything escaped; `align` has one of l, r, c for each column."""
    table = pd.DataFrame([map(_escape, row) for row in rows], columns=[*map(_escape, header)]).style.hide(axis="index")
    return "% \\usepackage{booktabs}\n" + table.to_latex(
        column_format=f"@{{}}{align}@{{}}",
        position_float="centering",
        hrules=True,
        label=label,
        caption=_escape(caption),
    )
