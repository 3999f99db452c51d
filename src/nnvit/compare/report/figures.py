"""The figures of the page, each with its caption: the differences, the ranks, and those of `score_figures`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnvit.compare.inputs.arms import ArmCost
from nnvit.compare.stats.analysis import MEAN, Comparison
from nnvit.compare.stats.ranks import Ranks

from .figure_style import ARMS, INK, MARKERS, MEAN_EDGE, SOFT, STYLED, WIDTH, Picture, short
from .score_figures import score_pictures
from .wording import number, p_value

_LINES = (
    "The thick line is the 95% BCa interval over cases: do these trained models differ? The thin line is the 95% hierarchical "
    "bootstrap over folds and cases: would it hold for another training?"
)


@dataclass(frozen=True, kw_only=True)
class _ForestRow:
    """One difference of the forest over n cases, in the metric's own unit.

    name: the arm, or "A − B". low, high: the interval over cases. wide: the one over folds and cases, None where there is only
    one fold. colour: number of the arm.
    """

    name: str
    estimate: float
    low: float
    high: float
    wide: tuple[float, float] | None
    n: int
    colour: int


def pictures(comparison: Comparison, case_means: pd.DataFrame, cost: Sequence[ArmCost]) -> dict[str, Picture]:
    """Returns all figures that the data allow, by their place on the page. case_means: as for `score_pictures`."""
    order = ("differences", "classes", "cases", "ranks", "pareto", "critical")
    found = [
        *_differences(comparison),
        *_by_class(comparison),
        *_ranks(comparison),
        *_critical(comparison),
        *score_pictures(comparison, case_means, cost),
    ]
    return {picture.name: picture for picture in sorted(found, key=lambda one: order.index(one.name.split("-")[0]))}


def _differences(comparison: Comparison) -> Iterator[Picture]:
    groups = {dataset: _forest_rows(comparison, dataset) for dataset in comparison.datasets}
    rows = [row for found in groups.values() for row in found]
    if not rows:
        return
    several = len(comparison.datasets) > 1
    what = "pair of arms" if not comparison.baseline else f"arm against {comparison.baseline}"
    averaged = " (mean over classes)" if any(len(found.labels) > 1 for found in comparison.datasets.values()) else ""
    told = "; ".join(f"{row.name} {row.estimate:+.2f}, {row.low:+.2f} to {row.high:+.2f}, n = {row.n}" for row in rows)
    lines = _LINES if any(row.wide for row in rows) else _LINES.split(" The thin")[0]
    yield Picture(
        name="differences",
        figure=_forest_of(comparison, groups),
        title=f"Forest plot of mean differences: {told}",
        caption=f"Mean paired difference in {comparison.main.name}{averaged} of each {what}"
        f"{', per data set' if several else ''}, with n cases. {lines}",
    )


def _by_class(comparison: Comparison) -> Iterator[Picture]:
    several, metric = len(comparison.datasets) > 1, comparison.main
    groups = {
        f"{dataset} · {label}" if several else label: _forest_rows(comparison, dataset, label)
        for dataset, results in comparison.datasets.items()
        if len(results.labels) > 1
        for label in results.labels
    }
    if any(groups.values()):
        yield Picture(
            name="classes",
            figure=_forest_of(comparison, groups),
            title=f"Forest plot of the differences in {metric.name} for each class; the table below has its numbers",
            caption=f"Mean paired difference in {metric.name} for each class, with n cases of non-empty reference. "
            "Lines as in the first figure.",
        )


def _forest_rows(comparison: Comparison, dataset: str, label: str = MEAN) -> list[_ForestRow]:
    scale, _ = comparison.main.scale_in(comparison.spacing_unit)

    def scaled(spread: Any) -> tuple[float, float] | None:
        return None if spread.low is None else (scale * spread.low, scale * spread.high)

    rows = []
    for pair in comparison.shown_pairs(dataset, label):
        estimate = scale * pair.difference
        low, high = scaled(pair.interval) or (estimate, estimate)
        rows.append(
            _ForestRow(
                name=pair.a if comparison.baseline else f"{short(pair.a, 20)} − {short(pair.b, 20)}",
                estimate=estimate,
                low=low,
                high=high,
                wide=scaled(pair.method_layer.hierarchical),
                n=pair.n,
                colour=comparison.arms.index(pair.a),
            )
        )
    return rows


def _forest_of(comparison: Comparison, groups: Mapping[str, Sequence[_ForestRow]]) -> Figure:
    """The forest of the groups that have rows, with the arms' names on both sides of zero."""
    _, unit = comparison.main.scale_in(comparison.spacing_unit)
    baseline = comparison.baseline
    first, second = ("arm", baseline) if baseline else ("first", "second")
    if len(comparison.arms) == 2:
        first, second = sorted(comparison.arms, key=lambda arm: arm == baseline)
    better, worse = short(f"{first} better", 30), short(f"{second} better", 30)
    if comparison.lower_is_better:
        better, worse = worse, better
    to = f" to {short(baseline, 24)}" if baseline else ""
    label = f"difference{to} in mean {comparison.main.name}, {unit}"
    return _forest({name: rows for name, rows in groups.items() if rows}, xlabel=label, better=better, worse=worse)


