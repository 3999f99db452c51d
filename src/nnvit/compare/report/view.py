"""From the numbers of a comparison to what the page shows: rows of text, figures, and the facts behind its sentences."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .. import figures
from ..figures import Band, ForestRow, Point
from .words import Facts

NAMES = {
    "dice": "Dice",
    "iou": "IoU",
    "sensitivity": "sensitivity",
    "precision": "precision",
    "nsd": "NSD",
    "hd95_mm": "HD95",
    "cldice": "clDice",
    "fp_volume_mm3": "FP volume",
}
"""Columns of the table of cases, as the page names them."""
UNITS = {"mm": {"hd95_mm": "mm", "fp_volume_mm3": "mm³"}, "px": {"hd95_mm": "px", "fp_volume_mm3": "px"}}
"""Of the metrics that have one, by what the masks' spacing is in, which is `stats["spacing_unit"]`; the others lie between
0 and 1, and their differences are told in points of 0.01."""
MEAN = "mean"
MAX_PAIRS = 15
MAX_CASES = 2000
MAX_LINES = 400


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One figure of a table: text, the value that it sorts by, and its interval."""

    text: str
    value: float | None = None
    interval: str = ""
    best: bool = False


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure with its caption; `title` is for screen readers."""

    name: str
    figure: Figure
    title: str
    caption: str


def number(value: float | None, digits: int, sign: bool = False) -> str:
    """Fixed decimals with a true minus; a dash where there is no value."""
    if value is None or not np.isfinite(value):
        return "–"
    return f"{round(value, digits) + 0.0:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def p_value(p: float | None) -> Cell:
    """Two digits that count, never zero."""
    if p is None:
        return Cell(text="–")
    return Cell(text="< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}", value=p)


def digits_of(metric: str) -> int:
    """Decimals of a score."""
    return 2 if metric in UNITS["mm"] else 4


def scale_of(stats: Mapping[str, Any], metric: str) -> tuple[float, str]:
    """What a difference is multiplied by, and its unit."""
    unit = UNITS[stats["spacing_unit"]].get(metric)
    return (1.0, unit) if unit else (100.0, "points")


def long_name(stats: Mapping[str, Any], metric: str) -> str:
    """With its unit, where there is one."""
    unit = UNITS[stats["spacing_unit"]].get(metric)
    return f"{NAMES[metric]} ({unit})" if unit else NAMES[metric]


def main_name(stats: Mapping[str, Any]) -> str:
    """Of the headline's metric, without its unit."""
    return NAMES[stats["metric"]]


def label_name(label: str, labels: Sequence[str]) -> str:
    """`mean` as what it is: over the classes, or the one class itself."""
    if label != MEAN:
        return label
    return "mean over classes" if len(labels) > 1 else labels[0]


def blocks(stats: Mapping[str, Any]) -> Iterable[tuple[str, str, str, dict[str, Any]]]:
    """(data set, metric, label, block): the mean only where there are several labels, else it says the same twice."""
    for dataset, results in stats["datasets"].items():
        for metric, by_label in results["metrics"].items():
            for label, block in by_label.items():
                if label == MEAN and len(results["labels"]) == 1:
                    continue
                yield dataset, metric, label, block


def main_block(stats: Mapping[str, Any], dataset: str) -> dict[str, Any]:
    """Of the headline's metric, mean over the labels."""
    found: dict[str, Any] = stats["datasets"][dataset]["metrics"][stats["metric"]][MEAN]
    return found


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


def metrics_shown(stats: Mapping[str, Any]) -> list[str]:
    """Metrics of any data set, the headline's first."""
    found = dict.fromkeys(metric for results in stats["datasets"].values() for metric in results["metrics"])
    return sorted(found, key=lambda metric: metric != stats["metric"])


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
        for pair in _pairs_to_show(stats, main_block(stats, dataset))
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
        mean, low, high = _bounds(human)
        digits = digits_of(stats["metric"])
        arms = ", ".join(f"{arm} {number(score, digits)}" for arm, score in human["arms_on_same_cases"].items())
        lines.append(
            f"A second observer agrees with the reference at a mean {main_name(stats)} of {number(mean, digits)} "
            f"(95% interval {number(low, digits)} to {number(high, digits)}, n = {human['n']} cases of {dataset}); "
            f"on the same cases: {arms}."
        )
    return lines


# --- figures -----------------------------------------------------------------------------------------------------------


def pictures(stats: Mapping[str, Any], cases: pd.DataFrame, cost: Sequence[Mapping[str, Any]]) -> dict[str, Picture]:
    """All figures that the data allow, by their place on the page."""
    found = [
        _hero(stats),
        _by_class(stats),
        *_strips(stats, cases),
        *_ranks(stats),
        *_pareto(stats, cost),
        *_critical(stats),
    ]
    return {picture.name: picture for picture in found if picture}


