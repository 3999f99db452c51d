"""Measures how long `nnvit compare` takes to score masks: `python bench/scoring.py [cases] [processes]`.

Masks of 512 x 512 with three classes (a disc, a ring, branching lines that get clDice), written as png to a temporary folder.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from nnvit.compare.scores.metrics import Labels
from nnvit.compare.scores.scoring import ScoringJob

SIZE = 512
LABELS = Labels(values={"disc": (1,), "ring": (2,), "vessel": (3,)}, tubular=("vessel",))


def mask(seed: int) -> np.ndarray:
    """(512, 512) with labels 0 to 3."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    radius = np.hypot(y - rng.uniform(200, 300), x - rng.uniform(200, 300))
    field = ndimage.gaussian_filter(rng.normal(size=(SIZE, SIZE)), 8)
    found = np.where(np.abs(field) < 0.12 * field.std(), 3, 0)
    found[radius < 160] = 2
    found[radius < 90] = 1
    return found.astype(np.uint8)


def main(cases: int = 200, processes: int = 2) -> None:
    with tempfile.TemporaryDirectory() as folder:
        jobs = []
        for case in range(cases):
            paths = [Path(folder) / f"{case}_{kind}.png" for kind in ("reference", "prediction")]
            reference = mask(case)
            prediction = np.roll(reference, 2, axis=case % 2)
            for path, array in zip(paths, (reference, prediction), strict=True):
                Image.fromarray(array).save(path)
            jobs.append(ScoringJob(reference=paths[0], prediction=paths[1], labels=LABELS, tolerance=2.0))
        start = time.perf_counter()
        ScoringJob.score_all(jobs, cache=Path(folder) / "cache.json", processes=processes)
        first = time.perf_counter()
        ScoringJob.score_all(jobs, cache=Path(folder) / "cache.json", processes=processes)
        again = time.perf_counter() - first
    print(
        f"{cases} masks of {SIZE} x {SIZE} with {len(LABELS.values)} classes, {processes} processes: {first - start:.1f} s"
    )
    print(f"the same again, from the cache: {again:.2f} s")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
