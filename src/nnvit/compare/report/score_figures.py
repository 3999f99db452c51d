"""The figures of the scores: every case in every arm, and the means against what the arms cost.

No global state: neither pyplot nor a backend is used.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from nnvit.compare.inputs.arms import ArmCost
from nnvit.compare.stats.analysis import Comparison

from .figure_style import ARMS, HUMAN, MARKERS, MEAN_EDGE, SOFT, STYLED, WIDTH, Picture, short

MAX_LINES = 400
COSTS = {
    "parameters_total": ("parameters, millions", 1e-6),
    "seconds_per_iteration": ("seconds per iteration", 1.0),
    "peak_memory_bytes": ("peak memory, GiB", 2.0**-30),
    "train_hours": ("training, hours per fold", 1.0),
    "predict_seconds_per_case": ("prediction, seconds per case", 1.0),
}
_Bounds = tuple[float, float, float]
"""The mean of an arm and its interval: mean, low, high."""
MAX_PANELS = 3
"""Panels of the Pareto picture: the first of `COSTS` that at least two arms record."""


def score_pictures(comparison: Comparison, case_means: pd.DataFrame, cost: Sequence[ArmCost]) -> Iterator[Picture]:
    """Yields a picture of every case in every arm, and one of the means against the costs, for each data set.

    case_means: (data set, case, label) -> a column per arm. There is no picture of a data set where no case has a value in
    all arms, and none of costs that fewer than two arms record.
    """
    for i, dataset in enumerate(comparison.datasets):
        number = f"-{i}" if len(comparison.datasets) > 1 else ""
        yield from _every_case(comparison, dataset, case_means, f"cases{number}")
        yield from _against_costs(comparison, dataset, cost, f"pareto{number}")


def _every_case(comparison: Comparison, dataset: str, case_means: pd.DataFrame, name: str) -> Iterator[Picture]:
    metric, block = comparison.main, comparison.main_block(dataset)
    here = case_means.index.get_level_values("dataset").astype(str) == dataset
    table = case_means[here].dropna().groupby(level="case", sort=False).mean()
    if table.empty:
        return
    thinned, seen, human = "", "", None
    if len(table) > MAX_LINES:
        order = table.mean(axis=1).sort_values(kind="stable").index
        table = table.loc[order[np.linspace(0, len(order) - 1, MAX_LINES).round().astype(int)]]
        thinned = f" ({MAX_LINES} of them, evenly spread)"
    if block.human and block.human.n:
        human = block.human.bounds
        seen = f" The dashed line is a second observer on the same references (n = {block.human.n}), with its interval."
    means = {arm: block.arms[arm].bounds for arm in comparison.arms}
    yield Picture(
        name=name,
        figure=_paired_strip(table, means, ylabel=metric.title_in(comparison.spacing_unit), human=human),
        title=f"{metric.name} of every case in every arm on {dataset}, each case joined by a line",
        caption=f"{metric.name} of each case on {dataset}, n = {block.n}: one line per case{thinned}; "
        f"beside the points the mean with its 95% interval.{seen}",
    )


@STYLED
def _paired_strip(
    table: pd.DataFrame,
    means: Mapping[str, _Bounds],
    *,
    ylabel: str,
    human: _Bounds | None = None,
) -> Figure:
    """Draws every case as a point per arm, joined by a line; beside the points the mean with its interval.

    table: a row per case, a column per arm. means: by arm. human: the mean of a second observer.
    """
    arms, table_NA = list(table.columns), table.to_numpy(float)
    alpha = float(np.clip(12 / max(len(table_NA), 1), 0.12, 0.6))
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes = figure.subplots()
    lines = [np.column_stack([np.arange(len(arms)), case_A]) for case_A in table_NA]
    axes.add_collection(LineCollection(lines, colors=SOFT, linewidths=0.6, alpha=alpha, zorder=1))
    for i, arm in enumerate(arms):
        colour, marker = ARMS[i % len(ARMS)], MARKERS[i % len(MARKERS)]
        dots: dict[str, Any] = {"markersize": 3, "alpha": 0.6, "markeredgewidth": 0}
        axes.plot(np.full(len(table_NA), i), table_NA[:, i], marker, color=colour, **dots)
        mean, low, high = means[arm]
        axes.plot([i + 0.13] * 2, [low, high], color=colour, linewidth=3.2, solid_capstyle="butt")
        axes.plot([i + 0.13], [mean], marker, color=colour, markersize=6, **MEAN_EDGE)
    if human:
        mean, low, high = human
        axes.axhspan(low, high, color=HUMAN, alpha=0.12, linewidth=0)
        axes.axhline(mean, color=HUMAN, linewidth=1, linestyle=(0, (4, 3)))
        place: dict[str, Any] = {"xytext": (6, 0), "textcoords": "offset points", "ha": "left", "va": "center"}
        text = f"second\nobserver\n{mean:.3g}"
        axes.annotate(text, (1, mean), xycoords=axes.get_yaxis_transform(), color=HUMAN, **place)
    axes.set_xticks(range(len(arms)), [_stacked(arm, len(arms)) for arm in arms])
    axes.set_xlim(-0.4, len(arms) - 0.6)
    axes.set_ylabel(ylabel)
    axes.grid(axis="y")
    return figure


def _stacked(name: str, arms: int) -> str:
    """Breaks a name into lines that fit its share of the width, at separators if it has any."""
    width = max(9, 66 // max(arms, 1))
    lines, rest = [], short(name, 3 * width)
    while len(rest) > width:
        at = max(rest.rfind(mark, 1, width) for mark in " _-,·")
        at = at + 1 if at > 0 else width
        lines.append(rest[:at].rstrip())
        rest = rest[at:]
    return "\n".join([*lines, rest])


def _against_costs(comparison: Comparison, dataset: str, cost: Sequence[ArmCost], name: str) -> Iterator[Picture]:
    metric, block = comparison.main, comparison.main_block(dataset)
    panels: dict[str, dict[str, float]] = {}
    for key, (what, factor) in COSTS.items():
        known = {row.arm: factor * value for row in cost if (value := getattr(row, key)) is not None}
        if len(known) > 1 and len(panels) < MAX_PANELS:
            panels[what] = known
    if block.n and panels:
        means = {arm: block.arms[arm].bounds for arm in comparison.arms}
        yield Picture(
            name=name,
            figure=_pareto(panels, means, metric.title_in(comparison.spacing_unit), comparison.lower_is_better),
            title=f"Mean {metric.name} on {dataset} against {', '.join(panels)}; the cost table has the numbers",
            caption=f"Mean {metric.name} on {dataset} (n = {block.n}, 95% interval) against what it costs; "
            "the dashed step joins the arms that no other beats at the same or a lower cost. "
            "Axes over a wide range are logarithmic; an arm whose records don't tell a cost is not in its panel.",
        )


@STYLED
def _pareto(
    panels: Mapping[str, Mapping[str, float]], means: Mapping[str, _Bounds], ylabel: str, lower_is_better: bool = False
) -> Figure:
    """Draws quality against cost: a panel per cost (its name with the unit); the step is the Pareto front.

    panels: cost -> arm -> its value; arms whose cost isn't known are left out of a panel. means: by arm.
    """
    figure = Figure(figsize=(WIDTH, 2.6 + 0.2 * -(-len(means) // 3)), layout="constrained")
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (xlabel, costs) in zip(grid, panels.items(), strict=True):
        _pareto_panel(axes, costs, means, lower_is_better)
        axes.set_xlabel(xlabel)
    grid[0].set_ylabel(ylabel)
    marks = [
        grid[0].plot([], [], MARKERS[i % len(MARKERS)], color=ARMS[i % len(ARMS)], markersize=7)[0]
        for i in range(len(means))
    ]
    figure.legend(marks, [short(name) for name in means], loc="outside lower center", ncols=min(3, len(means)))
    return figure


def _pareto_panel(axes: Axes, costs: Mapping[str, float], means: Mapping[str, _Bounds], lower_is_better: bool) -> None:
    front = _pareto_front([(cost, means[arm][0]) for arm, cost in costs.items()], lower_is_better)
    if front:
        xs, ys = zip(*front, strict=True)
        axes.step(xs, ys, where="post", color=SOFT, linewidth=0.9, linestyle=(0, (3, 2)), zorder=1)
    for i, (arm, (mean, low, high)) in enumerate(means.items()):
        if arm not in costs:
            continue
        colour, marker, x = ARMS[i % len(ARMS)], MARKERS[i % len(MARKERS)], costs[arm]
        axes.plot([x, x], [low, high], color=colour, linewidth=1.2, zorder=2)
        axes.plot([x], [mean], marker, color=colour, markersize=7.5, zorder=3, **MEAN_EDGE)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    positive = [cost for cost in costs.values() if cost]
    if len(positive) > 1 and max(positive) / min(positive) > 8:
        axes.set_xscale("log")
        decades = np.log10(max(positive) / min(positive))
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 1.4 else (1,)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.15, y=0.12)
    axes.grid()


def _pareto_front(points: Sequence[tuple[float, float]], lower_is_better: bool = False) -> list[tuple[float, float]]:
    """The (cost, quality) points that no other beats at the same or lower cost, cheapest first."""
    sign = -1 if lower_is_better else 1
    front: list[tuple[float, float]] = []
    for cost, quality in sorted(points, key=lambda point: (point[0], -sign * point[1])):
        if not front or sign * quality > sign * front[-1][1]:
            front.append((cost, quality))
    return front
