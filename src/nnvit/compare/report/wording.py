"""How the report calls things and writes numbers, and where it finds them in the statistics."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from nnvit.compare.scores.metrics import NAMES, UNITS

MEAN = "mean"
MAX_PAIRS = 15


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One figure of a table: text, the value that it sorts by, and its interval."""

    text: str
    value: float | None = None
    interval: str = ""
    best: bool = False


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


def metrics_shown(stats: Mapping[str, Any]) -> list[str]:
    """Metrics of any data set, the headline's first."""
    found = dict.fromkeys(metric for results in stats["datasets"].values() for metric in results["metrics"])
    return sorted(found, key=lambda metric: metric != stats["metric"])


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


def pairs_to_show(stats: Mapping[str, Any], block: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Against the baseline where there is one, else all pairs, the largest differences first."""
    pairs: list[dict[str, Any]] = block["pairs"]
    if stats["baseline"]:
        return [pair for pair in pairs if stats["baseline"] in (pair["a"], pair["b"])]
    return sorted(pairs, key=lambda pair: -abs(pair["difference"]))[:MAX_PAIRS]


def bounds(found: Mapping[str, Any]) -> tuple[float, float, float]:
    mean, spread = found["mean"], found["interval"]
    return (mean, mean, mean) if spread["low"] is None else (mean, spread["low"], spread["high"])


def case_means(cases: pd.DataFrame, metric: str, arms: Sequence[str]) -> pd.DataFrame:
    """(data set, case, label) -> one column per arm, mean over its runs, in the order of the table."""
    table = cases.groupby(["dataset", "case", "label", "arm"], sort=False)[metric].mean().unstack("arm")
    return table.reindex(columns=list(arms))
