"""From the statistics to the figures of the page, each with its caption."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from . import figures
from .figures import Band, ForestRow, Point
from .wording import (
    NAMES,
    bounds,
    case_means,
    long_name,
    main_block,
    main_name,
    number,
    p_value,
    pairs_to_show,
    scale_of,
)

MAX_LINES = 400
_LINES = (
    "The thick line is the 95% BCa interval over cases: do these trained models differ? The thin line is the 95% hierarchical "
    "bootstrap over folds and cases: would it hold for another training?"
)
COSTS = {
    "parameters_total": ("parameters, millions", 1e-6),
    "seconds_per_iteration": ("seconds per iteration", 1.0),
    "peak_memory_bytes": ("peak memory, GiB", 2.0**-30),
    "train_hours": ("training, hours per fold", 1.0),
    "predict_seconds_per_case": ("prediction, seconds per case", 1.0),
}
"""Panels of the Pareto picture: the first three that at least two arms tell."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure with its caption; `title` is for screen readers."""

    name: str
    figure: Figure
    title: str
    caption: str


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


def _forest_rows(stats: Mapping[str, Any], block: Mapping[str, Any]) -> list[ForestRow]:
    scale, _ = scale_of(stats, stats["metric"])
    rows = []
    for pair in pairs_to_show(stats, block):
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
    means = {arm: bounds(block["arms"][arm]) for arm in stats["arms"]}
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
    mean, low, high = bounds(human)
    return Band(mean=mean, low=low, high=high)


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
    mean, low, high = bounds(block["arms"][arm])
    value = cost.get(key)
    x = None if value is None else value * COSTS[key][1]
    return Point(name=arm, x=x, y=mean, low=low, high=high, colour=stats["arms"].index(arm))


def _critical(stats: Mapping[str, Any]) -> list[Picture]:
    across = (stats["across_datasets"] or {}).get(stats["metric"])
    if not across or across["n"] < 2:
        return []
    average = {row["arm"]: row["average_rank"] for row in across["arms"]}
    ranks = {arm: average[arm] for arm in stats["arms"]}
    name, test = ("Friedman's", across["friedman"]) if len(average) > 2 else ("Exact sign", across["sign_test"])
    omnibus = f" {name} test over the data sets: p = {p_value(test['p']).text}." if test["p"] is not None else ""
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
