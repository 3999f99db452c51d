"""Works on several files at a time, in threads: Pillow, zlib, tifffile, SimpleITK and numpy release Python's lock."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from rich.console import Console
from rich.progress import track

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Workers:
    """Threads; `progress` shows a bar for their work if standard error is a terminal."""

    number: int
    progress: bool

    def each(self, function: Callable[[_Item], _Result], items: Sequence[_Item], what: str) -> Iterator[_Result]:
        """Yields the function's results in the order of the items; `what` names the work beside the progress bar.

        At most `number` items are in memory at a time, besides the results that wait for their turn.
        """
        console = Console(stderr=True)
        waiting: deque[Future[_Result]] = deque()
        rest = iter(items)
        pool = ThreadPoolExecutor(self.number)
        try:
            waiting.extend(pool.submit(function, item) for item in islice(rest, 2 * self.number))
            for _ in track(items, what, console=console, disable=not (self.progress and console.is_terminal)):
                result = waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in islice(rest, 1))
                yield result
        finally:  # after Ctrl-C and errors too, so that nothing is written while the caller cleans up
            pool.shutdown(wait=True, cancel_futures=True)