@STYLED
def _forest(groups: Mapping[str, Sequence[_ForestRow]], *, xlabel: str, better: str, worse: str) -> Figure:
    """Draws differences with their intervals: a thick line over cases, a thin one over folds and cases; one group per class.

    better, worse: the labels of the two sides of zero.
    """
    entries: list[tuple[str, _ForestRow | None]] = []
    for title, rows in groups.items():
        if len(groups) > 1:
            entries.append((title, None))
        entries += [(short(row.name), row) for row in rows]
    figure = Figure(figsize=(WIDTH, 0.75 + 0.27 * len(entries)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=SOFT, linewidth=0.9, zorder=1)
    for y, (_, row) in enumerate(entries):
        if row:
            _forest_row(axes, y, row)
    _rows(axes, [name for name, _ in entries], bold=[row is None for _, row in entries])
    numbers = axes.twinx()
    texts = [
        f"{row.estimate:+.2f} [{row.low:+.2f}, {row.high:+.2f}]\u2003n = {row.n}".replace("-", "−") if row else ""
        for _, row in entries
    ]
    _rows(numbers, texts)
    axes.grid(axis="x")
    _sides(axes, xlabel, better, worse)
    return figure


def _forest_row(axes: Axes, y: int, row: _ForestRow) -> None:
    colour, marker = ARMS[row.colour % len(ARMS)], MARKERS[row.colour % len(MARKERS)]
    if row.wide:
        axes.plot(row.wide, [y, y], color=colour, linewidth=1, zorder=2)
        axes.plot(row.wide, [y, y], "|", color=colour, markersize=6, markeredgewidth=1, zorder=2)
    axes.plot([row.low, row.high], [y, y], color=colour, linewidth=3.2, solid_capstyle="butt", zorder=3)
    axes.plot([row.estimate], [y], marker, color=colour, markersize=5.5, zorder=4, **MEAN_EDGE)


def _rows(axes: Axes, names: Sequence[str], bold: Sequence[bool] = ()) -> None:
    """Rows of text instead of a y axis, first one on top."""
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.spines[["left", "right"]].set_visible(False)
    for label, strong in zip(axes.get_yticklabels(), bold, strict=False):
        label.set_fontweight("bold" if strong else "normal")


def _sides(axes: Axes, xlabel: str, better: str, worse: str) -> None:
    """Keeps zero in the picture, and labels each side with the arm that it favours."""
    low, high = axes.get_xlim()
    span = max(abs(low), abs(high)) * 1.05 or 1.0
    axes.set_xlim(min(low, -0.25 * span), max(high, 0.25 * span))
    axes.set_xlabel(xlabel)
    axes.set_title(f"← {worse}", loc="left", color=SOFT)
    axes.set_title(f"{better} →", loc="right", color=SOFT)


def _ranks(comparison: Comparison) -> Iterator[Picture]:
    """A picture per data set with the ranks over bootstrap samples, for three arms or more."""
    several = len(comparison.datasets) > 1
    for i, dataset in enumerate(comparison.datasets):
        ranks = comparison.main_block(dataset).ranks
        if not ranks or len(comparison.arms) < 3:
            continue
        tau = ranks.kendall_tau
        told = "; ".join(f"{row.arm} mean {row.mean_rank:.2f}, {row.low:g} to {row.high:g}" for row in ranks.arms)
        spread = (
            f" Kendall's τ to the ranking of all cases: mean {number(tau.mean, 2)}, 95% of samples "
            f"{number(tau.low, 2)} to {number(tau.high, 2)}; the order is the same in {tau.same_order:.0%} of them."
            if tau.mean is not None
            else ""
        )
        yield Picture(
            name=f"ranks-{i}" if several else "ranks",
            figure=_rank_blobs(ranks),
            title=f"Bootstrapped ranks: {told}",
            caption=f"Ranks of the arms' mean {comparison.main.name} on {dataset} over {ranks.resamples:,} bootstrap "
            f"samples of its cases; the line spans 95% of them.{spread}",
        )


@STYLED
def _rank_blobs(ranks: Ranks) -> Figure:
    """Draws how often each arm took each rank over the bootstrap samples: the blob's area is the share."""
    arms = ranks.arms
    figure = Figure(figsize=(WIDTH, 0.95 + 0.42 * len(arms)), layout="constrained")
    axes = figure.subplots()
    for i, row in enumerate(arms):
        colour = ARMS[i % len(ARMS)]
        for rank, share in row.shares:
            axes.scatter([rank], [i], s=620 * share, color=colour, alpha=0.3, linewidth=0)
        axes.plot([row.low, row.high], [i, i], color=colour, linewidth=1.4)
        axes.plot([row.mean_rank], [i], MARKERS[i % len(MARKERS)], color=colour, markersize=5.5)
    _rows(axes, [short(row.arm) for row in arms])
    axes.set_xticks(range(1, len(arms) + 1))
    axes.set_xlim(0.5, len(arms) + 0.5)
    axes.set_xlabel("rank (1 = best); a blob's area is the share of bootstrap samples")
    axes.grid(axis="x")
    return figure


def _critical(comparison: Comparison) -> Iterator[Picture]:
    across = (comparison.across_datasets or {}).get(comparison.metric)
    if not across or across.n < 2:
        return
    average = {row.arm: row.average_rank for row in across.arms}
    ranks = {arm: average[arm] for arm in comparison.arms}
    name, test = ("Friedman's", across.friedman) if len(average) > 2 else ("Exact sign", across.sign_test)
    omnibus = f" {name} test over the data sets: p = {p_value(test.p)}." if test.p is not None else ""
    told = "; ".join(f"{arm} {rank:.2f}" for arm, rank in ranks.items())
    yield Picture(
        name="critical-difference",
        figure=_critical_difference(ranks, across.groups, across.critical_difference, datasets=across.n),
        title=f"Critical-difference diagram of average ranks: {told}",
        caption=f"Average ranks by {comparison.main.name} over {across.n} data sets; arms that a bar joins are not "
        f"told apart (Nemenyi, 5%).{omnibus}",
    )


@STYLED
def _critical_difference(
    ranks: Mapping[str, float], groups: Sequence[Sequence[str]], cd: float, *, datasets: int
) -> Figure:
    """Draws Demšar's diagram: mean ranks over data sets; a bar joins the arms of each group."""
    order = sorted(ranks, key=lambda arm: ranks[arm])
    numbers = {arm: i for i, arm in enumerate(ranks)}
    bars = [(ranks[group[0]], ranks[group[-1]]) for group in groups]
    half = -(-len(order) // 2)
    depth = 0.45 + 0.22 * len(bars)
    figure = Figure(figsize=(WIDTH, 1.0 + 0.3 * (depth + half)), layout="constrained")
    axes = figure.subplots()
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.spines["top"].set_visible(True)
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, left=False, labelleft=False)
    axes.set_xticks(range(1, len(order) + 1))
    pad = 0.9 * (len(order) - 1)
    axes.set_xlim(1 - pad, len(order) + pad)
    axes.spines["top"].set_bounds(1, len(order))
    axes.set_ylim(depth + half + 0.1, -0.75)
    for i, arm in enumerate(order):
        left = i < half
        y = depth + (i if left else len(order) - 1 - i) + 0.5
        edge = 1 - 0.12 * pad if left else len(order) + 0.12 * pad
        colour = ARMS[numbers[arm] % len(ARMS)]
        axes.plot([ranks[arm], ranks[arm], edge], [-0.75, y, y], color=colour, linewidth=1)
        text = f"{short(arm, 26)}  {ranks[arm]:.2f}" if left else f"{ranks[arm]:.2f}  {short(arm, 26)}"
        axes.text(edge, y, f"\u2002{text}\u2002", ha="right" if left else "left", va="center")
    for i, (low, high) in enumerate(bars):
        axes.plot([low - 0.03, high + 0.03], [0.1 + 0.22 * i] * 2, color=INK, linewidth=3.2, solid_capstyle="butt")
    axes.set_title(f"mean rank over {datasets} data sets (1 = best); critical difference {cd:.2f}, Nemenyi, 5%", pad=8)
    return figure
