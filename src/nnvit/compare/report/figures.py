"""Draws the figures with matplotlib: one function each, from plain numbers to a Figure.

`figure_style` has their style and writes them. No global state: neither pyplot nor a backend is used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from .figure_style import ARMS, GROUND, HUMAN, INK, MARKERS, SOFT, WIDTH, styled


@dataclass(frozen=True, kw_only=True)
class ForestRow:
    """One difference of the forest, in the metric's own unit."""

    name: str
    """The arm, or "A − B"."""
    estimate: float
    low: float
    high: float
    """The interval over cases."""
    wide_low: float | None = None
    wide_high: float | None = None
    """The interval over folds and cases; None where there is only one fold."""
    n: int
    """Cases."""
    colour: int = 0
    """Number of the arm."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One arm of a Pareto picture."""

    name: str
    x: float | None
    """The cost; None if unknown."""
    y: float
    low: float
    high: float
    colour: int


@dataclass(frozen=True, kw_only=True)
class Band:
    """Agreement of a second observer: a line across the picture."""

    mean: float
    low: float
    high: float
    text: str = "second observer"


def short(name: str, longest: int = 34) -> str:
    """Shortens a long name to its two ends with an ellipsis between; ends differ more often than middles."""
    if len(name) <= longest:
        return name
    head = (longest - 1) // 2
    return f"{name[:head]}…{name[len(name) - (longest - 1 - head) :]}"


def forest(
    groups: Mapping[str, Sequence[ForestRow]], *, xlabel: str, better: str, worse: str, digits: int = 2
) -> Figure:
    """Draws differences with their intervals: a thick line over cases, a thin one over folds and cases; one group per class.

    better, worse: the labels of the two sides of zero.
    """
    entries: list[tuple[str, ForestRow | None]] = []
    for title, rows in groups.items():
        if len(groups) > 1:
            entries.append((title, None))
        entries += [(short(row.name), row) for row in rows]
    with styled():
        figure = Figure(figsize=(WIDTH, 0.75 + 0.27 * len(entries)), layout="constrained")
        axes = figure.subplots()
        axes.axvline(0, color=SOFT, linewidth=0.9, zorder=1)
        for y, (_, row) in enumerate(entries):
            if row:
                _forest_row(axes, y, row)
        _rows(axes, [name for name, _ in entries], bold=[row is None for _, row in entries])
        numbers = axes.twinx()
        texts = [_signed(row, digits) if row else "" for _, row in entries]
        _rows(numbers, texts, bold=[False] * len(texts))
        axes.grid(axis="x")
        _sides(axes, xlabel, better, worse)
    return figure


def _forest_row(axes: Axes, y: int, row: ForestRow) -> None:
    colour = ARMS[row.colour % len(ARMS)]
    if row.wide_low is not None and row.wide_high is not None:
        axes.plot([row.wide_low, row.wide_high], [y, y], color=colour, linewidth=1, zorder=2)
        axes.plot([row.wide_low, row.wide_high], [y, y], "|", color=colour, markersize=6, markeredgewidth=1, zorder=2)
    axes.plot([row.low, row.high], [y, y], color=colour, linewidth=3.2, solid_capstyle="butt", zorder=3)
    marker = MARKERS[row.colour % len(MARKERS)]
    axes.plot(
        [row.estimate], [y], marker, color=colour, markersize=5.5, markeredgecolor=GROUND, markeredgewidth=1, zorder=4
    )


def _signed(row: ForestRow, digits: int) -> str:
    text = f"{row.estimate:+.{digits}f} [{row.low:+.{digits}f}, {row.high:+.{digits}f}]\u2003n = {row.n}"
    return text.replace("-", "−")


def _rows(axes: Axes, names: Sequence[str], bold: Sequence[bool]) -> None:
    """Rows of text instead of a y axis, first one on top."""
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.spines[["left", "right"]].set_visible(False)
    for label, strong in zip(axes.get_yticklabels(), bold, strict=True):
        label.set_fontweight("bold" if strong else "normal")


