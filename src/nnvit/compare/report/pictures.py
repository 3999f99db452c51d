"""The figures of the page: from the statistics to drawings, each with its caption."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nnvit.compare.inputs.costs import ArmCost
from nnvit.compare.stats.analysis import Block, Comparison
from nnvit.compare.stats.verdict import ArmPair

from . import figures
from .figures import Band, ForestRow, Point
from .wording import case_means, number, p_value

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
"""Panels of the Pareto picture: the first three that at least two arms record."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure with its caption; `title` is for screen readers."""

    name: str
    figure: Figure
    title: str
    caption: str


def pictures(comparison: Comparison, cases: pd.DataFrame, cost: Sequence[ArmCost]) -> dict[str, Picture]:
    """Returns all figures that the data allow, by their place on the page."""
    found = [
        _hero(comparison),
        _by_class(comparison),
        *_strips(comparison, cases),
        *_ranks(comparison),
        *_pareto(comparison, cost),
        *_critical(comparison),
    ]
    return {picture.name: picture for picture in found if picture}


def _hero(comparison: Comparison) -> Picture | None:
    several = len(comparison.datasets) > 1
    groups = {dataset: _forest_rows(comparison, comparison.main_block(dataset)) for dataset in comparison.datasets}
    groups = {dataset: rows for dataset, rows in groups.items() if rows}
    if not groups:
        return None
    what = "pair of arms" if not comparison.baseline else f"arm against {comparison.baseline}"
    averaged = " (mean over classes)" if any(len(found.labels) > 1 for found in comparison.datasets.values()) else ""
    rows = [row for found in groups.values() for row in found]
    said = "; ".join(f"{row.name} {row.estimate:+.2f}, {row.low:+.2f} to {row.high:+.2f}, n = {row.n}" for row in rows)
    return Picture(
        name="differences",
        figure=_forest(comparison, groups),
        title=f"Forest plot of mean differences: {said}",
        caption=f"Mean paired difference in {comparison.main.name}{averaged} of each {what}"
        f"{', per data set' if several else ''}, with n cases. {_LINES if _has_wide(rows) else _LINES.split(' The thin')[0]}",
    )


def _has_wide(rows: Sequence[ForestRow]) -> bool:
    return any(row.wide_low is not None for row in rows)


def _by_class(comparison: Comparison) -> Picture | None:
    groups = {}
    for dataset, results in comparison.datasets.items():
        if len(results.labels) < 2:
            continue
        for label in results.labels:
            name = f"{dataset} · {label}" if len(comparison.datasets) > 1 else label
            groups[name] = _forest_rows(comparison, results.metrics[comparison.metric][label])
    groups = {name: rows for name, rows in groups.items() if rows}
    if not groups:
        return None
    return Picture(
        name="classes",
        figure=_forest(comparison, groups),
        title=f"Forest plot of the differences in {comparison.main.name} for each class; the table below has its numbers",
        caption=f"Mean paired difference in {comparison.main.name} for each class, with n cases of non-empty reference. "
        "Lines as in the first figure.",
    )


def _forest(comparison: Comparison, groups: Mapping[str, Sequence[ForestRow]]) -> Figure:
    _, unit = comparison.main.scale_in(comparison.spacing_unit)
    baseline = comparison.baseline
    better, worse = ("arm better", f"{baseline} better") if baseline else ("first better", "second better")
    if len(comparison.arms) == 2:
        first, second = _two(comparison)
        better, worse = f"{first} better", f"{second} better"
    better, worse = figures.short(better, 30), figures.short(worse, 30)
    if comparison.lower_is_better:
        better, worse = worse, better
    to = f" to {figures.short(baseline, 24)}" if baseline else ""
    label = f"difference{to} in mean {comparison.main.name}, {unit}"
    return figures.forest(groups, xlabel=label, better=better, worse=worse)


def _forest_rows(comparison: Comparison, block: Block) -> list[ForestRow]:
    scale, _ = comparison.main.scale_in(comparison.spacing_unit)
    return [_forest_row(comparison, pair, scale) for pair in comparison.shown_pairs(block)]


def _forest_row(comparison: Comparison, pair: ArmPair, scale: float) -> ForestRow:
    spread, wide = pair.interval, pair.method_layer.hierarchical
    low, high = (pair.difference,) * 2 if spread.low is None or spread.high is None else (spread.low, spread.high)
    both = f"{figures.short(pair.a, 20)} − {figures.short(pair.b, 20)}"
    return ForestRow(
        name=pair.a if comparison.baseline else both,
        estimate=scale * pair.difference,
        low=scale * low,
        high=scale * high,
        wide_low=None if wide.low is None else scale * wide.low,
        wide_high=None if wide.high is None else scale * wide.high,
        n=pair.n,
        colour=comparison.arms.index(pair.a),
    )


def _two(comparison: Comparison) -> tuple[str, str]:
    """The two arms, in the order of their difference."""
    first = next(arm for arm in comparison.arms if arm != comparison.baseline)
    return first, next(arm for arm in comparison.arms if arm != first)


def _strips(comparison: Comparison, cases: pd.DataFrame) -> list[Picture]:
    several = len(comparison.datasets) > 1
    return [
        picture
        for i, dataset in enumerate(comparison.datasets)
        if (picture := _strip(comparison, cases, dataset, f"cases-{i}" if several else "cases"))
    ]


