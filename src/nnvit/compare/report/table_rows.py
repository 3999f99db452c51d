"""From the numbers of a comparison to the rows of the page's tables, and its lines of text about single figures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from .wording import (
    NAMES,
    Cell,
    blocks,
    bounds,
    case_means,
    digits_of,
    label_name,
    long_name,
    main_block,
    main_name,
    metrics_shown,
    number,
    p_value,
    pairs_to_show,
    scale_of,
)

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
    "equal": "equal",
    "by design": "design",
    "declared": "declared",
    "different": "different",
    "unknown": "unknown",
}


def score_rows(stats: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row per data set, class and arm: the means of all metrics with their intervals."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for dataset, metric, label, block in blocks(stats):
        means = [arm["mean"] for arm in block["arms"].values() if arm["mean"] is not None]
        best = (min if block["lower_is_better"] else max)(means, default=None)
        for arm, found in block["arms"].items():
            labels = stats["datasets"][dataset]["labels"]
            head = {"dataset": dataset, "label": label_name(label, labels), "arm": arm, "n": found["n"], "cells": {}}
            row = rows.setdefault((dataset, label, arm), head)
            row["n"] = max(row["n"], found["n"])
            row["cells"][metric] = _score(found, digits_of(metric), found["mean"] == best and len(means) > 1)
    return list(rows.values())


def _score(found: Mapping[str, Any], digits: int, best: bool) -> Cell:
    spread = found["interval"]
    known = spread["low"] is not None
    text = f"{number(spread['low'], digits)} to {number(spread['high'], digits)}" if known else ""
    return Cell(text=number(found["mean"], digits), value=found["mean"], interval=text, best=best)


def pair_rows(stats: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row per data set, metric, class and pair, with the two layers of the verdict."""
    rows = []
    for dataset, metric, label, block in blocks(stats):
        labels = stats["datasets"][dataset]["labels"]
        for pair in block["pairs"]:
            row = {"dataset": dataset, "metric": NAMES[metric], "label": label_name(label, labels)}
            rows.append(row | {"main": metric == stats["metric"]} | _pair(stats, pair, metric))
    return rows


def _pair(stats: Mapping[str, Any], pair: Mapping[str, Any], metric: str) -> dict[str, Any]:
    scale, unit = scale_of(stats, metric)
    folds, test = pair["method_layer"], pair["wilcoxon"]
    return {
        "a": pair["a"],
        "b": pair["b"],
        "n": pair["n"],
        "unit": unit,
        "difference": _difference(pair["difference"], pair["interval"], scale),
        "hierarchical": _range(folds["hierarchical"], scale),
        "p_holm": p_value(test["p_holm"]),
        "p": p_value(test["p"]),
        "effect": Cell(text=number(test["rank_biserial"], 2, sign=True), value=test["rank_biserial"]),
        "fold_t": p_value(folds["paired_t"]["p_holm"]),
        "nadeau_bengio": p_value(folds["nadeau_bengio"]["p_holm"]),
        "n_folds": folds["n_folds"],
        "n_runs": folds["n_runs"],
        "level": pair["verdict"]["level"],
        "cases": pair["verdict"]["cases"],
        "method": pair["verdict"]["method"],
    }


def _difference(value: float | None, spread: Mapping[str, Any], scale: float) -> Cell:
    scaled = None if value is None else scale * value
    return Cell(text=number(scaled, 2, sign=True), value=scaled, interval=_range(spread, scale).text)


def _range(spread: Mapping[str, Any], scale: float) -> Cell:
    if spread["low"] is None:
        return Cell(text="–")
    low, high = scale * spread["low"], scale * spread["high"]
    return Cell(text=f"{number(low, 2, sign=True)} to {number(high, 2, sign=True)}", value=low)


