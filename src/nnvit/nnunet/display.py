"""What a training shows: a bar inside an epoch on a terminal, plain lines everywhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Advance = Callable[[str], None]


@contextmanager
def bar(title: str, total: int, visible: bool = True, done: int = 0) -> Iterator[Advance]:
    """A progress bar with the time left, gone when it is full; nothing where stderr is no terminal.

    Yields a function that advances it by one and shows a short text beside it.
    """
    if not (visible and sys.stderr.isatty()):
        yield lambda text: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(title, total=total, completed=done, text="")
        yield lambda text: progress.update(task, advance=1, text=text)


def duration(seconds: float) -> str:
    """`42 s`, `7 min`, `3 h 05 min`, `2 d 04 h`."""
    minutes, hours, days = round(seconds / 60), int(seconds // 3600), int(seconds // 86400)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 90:
        return f"{minutes} min"
    if hours < 48:
        return f"{hours} h {minutes % 60:02d} min"
    return f"{days} d {hours % 24:02d} h"
