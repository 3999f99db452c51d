"""Scores all masks of all arms in parallel; masks that have not changed since the last time come from the cache."""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from nnvit.compare.inputs.mask_files import read_mask
from nnvit.errors import CompareError
from nnvit.records.json_files import read_json, write_json

from .metrics import METRICS, Labels

FORM = 1
"""Rises whenever the definition of a metric changes: cached scores of the old definition are then not used."""
BATCH = 8
"""Masks that a process scores before it reports back."""
PATIENCE = 1.0
"""Seconds of scoring in this process before others are started, which takes about as long."""
LINE_EVERY = 10.0
"""Seconds between two lines of progress, where no terminal shows a bar."""

Scores = dict[str, dict[str, Any]]
"""Label -> columns, of one mask."""


@dataclass(frozen=True, kw_only=True)
class ScoringJob:
    """One prediction and its reference.

    lenient: a mask of one label may be stored as 0 and any other number. place: columns that say which mask it is.
    """

    reference: Path
    prediction: Path
    labels: Labels
    tolerance: float
    lenient: bool = False
    place: dict[str, str] = field(default_factory=dict)

    def key(self) -> str:
        """Returns everything that its scores depend on, as text."""
        files = []
        for path in (self.reference, self.prediction):
            state = path.stat() if path.is_file() else None  # a missing file has no scores; reading it raises
            files.append((str(path.resolve()), state and state.st_size, state and state.st_mtime_ns))
        return json.dumps([FORM, files, asdict(self.labels), self.tolerance, self.lenient], sort_keys=True)

    @staticmethod
    def score_all(
        jobs: "Sequence[ScoringJob]", *, cache: Path | None = None, processes: int | None = None, quiet: bool = False
    ) -> list[Scores]:
        """Returns the scores of each job, in their order.

        cache: a JSON file that is read and written. processes: None means one per core. Scripts that call this need
        `if __name__ == "__main__":`, because it starts processes. Raises CompareError for the first mask that is broken, has
        another geometry than its reference, or holds labels that the data set does not define.
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
                write_json(cache, held | scores, indent=0)
        return [scores[key] for key in keys]


def _score_job(job: ScoringJob) -> Scores:
    """Reads both masks and scores them. Raises CompareError for masks that do not fit together."""
    reference, prediction = read_mask(job.reference), read_mask(job.prediction)
    difference = prediction.difference_to(reference)
    if difference:
        raise CompareError(
            f"{job.prediction} has another geometry than its reference {job.reference}: {difference}. Masks are compared "
            "voxel by voxel: predict the case again from the image that the reference belongs to, or resample the mask."
        )
    arrays = []
    for path, mask in ((job.reference, reference), (job.prediction, prediction)):
        found = set(np.unique(mask.labels).tolist())
        array = mask.labels
        if job.lenient and len(job.labels.values) == 1 and len(found - {0}) == 1 and not found <= job.labels.known:
            array = (array != 0) * next(iter(job.labels.values.values()))[0]
        elif not found <= job.labels.known:
            foreign, known = (
                ", ".join(map(str, sorted(held))) for held in (found - job.labels.known, job.labels.known)
            )
            raise CompareError(
                f"{path} holds the labels {foreign}, which the data set does not define (it has {known}). Give the masks of "
                "this data set, with the numbers of its dataset.json."
            )
        arrays.append(array)
    return job.labels.score(arrays[0], arrays[1], reference.spacing, job.tolerance)


def _scored(jobs: dict[str, ScoringJob], processes: int) -> Iterator[tuple[str, Scores]]:
    """Yields scores as they get done. Other processes take over after a while: starting them costs as much as many masks."""
    items, start = list(jobs.items()), time.perf_counter()
    while items and (processes < 2 or time.perf_counter() - start < PATIENCE or len(items) <= BATCH):
        yield from _score_batch([items.pop(0)])
    if not items:
        return
    batches = [items[first : first + BATCH] for first in range(0, len(items), BATCH)]
    with ProcessPoolExecutor(min(processes, len(batches)), mp_context=get_context("spawn")) as pool:
        try:
            for future in as_completed([pool.submit(_score_batch, batch) for batch in batches]):
                yield from future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _score_batch(items: list[tuple[str, ScoringJob]]) -> list[tuple[str, Scores]]:
    return [(key, _score_job(job)) for key, job in items]


def _read(cache: Path | None) -> dict[str, Scores]:
    """The cached scores that hold every metric; none of a file that an interruption cut short."""
    if cache is None or not cache.is_file():
        return {}
    try:
        held = read_json(cache, CompareError)
    except CompareError:
        return {}
    wanted = {metric.key for metric in METRICS}
    return {key: scores for key, scores in held.items() if all(wanted <= row.keys() for row in scores.values())}


@contextmanager
def _bar(total: int, quiet: bool) -> Iterator[Callable[[], None]]:
    """Yields a function that moves a progress bar on by one mask; without a terminal, it prints a line now and then."""
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
