"""Bootstrap intervals of means, for many columns at once: one matrix product for all arms and pairs.

`bca` follows scipy.stats.bootstrap(method="BCa") to the last digits on the same random numbers (a test holds that); a
product with the counts of each case is what makes thousands of simulated comparisons a matter of seconds.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

Floats = NDArray[np.float64]
CELLS = 4_000_000  # of one chunk of resamples: 32 MB


def counts(n: int, num: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Chunks of (some, n): how often each of `n` cases was drawn; together `num` resamples."""
    size = max(1, CELLS // n)
    for start in range(0, num, size):
        yield _count(rng.integers(0, n, (min(size, num - start), n)), n)


def _count(index: NDArray[np.int64], n: int) -> Floats:
    rows = len(index)
    flat = index + n * np.arange(rows)[:, None]
    return np.bincount(flat.ravel(), minlength=rows * n).reshape(rows, n).astype(float)


def resampled_means(values: Floats, num: int, rng: np.random.Generator) -> Floats:
    """(cases, columns) -> (num, columns): the columns' means over cases drawn with replacement, the same for all."""
    n = len(values)
    return np.concatenate([chunk @ values / n for chunk in counts(n, num, rng)])


def bca(values: Floats, num: int, rng: np.random.Generator, confidence: float = 0.95) -> tuple[Floats, Floats]:
    """Bias-corrected and accelerated interval of each column's mean: (cases, columns) -> two of (columns,).

    NaN for a column without spread. Efron & Tibshirani 1993, 14.3; the cases are resampled together for all columns.
    """
    mean = values.mean(axis=0)
    centred = values - mean
    scale = np.abs(centred).max(axis=0)
    means = resampled_means(centred, num, rng)
    means[np.abs(means) < 1e-12 * scale] = 0.0  # a mean that equals the observed one does so but for rounding
    below = ((means < 0).sum(axis=0) + (means <= 0).sum(axis=0)) / (2 * num)
    spread = (centred**2).sum(axis=0)
    flat = (scale <= 1e-12 * np.maximum(1.0, np.abs(mean))) | (below == 0) | (below == 1)
    bias = ndtri(np.where(flat, 0.5, below))
    # the jackknife values of a mean are its deviations / (n - 1), so their skewness is the data's own
    acceleration = (centred**3).sum(axis=0) / 6 / np.where(flat, 1.0, spread) ** 1.5
    ordered = np.sort(means.T, axis=1)
    low, high = (
        _percentile(ordered, ndtr(bias + (bias + z) / (1 - acceleration * (bias + z))))
        for z in ndtri([(1 - confidence) / 2, (1 + confidence) / 2])
    )
    return np.where(flat, np.nan, mean + low), np.where(flat, np.nan, mean + high)


def _percentile(ordered: Floats, level: Floats) -> Floats:
    """Of each row at its own level, as numpy.quantile interpolates."""
    place = level * (ordered.shape[1] - 1)
    left = np.minimum(place.astype(int), ordered.shape[1] - 2)
    rows, share = np.arange(len(ordered)), place - left
    return np.asarray(ordered[rows, left] * (1 - share) + ordered[rows, left + 1] * share)


def hierarchical(folds: Sequence[Sequence[Floats]], num: int, rng: np.random.Generator) -> Floats:
    """(num, arms): means under resampling of folds, then of cases in each, and of each arm's runs in each.

    folds: per fold, per arm (runs, cases). The same cases are drawn for every arm; runs are drawn for each arm by itself,
    because they were trained that way.
    """
    k, arms = len(folds), len(folds[0])
    drawn = rng.integers(0, k, (num, k))
    total, size = np.zeros((num, arms)), np.zeros(num)
    for fold, by_arm in enumerate(folds):
        n = by_arm[0].shape[1]
        owner = np.repeat(
            np.arange(num), (drawn == fold).sum(axis=1)
        )  # the resample that each draw of this fold is for
        done = 0
        for chunk in counts(n, len(owner), rng):
            rows = owner[done : done + len(chunk)]
            sums = np.stack([_over_runs(chunk @ values.T, rng) for values in by_arm], axis=1)
            np.add.at(total, rows, sums)
            done += len(chunk)
        size += np.bincount(owner, minlength=num) * n
    return total / size[:, None]


def _over_runs(sums: Floats, rng: np.random.Generator) -> Floats:
    """(draws, runs) -> (draws,): the mean over runs drawn with replacement."""
    runs = sums.shape[1]
    if runs == 1:
        return sums[:, 0]
    return (sums * _count(rng.integers(0, runs, sums.shape), runs)).sum(axis=1) / runs