def claims(stats: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The verdict's words on the headline's metric: against the baseline, or on all pairs, the largest differences first."""
    return [
        {"dataset": dataset, "a": pair["a"], "b": pair["b"], **pair["verdict"]}
        for dataset in stats["datasets"]
        for pair in pairs_to_show(stats, main_block(stats, dataset))
    ]


def trainings(stats: Mapping[str, Any]) -> str:
    """`3 trainings`, or `1 to 3 trainings` where arms differ."""
    counts = [len(runs) for results in stats["datasets"].values() for runs in results["runs"].values()]
    low, high = min(counts), max(counts)
    return f"{low} training{'s' * (low != 1)}" if low == high else f"{low} to {high} trainings"


def omnibus(stats: Mapping[str, Any]) -> list[str]:
    """Friedman's test of each data set, or why there is none."""
    lines = []
    for dataset in stats["datasets"]:
        test = main_block(stats, dataset)["friedman"]
        if test["p"] is not None:
            p = p_value(test["p"]).text
            equals = "" if "<" in p else "= "
            lines.append(
                f"Friedman over all {test['arms']} arms on {dataset}: χ² = {test['statistic']:.2f}, p {equals}{p}, "
                f"n = {test['n']} cases."
            )
        lines += main_block(stats, dataset)["notes"]
    return lines


def human_lines(stats: Mapping[str, Any]) -> list[str]:
    """How a second observer agrees with the reference, beside the arms on the same cases."""
    lines = []
    for dataset in stats["datasets"]:
        human = main_block(stats, dataset)["human"]
        if not human:
            continue
        if not human["n"]:
            lines.append(f"Second observer on {dataset}: {human['reason']}.")
            continue
        mean, low, high = bounds(human)
        digits = digits_of(stats["metric"])
        arms = ", ".join(f"{arm} {number(score, digits)}" for arm, score in human["arms_on_same_cases"].items())
        lines.append(
            f"A second observer agrees with the reference at a mean {main_name(stats)} of {number(mean, digits)} "
            f"(95% interval {number(low, digits)} to {number(high, digits)}, n = {human['n']} cases of {dataset}); "
            f"on the same cases: {arms}."
        )
    return lines


def case_rows(cases: pd.DataFrame, stats: Mapping[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any], int]:
    """Rows of the table of cases with the headline's metric, the other metrics' values for the page's script, and how many rows
    were left out: where there are too many, those with the widest spread between arms stay."""
    arms, metric = stats["arms"], stats["metric"]
    tables = {name: case_means(cases, name, arms) for name in metrics_shown(stats)}
    main = tables[metric]
    spread = (main.max(axis=1) - main.min(axis=1)).fillna(-1)
    kept = main.index
    if len(main) > MAX_CASES:
        chosen = set(spread.sort_values(ascending=False, kind="stable").index[:MAX_CASES])
        kept = pd.MultiIndex.from_tuples([key for key in main.index if key in chosen], names=main.index.names)
    facts = cases.groupby(["dataset", "case", "label"], sort=False).agg(
        fold=("fold", lambda folds: ", ".join(dict.fromkeys(map(str, folds)))),
        n_ref=("n_ref", "first"),
        missed=("missed", "sum"),
    )
    rows = []
    for key in kept:
        values = _plain(main.loc[key])
        known = [value for value in values if value is not None]
        fact = facts.loc[key]
        rows.append(
            {"dataset": key[0], "case": key[1], "label": key[2], "fold": fact["fold"], "n_ref": int(fact["n_ref"])}
            | {
                "missed": int(fact["missed"]),
                "cells": [Cell(text=number(v, digits_of(metric)), value=v) for v in values],
            }
            | {"spread": _spread(known, digits_of(metric))}
        )
    data = {
        name: {
            "name": long_name(stats, name),
            "digits": digits_of(name),
            "values": [
                [None if v is None else round(v, 5) for v in _plain(row)] for _, row in table.loc[kept].iterrows()
            ],
        }
        for name, table in tables.items()
    }
    return rows, data, len(main) - len(kept)


def _plain(row: pd.Series) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in row.to_numpy(float)]


def _spread(known: Sequence[float], digits: int) -> Cell:
    if len(known) < 2:
        return Cell(text="–")
    return Cell(text=number(max(known) - min(known), digits), value=max(known) - min(known))


def cost_rows(cost: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row per arm; what its records do not tell is `unknown`."""
    return [
        {
            "arm": row["arm"],
            "device": row.get("device") or "unknown",
            "cells": [_cost(row.get(key), factor, digits) for key, _, _, factor, digits in COST_COLUMNS],
        }
        for row in cost
    ]


def _cost(value: float | None, factor: float, digits: int) -> Cell:
    if value is None:
        return Cell(text="unknown")
    least = 10.0**-digits
    text = f"< {least:.{digits}f}" if 0 < value * factor < least else number(value * factor, digits)
    return Cell(text=text, value=value * factor)


def cost_note(cost: Sequence[Mapping[str, Any]]) -> str:
    """What an iteration's seconds are of, and where times can't be compared."""
    of = {row["seconds_per_iteration_of"] for row in cost if row.get("seconds_per_iteration_of")}
    devices = {row["device"] for row in cost if row.get("device")}
    notes = [f"Seconds per iteration: {', '.join(sorted(of))}."] if of else []
    notes += ["The records name different devices, so that times may not be comparable."] if len(devices) > 1 else []
    return " ".join(notes)


def audit_rows(audit: Mapping[str, Any], arms: Sequence[str]) -> list[dict[str, Any]]:
    """What must be looked at first: different, then declared, unknown, by design, equal."""
    order = ["different", "declared", "unknown", "by design", "equal"]
    rows = sorted(audit["rows"], key=lambda row: order.index(row["status"]))
    return [
        {
            "key": row.get("title") or row["key"].replace("_", " "),
            "status": row["status"],
            "state": STATES[row["status"]],
            "told": [str(row["values"].get(arm, "unknown")) for arm in arms],
        }
        for row in rows
    ]