def _sides(axes: Axes, xlabel: str, better: str, worse: str) -> None:
    """Keeps zero in the picture, and labels each side with the arm that it favours."""
    low, high = axes.get_xlim()
    span = max(abs(low), abs(high)) * 1.05 or 1.0
    axes.set_xlim(min(low, -0.25 * span), max(high, 0.25 * span))
    axes.set_xlabel(xlabel)
    axes.set_title(f"← {worse}", loc="left", color=SOFT)
    axes.set_title(f"{better} →", loc="right", color=SOFT)


def paired_strip(
    values: Mapping[str, np.ndarray],
    means: Mapping[str, tuple[float, float, float]],
    *,
    ylabel: str,
    human: Band | None = None,
) -> Figure:
    """Draws every case as a point per arm, joined by a line; beside the points the mean with its interval.

    values: arm -> (cases,), the same cases in the same order in every arm. means: arm -> (mean, low, high).
    """
    arms = list(values)
    table_AN = np.array([values[arm] for arm in arms], dtype=float)
    alpha = float(np.clip(12 / max(table_AN.shape[1], 1), 0.12, 0.6))
    with styled():
        figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
        axes = figure.subplots()
        lines = [np.column_stack([np.arange(len(arms)), case_A]) for case_A in table_AN.T]
        axes.add_collection(LineCollection(lines, colors=SOFT, linewidths=0.6, alpha=alpha, zorder=1))
        for i, arm in enumerate(arms):
            colour, marker = ARMS[i % len(ARMS)], MARKERS[i % len(MARKERS)]
            axes.plot(
                np.full(table_AN.shape[1], i),
                table_AN[i],
                marker,
                color=colour,
                markersize=3,
                alpha=0.6,
                markeredgewidth=0,
            )
            mean, low, high = means[arm]
            axes.plot([i + 0.13] * 2, [low, high], color=colour, linewidth=3.2, solid_capstyle="butt")
            axes.plot([i + 0.13], [mean], marker, color=colour, markersize=6, markeredgecolor=GROUND, markeredgewidth=1)
        if human:
            _human(axes, human)
        axes.set_xticks(range(len(arms)), [_stacked(arm, len(arms)) for arm in arms])
        axes.set_xlim(-0.4, len(arms) - 0.6)
        axes.set_ylabel(ylabel)
        axes.grid(axis="y")
    return figure


def _human(axes: Axes, human: Band) -> None:
    axes.axhspan(human.low, human.high, color=HUMAN, alpha=0.12, linewidth=0)
    axes.axhline(human.mean, color=HUMAN, linewidth=1, linestyle=(0, (4, 3)))
    name = human.text.replace(" ", "\n")
    place: dict[str, Any] = {
        "xytext": (6, 0),
        "textcoords": "offset points",
        "ha": "left",
        "va": "center",
        "color": HUMAN,
    }
    axes.annotate(f"{name}\n{human.mean:.3g}", (1, human.mean), xycoords=axes.get_yaxis_transform(), **place)


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


def rank_blobs(
    shares: Mapping[str, Sequence[Sequence[float]]], mean: Mapping[str, tuple[float, float, float]]
) -> Figure:
    """Draws how often each arm took each rank over the bootstrap samples: the blob's area is the share.

    shares: arm -> [rank, share] of every rank that it took, halves for ties. mean: arm -> (mean rank, low, high).
    """
    arms = list(shares)
    with styled():
        figure = Figure(figsize=(WIDTH, 0.95 + 0.42 * len(arms)), layout="constrained")
        axes = figure.subplots()
        for i, arm in enumerate(arms):
            colour = ARMS[i % len(ARMS)]
            for rank, share in shares[arm]:
                axes.scatter([rank], [i], s=620 * share, color=colour, alpha=0.3, linewidth=0)
            centre, low, high = mean[arm]
            axes.plot([low, high], [i, i], color=colour, linewidth=1.4)
            axes.plot([centre], [i], MARKERS[i % len(MARKERS)], color=colour, markersize=5.5)
        _rows(axes, [short(arm) for arm in arms], bold=[False] * len(arms))
        axes.set_xticks(range(1, len(arms) + 1))
        axes.set_xlim(0.5, len(arms) + 0.5)
        axes.set_xlabel("rank (1 = best); a blob's area is the share of bootstrap samples")
        axes.grid(axis="x")
    return figure