def _pairs_to_show(stats: Mapping[str, Any], block: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Against the baseline where there is one, else all pairs, the largest differences first."""
    pairs: list[dict[str, Any]] = block["pairs"]
    if stats["baseline"]:
        return [pair for pair in pairs if stats["baseline"] in (pair["a"], pair["b"])]
    return sorted(pairs, key=lambda pair: -abs(pair["difference"]))[:MAX_PAIRS]


def _forest_rows(stats: Mapping[str, Any], block: Mapping[str, Any]) -> list[ForestRow]:
    scale, _ = scale_of(stats, stats["metric"])
    rows = []
    for pair in _pairs_to_show(stats, block):
        spread, wide = pair["interval"], pair["method_layer"]["hierarchical"]
        point = pair["difference"]
        low, high = (point, point) if spread["low"] is None else (spread["low"], spread["high"])
        rows.append(
            ForestRow(
                name=pair["a"]
                if stats["baseline"]
                else f"{figures.short(pair['a'], 20)} − {figures.short(pair['b'], 20)}",
                estimate=scale * point,
                low=scale * low,
                high=scale * high,
                wide_low=None if wide["low"] is None else scale * wide["low"],
                wide_high=None if wide["high"] is None else scale * wide["high"],
                n=pair["n"],
                colour=stats["arms"].index(pair["a"]),
            )
        )
    return rows


def _two(stats: Mapping[str, Any]) -> tuple[str, str]:
    """The arms of the only pair, in the order of its difference."""
    first = next(arm for arm in stats["arms"] if arm != stats["baseline"])
    return first, next(arm for arm in stats["arms"] if arm != first)


def _forest(stats: Mapping[str, Any], groups: Mapping[str, Sequence[ForestRow]]) -> Figure:
    _, unit = scale_of(stats, stats["metric"])
    baseline = stats["baseline"]
    better, worse = ("arm better", f"{baseline} better") if baseline else ("first better", "second better")
    if len(stats["arms"]) == 2:
        first, second = _two(stats)
        better, worse = f"{first} better", f"{second} better"
    better, worse = figures.short(better, 30), figures.short(worse, 30)
    if stats["lower_is_better"]:
        better, worse = worse, better
    to = f" to {figures.short(baseline, 24)}" if baseline else ""
    label = f"difference{to} in mean {main_name(stats)}, {unit}"
    return figures.forest(groups, xlabel=label, better=better, worse=worse)


_LINES = (
    "The thick line is the 95% BCa interval over cases: do these trained models differ? The thin line is the 95% hierarchical "
    "bootstrap over folds and cases: would it hold for another training?"
)


def _hero(stats: Mapping[str, Any]) -> Picture | None:
    several = len(stats["datasets"]) > 1
    groups = {dataset: _forest_rows(stats, main_block(stats, dataset)) for dataset in stats["datasets"]}
    groups = {dataset: rows for dataset, rows in groups.items() if rows}
    if not groups:
        return None
    what = "pair of arms" if not stats["baseline"] else f"arm against {stats['baseline']}"
    averaged = " (mean over classes)" if any(len(found["labels"]) > 1 for found in stats["datasets"].values()) else ""
    rows = [row for found in groups.values() for row in found]
    said = "; ".join(f"{row.name} {row.estimate:+.2f}, {row.low:+.2f} to {row.high:+.2f}, n = {row.n}" for row in rows)
    return Picture(
        name="differences",
        figure=_forest(stats, groups),
        title=f"Forest plot of mean differences: {said}",
        caption=f"Mean paired difference in {main_name(stats)}{averaged} of each {what}"
        f"{', per data set' if several else ''}, with n cases. {_LINES if _has_wide(rows) else _LINES.split(' The thin')[0]}",
    )


def _has_wide(rows: Sequence[ForestRow]) -> bool:
    return any(row.wide_low is not None for row in rows)


def _by_class(stats: Mapping[str, Any]) -> Picture | None:
    groups = {}
    for dataset, results in stats["datasets"].items():
        if len(results["labels"]) < 2:
            continue
        for label in results["labels"]:
            name = f"{dataset} · {label}" if len(stats["datasets"]) > 1 else label
            groups[name] = _forest_rows(stats, results["metrics"][stats["metric"]][label])
    groups = {name: rows for name, rows in groups.items() if rows}
    if not groups:
        return None
    return Picture(
        name="classes",
        figure=_forest(stats, groups),
        title=f"Forest plot of the differences in {main_name(stats)} for each class; the table below has its numbers",
        caption=f"Mean paired difference in {main_name(stats)} for each class, with n cases of non-empty reference. "
        "Lines as in the first figure.",
    )


def _strips(stats: Mapping[str, Any], cases: pd.DataFrame) -> list[Picture]:
    several = len(stats["datasets"]) > 1
    return [
        picture
        for i, dataset in enumerate(stats["datasets"])
        if (picture := _strip(stats, cases, dataset, f"cases-{i}" if several else "cases"))
    ]


def _strip(stats: Mapping[str, Any], cases: pd.DataFrame, dataset: str, name: str) -> Picture | None:
    metric, block = stats["metric"], main_block(stats, dataset)
    table = case_means(cases[cases["dataset"].astype(str) == dataset], metric, stats["arms"]).dropna()
    table = table.groupby(level="case", sort=False).mean()
    if table.empty:
        return None
    thinned = len(table) > MAX_LINES
    if thinned:
        order = table.mean(axis=1).sort_values(kind="stable").index
        table = table.loc[order[np.linspace(0, len(order) - 1, MAX_LINES).round().astype(int)]]
    means = {arm: _bounds(block["arms"][arm]) for arm in stats["arms"]}
    human = block["human"]
    band = _band(human) if human and human["n"] else None
    seen = (
        f" The dashed line is a second observer on the same references (n = {human['n']}), with its interval."
        if band
        else ""
    )
    return Picture(
        name=name,
        figure=figures.paired_strip(
            {arm: table[arm].to_numpy() for arm in stats["arms"]}, means, ylabel=long_name(stats, metric), human=band
        ),
        title=f"{NAMES[metric]} of every case in every arm on {dataset}, each case joined by a line",
        caption=f"{NAMES[metric]} of each case on {dataset}, n = {block['n']}: one line per case"
        f"{f' ({MAX_LINES} of them, evenly spread)' if thinned else ''}; beside the points the mean with its 95% interval.{seen}",
    )


def _band(human: Mapping[str, Any]) -> Band:
    mean, low, high = _bounds(human)
    return Band(mean=mean, low=low, high=high)


def _bounds(found: Mapping[str, Any]) -> tuple[float, float, float]:
    mean, spread = found["mean"], found["interval"]
    return (mean, mean, mean) if spread["low"] is None else (mean, spread["low"], spread["high"])


def case_means(cases: pd.DataFrame, metric: str, arms: Sequence[str]) -> pd.DataFrame:
    """(data set, case, label) -> one column per arm, mean over its runs, in the order of the table."""
    table = cases.groupby(["dataset", "case", "label", "arm"], sort=False)[metric].mean().unstack("arm")
    return table.reindex(columns=list(arms))


def _ranks(stats: Mapping[str, Any]) -> list[Picture]:
    found = []
    several = len(stats["datasets"]) > 1
    for i, dataset in enumerate(stats["datasets"]):
        ranks = main_block(stats, dataset)["ranks"]
        if not ranks or len(stats["arms"]) < 3:
            continue
        tau, rows = ranks["kendall_tau"], {row["arm"]: row for row in ranks["arms"]}
        spread = (
            f" Kendall's τ to the ranking of all cases: mean {number(tau['mean'], 2)}, 95% of samples "
            f"{number(tau['low'], 2)} to {number(tau['high'], 2)}; the order is the same in {tau['same_order']:.0%} of them."
            if tau["mean"] is not None
            else ""
        )
        found.append(
            Picture(
                name=f"ranks-{i}" if several else "ranks",
                figure=figures.rank_blobs(
                    {arm: row["shares"] for arm, row in rows.items()},
                    {arm: (row["mean_rank"], row["low"], row["high"]) for arm, row in rows.items()},
                ),
                title="Bootstrapped ranks: "
                + "; ".join(
                    f"{arm} mean {row['mean_rank']:.2f}, {row['low']:g} to {row['high']:g}" for arm, row in rows.items()
                ),
                caption=f"Ranks of the arms' mean {main_name(stats)} on {dataset} over {ranks['resamples']:,} bootstrap "
                f"samples of its cases; the line spans 95% of them.{spread}",
            )
        )
    return found


COSTS = {
    "parameters_total": ("parameters, millions", 1e-6),
    "seconds_per_iteration": ("seconds per iteration", 1.0),
    "peak_memory_bytes": ("peak memory, GiB", 2.0**-30),
    "train_hours": ("training, hours per fold", 1.0),
    "predict_seconds_per_case": ("prediction, seconds per case", 1.0),
}
"""Panels of the Pareto picture: the first three that at least two arms tell."""


def _pareto(stats: Mapping[str, Any], cost: Sequence[Mapping[str, Any]]) -> list[Picture]:
    known = [key for key in COSTS if sum(row.get(key) is not None for row in cost) > 1][:3]
    several = len(stats["datasets"]) > 1
    if not known:
        return []
    found = []
    by_arm = {row["arm"]: row for row in cost}
    for i, dataset in enumerate(stats["datasets"]):
        block = main_block(stats, dataset)
        if not block["n"]:
            continue
        panels = {
            COSTS[key][0]: [_point(stats, block, by_arm.get(arm, {}), arm, key) for arm in stats["arms"]]
            for key in known
        }
        found.append(
            Picture(
                name=f"pareto-{i}" if several else "pareto",
                figure=figures.pareto(
                    panels, ylabel=long_name(stats, stats["metric"]), lower_is_better=stats["lower_is_better"]
                ),
                title=f"Mean {main_name(stats)} on {dataset} against {', '.join(panels)}; the cost table has the numbers",
                caption=f"Mean {main_name(stats)} on {dataset} (n = {block['n']}, 95% interval) against what it costs; "
                "the dashed step joins the arms that no other beats at the same or a lower cost. "
                "Axes over a wide range are logarithmic; an arm whose records don't tell a cost is not in its panel.",
            )
        )
    return found


def _point(stats: Mapping[str, Any], block: Mapping[str, Any], cost: Mapping[str, Any], arm: str, key: str) -> Point:
    mean, low, high = _bounds(block["arms"][arm])
    value = cost.get(key)
    x = None if value is None else value * COSTS[key][1]
    return Point(name=arm, x=x, y=mean, low=low, high=high, colour=stats["arms"].index(arm))


def _critical(stats: Mapping[str, Any]) -> list[Picture]:
    across = (stats["across_datasets"] or {}).get(stats["metric"])
    if not across or across["n"] < 2:
        return []
    average = {row["arm"]: row["average_rank"] for row in across["arms"]}
    ranks = {arm: average[arm] for arm in stats["arms"]}
    p = across["friedman"]["p"]
    omnibus = f" Friedman's test over the data sets: p = {p_value(p).text}." if p is not None else ""
    return [
        Picture(
            name="critical-difference",
            figure=figures.critical_difference(ranks, across["critical_difference"], datasets=across["n"]),
            title="Critical-difference diagram of average ranks: "
            + "; ".join(f"{arm} {rank:.2f}" for arm, rank in ranks.items()),
            caption=f"Average ranks by {main_name(stats)} over {across['n']} data sets; arms that a bar joins are not "
            f"told apart (Nemenyi, 5%).{omnibus}",
        )
    ]


# --- cases, cost, audit ------------------------------------------------------------------------------------------------


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


STATES = {
    "equal": "equal",
    "by design": "design",
    "declared": "declared",
    "different": "different",
    "unknown": "unknown",
}


def audit_rows(audit: Mapping[str, Any], arms: Sequence[str]) -> list[dict[str, Any]]:
    """What must be looked at first: different, then declared, unknown, by design, equal."""
    order = ["different", "declared", "unknown", "by design", "equal"]
    rows = sorted(audit["rows"], key=lambda row: order.index(row["status"]))
    return [
        {
            "key": row.get("title") or row["key"].replace("_", " "),
            "status": row["status"],
            "state": STATES[row["status"]],
            "values": [str(row["values"].get(arm, "unknown")) for arm in arms],
        }
        for row in rows
    ]


def facts_of(
    stats: Mapping[str, Any],
    cases: pd.DataFrame,
    audit: Mapping[str, Any],
    cost: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
) -> Facts:
    """What the sentences of the page depend on."""
    results = stats["datasets"].values()
    folds = [len({name for arm in found["folds"].values() for name in arm} - {""}) for found in results]
    references = cases.drop_duplicates(["dataset", "case", "label"])
    unknown = [row.get("title") or row["key"] for row in audit["rows"] if row["status"] == "unknown"]
    return Facts(
        arms=stats["arms"],
        datasets=list(stats["datasets"]),
        cases=sum(found["n_cases"] for found in results),
        folds=min(folds),
        runs=min(len(runs) for found in results for runs in found["runs"].values()),
        metrics=metrics_shown(stats),
        resamples=stats["settings"]["resamples"],
        human=any(main_block(stats, dataset)["human"] for dataset in stats["datasets"]),
        options=options,
        missed=int(cases["missed"].sum()),
        empty=int((references["n_ref"] == 0).sum()),
        unknown=unknown,
        devices=sorted({row["device"] for row in cost if row.get("device")}),
        left_out=sum(main_block(stats, dataset)["left_out"] for dataset in stats["datasets"]),
    )
