"""A progress bar on a terminal, and durations in words."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import count

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

COLUMNS = (
    TextColumn("{task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeRemainingColumn(),
    TextColumn("{task.fields[text]}"),
)
"""Columns of a progress bar: title, bar, count, time left, and the text of its task's field `text`."""


@contextmanager
def bar(title: str, total: int, visible: bool = True) -> Iterator[Callable[[], tuple[str, str]]]:
    """Shows a progress bar that disappears at the end; shows nothing if stderr is not a terminal.

    Yields a function that counts one more, and returns the count and the time left in words, such as ("3/8", "ETA 5 min").
    """
    progress = Progress(*COLUMNS, console=Console(stderr=True), transient=True)
    task = progress.add_task(title, total=total, text="")
    start, numbers = time.perf_counter(), count(1)

    def step() -> tuple[str, str]:
        progress.advance(task)
        done = next(numbers)
        left = (time.perf_counter() - start) / done * (total - done)
        return f"{done}/{total}", f"ETA {duration(left)}"

    with progress if visible and sys.stderr.isatty() else nullcontext():
        yield step


def duration(seconds: float) -> str:
    """Returns a duration in words: `42 s`, `7 min`, `3 h 05 min`, `2 d 04 h`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes // 60 % 24:02d} h"
