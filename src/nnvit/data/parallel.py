"""Many files at once. Threads are enough: Pillow, zlib, tifffile, SimpleITK and numpy let go of Python's lock."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from rich.console import Console
from rich.progress import track

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_WORKERS = 8


def default_workers() -> int:
    """One for each core, up to nnU-Net's own default."""
    return min(MOST_WORKERS, os.cpu_count() or 1)


def each(
    function: Callable[[Item], Result], items: Sequence[Item], what: str, *, workers: int, progress: bool
) -> Iterator[Result]:
    """The function's results in the order of the items, behind a bar with the time left if stderr is a terminal.

    No more than `workers` items are in memory at a time, besides the results that wait for their turn.
    """
    console = Console(stderr=True)
    shown = progress and console.is_terminal
    results = _windowed(function, items, workers)
    return iter(track(results, what, total=len(items), console=console, disable=not shown))


def _windowed(function: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    waiting: deque[Future[Result]] = deque()
    rest = iter(items)
    pool = ThreadPoolExecutor(workers)
    try:
        waiting.extend(pool.submit(function, item) for item in islice(rest, 2 * workers))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(rest, 1))
            yield result
    finally:  # Ctrl-C and errors too: nothing is written any more once the caller cleans up
        pool.shutdown(wait=True, cancel_futures=True)