def _strip(comparison: Comparison, cases: pd.DataFrame, dataset: str, name: str) -> Picture | None:
    metric, block = comparison.metric, comparison.main_block(dataset)
    table = case_means(cases[cases["dataset"].astype(str) == dataset], metric, comparison.arms).dropna()
    table = table.groupby(level="case", sort=False).mean()
    if table.empty:
        return None
    thinned = len(table) > MAX_LINES
    if thinned:
        order = table.mean(axis=1).sort_values(kind="stable").index
        table = table.loc[order[np.linspace(0, len(order) - 1, MAX_LINES).round().astype(int)]]
    means = {arm: block.arms[arm].bounds for arm in comparison.arms}
    band, seen = None, ""
    if block.human and block.human.n:
        mean, low, high = block.human.bounds
        band = Band(mean=mean, low=low, high=high)
        seen = f" The dashed line is a second observer on the same references (n = {block.human.n}), with its interval."
    return Picture(
        name=name,
        figure=figures.paired_strip(
            {arm: table[arm].to_numpy() for arm in comparison.arms},
            means,
            ylabel=comparison.main.title_in(comparison.spacing_unit),
            human=band,
        ),
        title=f"{comparison.main.name} of every case in every arm on {dataset}, each case joined by a line",
        caption=f"{comparison.main.name} of each case on {dataset}, n = {block.n}: one line per case"
        f"{f' ({MAX_LINES} of them, evenly spread)' if thinned else ''}; beside the points the mean with its 95% interval.{seen}",
    )


def _ranks(comparison: Comparison) -> list[Picture]:
    found = []
    several = len(comparison.datasets) > 1
    for i, dataset in enumerate(comparison.datasets):
        ranks = comparison.main_block(dataset).ranks
        if not ranks or len(comparison.arms) < 3:
            continue
        tau, rows = ranks.kendall_tau, {row.arm: row for row in ranks.arms}
        spread = (
            f" Kendall's τ to the ranking of all cases: mean {number(tau.mean, 2)}, 95% of samples "
            f"{number(tau.low, 2)} to {number(tau.high, 2)}; the order is the same in {tau.same_order:.0%} of them."
            if tau.mean is not None
            else ""
        )
        found.append(
            Picture(
                name=f"ranks-{i}" if several else "ranks",
                figure=figures.rank_blobs(
                    {arm: row.shares for arm, row in rows.items()},
                    {arm: (row.mean_rank, row.low, row.high) for arm, row in rows.items()},
                ),
                title="Bootstrapped ranks: "
                + "; ".join(
                    f"{arm} mean {row.mean_rank:.2f}, {row.low:g} to {row.high:g}" for arm, row in rows.items()
                ),
                caption=f"Ranks of the arms' mean {comparison.main.name} on {dataset} over {ranks.resamples:,} bootstrap "
                f"samples of its cases; the line spans 95% of them.{spread}",
            )
        )
    return found


def _pareto(comparison: Comparison, cost: Sequence[ArmCost]) -> list[Picture]:
    known = [key for key in COSTS if sum(getattr(row, key) is not None for row in cost) > 1][:3]
    several = len(comparison.datasets) > 1
    if not known:
        return []
    found = []
    by_arm = {row.arm: row for row in cost}
    for i, dataset in enumerate(comparison.datasets):
        block = comparison.main_block(dataset)
        if not block.n:
            continue
        panels = {
            COSTS[key][0]: [_point(comparison, block, by_arm[arm], arm, key) for arm in comparison.arms]
            for key in known
        }
        found.append(
            Picture(
                name=f"pareto-{i}" if several else "pareto",
                figure=figures.pareto(
                    panels,
                    ylabel=comparison.main.title_in(comparison.spacing_unit),
                    lower_is_better=comparison.lower_is_better,
                ),
                title=f"Mean {comparison.main.name} on {dataset} against {', '.join(panels)}; the cost table has the numbers",
                caption=f"Mean {comparison.main.name} on {dataset} (n = {block.n}, 95% interval) against what it costs; "
                "the dashed step joins the arms that no other beats at the same or a lower cost. "
                "Axes over a wide range are logarithmic; an arm whose records don't tell a cost is not in its panel.",
            )
        )
    return found


def _point(comparison: Comparison, block: Block, cost: ArmCost, arm: str, key: str) -> Point:
    mean, low, high = block.arms[arm].bounds
    value = getattr(cost, key)
    x = None if value is None else value * COSTS[key][1]
    return Point(name=arm, x=x, y=mean, low=low, high=high, colour=comparison.arms.index(arm))


def _critical(comparison: Comparison) -> list[Picture]:
    across = (comparison.across_datasets or {}).get(comparison.metric)
    if not across or across.n < 2:
        return []
    average = {row.arm: row.average_rank for row in across.arms}
    ranks = {arm: average[arm] for arm in comparison.arms}
    name, test = ("Friedman's", across.friedman) if len(average) > 2 else ("Exact sign", across.sign_test)
    omnibus = f" {name} test over the data sets: p = {p_value(test.p).text}." if test.p is not None else ""
    return [
        Picture(
            name="critical-difference",
            figure=figures.critical_difference(ranks, across.groups, across.critical_difference, datasets=across.n),
            title="Critical-difference diagram of average ranks: "
            + "; ".join(f"{arm} {rank:.2f}" for arm, rank in ranks.items()),
            caption=f"Average ranks by {comparison.main.name} over {across.n} data sets; arms that a bar joins are not "
            f"told apart (Nemenyi, 5%).{omnibus}",
        )
    ]
