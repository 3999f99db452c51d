"""A progress bar on a terminal, and durations in words."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

Advance = Callable[[str], None]
"""Advances a bar by one and shows a short text beside it."""


def columns() -> tuple[ProgressColumn, ...]:
    """Returns what a bar shows: title, bar, count, time left, and the text of its task's field `text`."""
    return (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )


@contextmanager
def bar(title: str, total: int, visible: bool = True) -> Iterator[Advance]:
    """Shows a progress bar that disappears at the end; shows nothing if stderr is not a terminal. Yields its `Advance`."""
    if not (visible and sys.stderr.isatty()):
        yield lambda text: None
        return
    with Progress(*columns(), console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=total, text="")
        yield lambda text: progress.update(task, advance=1, text=text)


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
