"""Runs the iterations of an epoch: timed, shown, and left at a signal with their place kept."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from nnvit.nnunet import progress

from .stopwatch import Stopwatch

Outputs = list[dict[str, Any]]


def iterate(
    step: Callable[[dict], dict[str, Any]],
    batches: Iterator[dict],
    outputs: Outputs,
    total: int,
    *,
    signal: Callable[[], int | None],
    watch: Stopwatch | None = None,
    after: Callable[[int], None] = lambda done: None,
) -> bool:
    """Appends what `step` returns for each batch to `outputs`, until there are `total`; returns False after a signal.

    signal: gives the number of a signal that has come, else None; watch: times the steps; after: is told how many are done.
    """
    while len(outputs) < total:
        start = time.perf_counter()
        batch = _next(batches, signal)
        if batch is None:
            return False
        if watch is not None:
            watch.begin(time.perf_counter() - start)
        outputs.append(step(batch))
        if watch is not None:
            watch.end()
        after(len(outputs))
    return True


def _next(batches: Iterator[dict], signal: Callable[[], int | None]) -> dict | None:
    """Returns the next batch, None where a signal has come, which may have ended the workers too."""
    if signal():
        return None
    try:
        return next(batches)
    except RuntimeError:
        if signal():
            return None
        raise


def pace(starts: list[float], ends: list[float], epochs_left: int, seconds: dict[str, float]) -> str:
    """Says how fast the training goes and how long it will take.

    starts, ends: of the epochs, in seconds; seconds: of an iteration by parts, empty where none was timed.
    """
    epoch = float(np.median(np.subtract(ends, starts)))
    left = f"ETA {progress.duration(epoch * epochs_left)}"
    if not seconds:  # the epoch was interrupted between its last iteration and its validation
        return left
    total = sum(seconds.values())
    return f"{total:.2f} s/it ({seconds['data_wait'] / total:.0%} waiting for data)  {left}"