def pareto(panels: Mapping[str, Sequence[Point]], *, ylabel: str, lower_is_better: bool = False) -> Figure:
    """Draws quality against cost: a panel per cost (its name with the unit); the step is the Pareto front.

    Arms whose cost isn't known are left out of a panel.
    """
    names = {point.name: point.colour for points in panels.values() for point in points}
    with styled():
        rows = -(-len(names) // 3)
        figure = Figure(figsize=(WIDTH, 2.6 + 0.2 * rows), layout="constrained")
        grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (xlabel, points) in zip(grid, panels.items(), strict=True):
            _pareto_panel(axes, [point for point in points if point.x is not None], xlabel, lower_is_better)
        grid[0].set_ylabel(ylabel)
        marks = [
            grid[0].plot([], [], MARKERS[i % len(MARKERS)], color=ARMS[i % len(ARMS)], markersize=7)[0]
            for i in names.values()
        ]
        figure.legend(marks, [short(name) for name in names], loc="outside lower center", ncols=min(3, len(names)))
    return figure


def _pareto_panel(axes: Axes, points: Sequence[Point], xlabel: str, lower_is_better: bool) -> None:
    front = _pareto_front([(float(point.x or 0), point.y) for point in points], lower_is_better)
    if front:
        xs, ys = zip(*front, strict=True)
        axes.step(xs, ys, where="post", color=SOFT, linewidth=0.9, linestyle=(0, (3, 2)), zorder=1)
    for point in points:
        colour, marker = ARMS[point.colour % len(ARMS)], MARKERS[point.colour % len(MARKERS)]
        x = point.x or 0.0
        axes.plot([x, x], [point.low, point.high], color=colour, linewidth=1.2, zorder=2)
        axes.plot(
            [x], [point.y], marker, color=colour, markersize=7.5, markeredgecolor=GROUND, markeredgewidth=1, zorder=3
        )
    axes.xaxis.set_major_locator(MaxNLocator(4))
    positive = [point.x for point in points if point.x]
    if len(positive) > 1 and max(positive) / min(positive) > 8:
        axes.set_xscale("log")
        decades = np.log10(max(positive) / min(positive))
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 1.4 else (1,)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.15, y=0.12)
    axes.set_xlabel(xlabel)
    axes.grid()


def _pareto_front(points: Sequence[tuple[float, float]], lower_is_better: bool = False) -> list[tuple[float, float]]:
    """The (cost, quality) points that no other beats at the same or lower cost, cheapest first."""
    sign = -1 if lower_is_better else 1
    front: list[tuple[float, float]] = []
    for cost, quality in sorted(points, key=lambda point: (point[0], -sign * point[1])):
        if not front or sign * quality > sign * front[-1][1]:
            front.append((cost, quality))
    return front


def critical_difference(
    ranks: Mapping[str, float], groups: Sequence[Sequence[str]], cd: float, *, datasets: int
) -> Figure:
    """Draws Demšar's diagram: mean ranks over data sets; a bar joins the arms of each group."""
    order = sorted(ranks, key=lambda arm: ranks[arm])
    numbers = {arm: i for i, arm in enumerate(ranks)}
    bars = [(ranks[group[0]], ranks[group[-1]]) for group in groups]
    half = -(-len(order) // 2)
    depth = 0.45 + 0.22 * len(bars)
    with styled():
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
        axes.set_title(
            f"mean rank over {datasets} data sets (1 = best); critical difference {cd:.2f}, Nemenyi, 5%", pad=8
        )
    return figure
