"""The words of the report: numbers, p values and paths."""

import re

import numpy as np


def number(value: float | None, digits: int, sign: bool = False) -> str:
    """Returns fixed decimals with a true minus; a dash where there is no value."""
    if value is None or not np.isfinite(value):
        return "–"
    return f"{round(value, digits) + 0.0:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def p_value(p: float | None) -> str:
    """Returns p with two significant digits, never zero."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def without_home(text: str) -> str:
    """Shortens absolute paths to their last two parts: a page that is mailed need not say whose machine it was."""
    return re.sub(r"(?<![\w.…])/(?:[^/\s=]+/)+(?=[^/\s]+/[^/\s]+)", "…/", text)
