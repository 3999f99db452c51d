"""Numbers as the report writes them, cells of tables, means per case, and paths without their owner's name."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One figure of a table: text, the value that it sorts by, and its interval."""

    text: str
    value: float | None = None
    interval: str = ""
    best: bool = False


def number(value: float | None, digits: int, sign: bool = False) -> str:
    """Returns fixed decimals with a true minus; a dash where there is no value."""
    if value is None or not np.isfinite(value):
        return "–"
    return f"{round(value, digits) + 0.0:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def p_value(p: float | None) -> Cell:
    """Returns p with two significant digits, never zero."""
    if p is None:
        return Cell(text="–")
    return Cell(text="< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}", value=p)


def case_means(cases: pd.DataFrame, metric: str, arms: Sequence[str]) -> pd.DataFrame:
    """Returns (data set, case, label) -> one column per arm, mean over its runs, in the order of the table."""
    table = cases.groupby(["dataset", "case", "label", "arm"], sort=False)[metric].mean().unstack("arm")
    return table.reindex(columns=list(arms))


def without_home(text: str) -> str:
    """Shortens absolute paths to their last two parts: a page that is mailed need not say whose machine it was."""
    return re.sub(r"(?<![\w.…])/(?:[^/\s=]+/)+(?=[^/\s]+/[^/\s]+)", "…/", text)
