"""Reading, computing and writing of many items, overlapped; memory for three of them at most."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
Computed = TypeVar("Computed")
Written = TypeVar("Written")


def overlapped(
    items: Sequence[Item],
    read: Callable[[Item], Read],
    compute: Callable[[Read], Computed],
    write: Callable[[Computed], Written],
) -> Iterator[tuple[Item, "Future[Written]"]]:
    """Reads one item ahead and writes one behind, each in a thread of its own, while `compute` runs in the caller's.

    Yields the items in their order, once they are done, with what `write` returned or the exception of whichever step failed;
    one that fails does not concern the others. Interrupted, it lets what is being written be finished.
    """

    def write_it(computed: "Future[Computed]") -> Written:
        return write(computed.result())

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        ahead = [reader.submit(read, item) for item in items[:1]]
        behind: list[tuple[Item, Future[Written]]] = []
        for i, item in enumerate(items):
            here = ahead.pop()
            here.exception()  # waits for it: only then is the next one read
            ahead = [reader.submit(read, following) for following in items[i + 1 : i + 2]]
            computed = _computed(compute, here)
            yield from _finished(behind)
            behind = [(item, writer.submit(write_it, computed))]
        yield from _finished(behind)


def _computed(compute: Callable[[Read], Computed], given: "Future[Read]") -> "Future[Computed]":
    future: Future[Computed] = Future()
    try:
        future.set_result(compute(given.result()))
    except Exception as error:  # whatever one item brings about, the others are still wanted
        future.set_exception(error)
    return future


def _finished(pending: list[tuple[Item, "Future[Written]"]]) -> Iterator[tuple[Item, "Future[Written]"]]:
    for item, future in pending:
        future.exception()
        yield item, future
