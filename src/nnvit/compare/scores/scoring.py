"""All masks of all arms, scored in parallel; what was scored before and has not changed is taken from the cache."""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from nnvit.compare.inputs import mask_files
from nnvit.errors import CompareError

from .metrics import Labels, score_case

FORM = 1
"""Raised whenever a metric changes, so that no cached number outlives its definition."""
BATCH = 8
"""Masks that a process scores before it reports."""
PATIENCE = 1.0
"""Seconds before processes are started, which takes about as long."""
LINE_EVERY = 10.0
"""Seconds between two lines of progress, where there is no terminal for a bar."""

Scores = dict[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One prediction against its reference. lenient: a mask of one label may be stored as 0 and any other number."""

    reference: Path
    prediction: Path
    labels: Labels
    tolerance: float
    lenient: bool = False

    def key(self) -> str:
        """Everything that its scores depend on."""
        files = [(str(path.resolve()), *_state(path)) for path in (self.reference, self.prediction)]
        return json.dumps([FORM, files, asdict(self.labels), self.tolerance, self.lenient], sort_keys=True)


def score_all(
    jobs: Sequence[Job], *, cache: Path | None = None, processes: int | None = None, quiet: bool = False
) -> list[Scores]:
    """Label -> columns, for each job in their order.

    cache: a json file that is read and written. processes: None takes the cores there are. Scripts that call this need
    `if __name__ == "__main__":`, as everything does that starts processes. Raises CompareError for the first mask that
    is broken, has another geometry than its reference, or labels that the data set has not.
    """
    held = _read(cache)
    keys = [job.key() for job in jobs]
    scores = {key: held[key] for key in keys if key in held}
    missing = {key: job for key, job in zip(keys, jobs, strict=True) if key not in scores}
    try:
        with _bar(len(missing), quiet) as advance:
            for key, found in _scored(missing, processes or os.cpu_count() or 1):
                scores[key] = found
                advance()
    finally:
        if cache is not None and missing:
            _write(cache, held | scores)
    return [scores[key] for key in keys]


def score_job(job: Job) -> Scores:
    """Reads both masks and scores them. Raises CompareError for what does not fit."""
    reference, prediction = mask_files.read(job.reference), mask_files.read(job.prediction)
    difference = mask_files.same_geometry(prediction, reference)
    if difference:
        raise CompareError(
            f"{job.prediction} has another geometry than its reference {job.reference}: {difference}. Masks are compared "
            "voxel by voxel: predict the case again from the image that the reference belongs to, or resample the mask."
        )
    arrays = []
    for path, mask in ((job.reference, reference), (job.prediction, prediction)):
        found = {int(value) for value in _values(mask.labels)}
        array = mask.labels
        if job.lenient and len(job.labels.values) == 1 and len(found - {0}) == 1 and not found <= job.labels.known:
            array = (array != 0) * next(iter(job.labels.values.values()))[0]
        elif not found <= job.labels.known:
            raise CompareError(
                f"{path} holds the labels {_listed(found - job.labels.known)}, which the data set has not (it has "
                f"{_listed(job.labels.known)}). Give the masks of this data set, with the numbers of its dataset.json."
            )
        arrays.append(array)
    return score_case(arrays[0], arrays[1], reference.spacing, job.labels, job.tolerance)


def _scored(jobs: dict[str, Job], processes: int) -> Iterator[tuple[str, Scores]]:
    """As they get done. Starting processes takes as long as many masks do: they are for what is left after a while."""
    items, start = list(jobs.items()), time.perf_counter()
    while items and (processes < 2 or time.perf_counter() - start < PATIENCE or len(items) <= BATCH):
        yield from _score_batch([items.pop(0)])
    if not items:
        return
    batches = [items[first : first + BATCH] for first in range(0, len(items), BATCH)]
    with ProcessPoolExecutor(min(processes, len(batches)), mp_context=get_context("spawn")) as pool:
        waiting: set[Future[list[tuple[str, Scores]]]] = {pool.submit(_score_batch, batch) for batch in batches}
        try:
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield from future.result()
        finally:
            for future in waiting:
                future.cancel()


def _score_batch(items: list[tuple[str, Job]]) -> list[tuple[str, Scores]]:
    return [(key, score_job(job)) for key, job in items]


def _values(labels: Any) -> Any:
    """The numbers that occur; counting is quicker than sorting where they are small."""
    import numpy as np

    if labels.dtype == np.uint8:
        return np.flatnonzero(np.bincount(labels.ravel(), minlength=1))
    return np.unique(labels)


def _state(path: Path) -> tuple[int, int]:
    """Size and time of the last change."""
    if not path.is_file():
        raise CompareError(f"{path} does not exist; every arm needs a mask of every case.")
    state = path.stat()
    return state.st_size, state.st_mtime_ns


def _read(cache: Path | None) -> dict[str, Scores]:
    if cache is None or not cache.is_file():
        return {}
    try:
        return json.loads(cache.read_text(encoding="utf-8"))
    except ValueError:  # cut short by an interruption: all is scored again
        return {}


def _write(cache: Path, scores: dict[str, Scores]) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    partial = cache.with_name(f".{cache.name}.partial")
    partial.write_text(json.dumps(scores), encoding="utf-8")
    partial.replace(cache)


def _listed(numbers: set[int]) -> str:
    return ", ".join(str(number) for number in sorted(numbers))


@contextmanager
def _bar(total: int, quiet: bool) -> Iterator[Callable[[], None]]:
    """Calls of what this yields move a bar that says how long it will take; without a terminal, now and then a line."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    hidden = quiet or not total
    with Progress(*columns, console=console, disable=hidden or not console.is_terminal) as progress:
        task = progress.add_task("scoring masks", total=total)
        start = last = time.monotonic()

        def advance() -> None:
            nonlocal last
            progress.advance(task)
            now, done = time.monotonic(), int(progress.tasks[0].completed)
            if not hidden and not console.is_terminal and now - last > LINE_EVERY:
                last = now
                left = (now - start) / done * (total - done)
                console.print(f"scoring masks: {done} of {total}, {left:.0f} s left", highlight=False)

        yield advance
