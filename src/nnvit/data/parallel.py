"""Works on several files at a time, in threads: Pillow, zlib, tifffile, SimpleITK and numpy release Python's lock."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from rich.console import Console
from rich.progress import track

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def each(
    function: Callable[[_Item], _Result], items: Sequence[_Item], what: str, *, workers: int, progress: bool
) -> Iterator[_Result]:
    """Yields the function's results in the order of the items; shows a progress bar if stderr is a terminal.

    At most `workers` items are in memory at a time, besides the results that wait for their turn.
    """
    console = Console(stderr=True)
    shown = progress and console.is_terminal
    results = _windowed(function, items, workers)
    return iter(track(results, what, total=len(items), console=console, disable=not shown))


def _windowed(function: Callable[[_Item], _Result], items: Sequence[_Item], workers: int) -> Iterator[_Result]:
    waiting: deque[Future[_Result]] = deque()
    rest = iter(items)
    pool = ThreadPoolExecutor(workers)
    try:
        waiting.extend(pool.submit(function, item) for item in islice(rest, 2 * workers))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(rest, 1))
            yield result
    finally:  # after Ctrl-C and errors too, so that nothing is written while the caller cleans up
        pool.shutdown(wait=True, cancel_futures=True)
