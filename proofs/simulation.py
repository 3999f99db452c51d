"""Counts how often the verdicts are wrong and how often a true gain is found: simulated comparisons, thousands at once.

The worlds know the truth. Each arm has a mean, a score per case that stays with arm and case, and a shift per training
(arm, run and fold), which is what a fresh seed changes. `verdicts` decides by the same functions as `analyse`.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from nnvit.compare.stats.bootstrap import Bootstrap
from nnvit.compare.stats.paired_tests import holm
from nnvit.compare.stats.verdict import cases_differ, methods_differ

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class World:
    """Scores are meant as values between 0 and 1: 0.01 is a Dice point.

    gain: of the first arm over all others. case_sd: of the paired difference of two arms on a case. run_sd: of a training's
    shift. shared: the share of the case variance that all runs of an arm have in common; the rest is drawn anew per run.
    overlap: correlation of one run's shifts over its folds, as training sets that overlap give rise to.
    baseline: the second arm is one, so that only the pairs with it are compared.
    skewed: case scores with the skewness -2 of Dice near its ceiling (a gamma's), at the same standard deviation.
    """

    arms: int = 2
    runs: int = 1
    folds: int = 5
    cases: int = 300
    gain: float = 0.0
    case_sd: float = 0.03
    run_sd: float = 0.005
    shared: float = 1.0
    overlap: float = 0.0
    baseline: bool = False
    skewed: bool = False

    def pairs(self) -> list[tuple[int, int]]:
        """One family of Holm's correction, in the order of `analyse`."""
        everyone = range(self.arms)
        return [(arm, 1) for arm in everyone if arm != 1] if self.baseline else list(combinations(everyone, 2))

    def fold_of_case(self) -> NDArray[np.int_]:
        """(cases,), folds of sizes that differ by one at most."""
        return np.sort(np.arange(self.cases) % self.folds)

    def scores(self, num: int, rng: np.random.Generator) -> Floats:
        """(num, arms, runs, cases)."""
        persistent = self._noise((num, self.arms, 1, self.cases), rng) * self.shared**0.5
        fresh = self._noise((num, self.arms, self.runs, self.cases), rng) * (1 - self.shared) ** 0.5
        shape = (num, self.arms, self.runs)
        shift = rng.normal(0, self.run_sd * (1 - self.overlap) ** 0.5, (*shape, self.folds))
        shift += rng.normal(0, self.run_sd * self.overlap**0.5, (*shape, 1))
        gain = np.zeros((self.arms, 1, 1))
        gain[0] = self.gain
        return 0.8 + gain + persistent + fresh + shift[..., self.fold_of_case()]

    def _noise(self, shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
        sd = self.case_sd / 2**0.5
        return sd * (1 - rng.standard_gamma(1.0, shape) if self.skewed else rng.standard_normal(shape))

    def frame(self, scores: Floats) -> pd.DataFrame:
        """One comparison (arms, runs, cases) as the table that `analyse` takes: metric dice, one label."""
        arm, run, case = (index.ravel() for index in np.indices(scores.shape))
        return pd.DataFrame(
            {
                "dataset": "simulated",
                "arm": [f"arm_{i}" for i in arm],
                "run": [str(i) for i in run],
                "fold": self.fold_of_case()[case].astype(str),
                "case": [f"case_{i:04d}" for i in case],
                "label": "object",
                "dice": scores.ravel(),
            }
        )


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """(num, pairs) each: 1 or -1 where a difference is claimed, 0 where it is not; p values after Holm; intervals' ends."""

    wilcoxon: NDArray[np.int_]
    cases: NDArray[np.int_]
    method: NDArray[np.int_]
    fold_t: NDArray[np.int_]
    nadeau_bengio: NDArray[np.int_]
    low: Floats
    high: Floats


def verdicts(world: World, scores: Floats, resamples: int, seed: int = 0) -> Verdicts:
    """Both layers' decisions on each of (num, arms, runs, cases), for each of the world's pairs."""
    num, arms, _, cases = scores.shape
    pairs = world.pairs()
    gaps = np.stack([scores[:, a] - scores[:, b] for a, b in pairs], axis=1)  # (num, pairs, runs, cases)
    by_case = gaps.mean(axis=2)
    low, high = Bootstrap(resamples, seed).bca(by_case.reshape(-1, cases).T)
    low, high = low.reshape(num, -1), high.reshape(num, -1)
    p_cases = holm(stats.wilcoxon(by_case, zero_method="pratt", axis=-1).pvalue)
    above = stats.wilcoxon(by_case, zero_method="pratt", axis=-1, alternative="greater").statistic
    effect = above - cases * (cases + 1) / 4  # no difference is exactly zero here
    omnibus = stats.friedmanchisquare(*scores.mean(axis=2).swapaxes(0, 1), axis=-1).pvalue[:, None] if arms > 2 else 0.0
    first = cases_differ(low, high, effect, p_cases, omnibus)
    by_training = _fold_means(world, gaps)  # (num, pairs, runs, folds)
    by_fold = by_training.mean(axis=2)
    p_folds = holm(stats.ttest_1samp(by_fold, 0, axis=-1).pvalue)
    p_strict = holm(_nadeau_bengio(by_training.reshape(num, len(pairs), -1), world.folds))
    mean = by_fold.mean(axis=-1)
    sign = np.sign(mean).astype(int)
    return Verdicts(
        wilcoxon=np.where(p_cases < 0.05, np.sign(effect), 0).astype(int),
        cases=first,
        method=methods_differ(first, mean, p_folds),
        fold_t=np.where(p_folds < 0.05, sign, 0),
        nadeau_bengio=np.where(p_strict < 0.05, sign, 0),
        low=low,
        high=high,
    )


def hierarchical_claims(world: World, scores: Floats, resamples: int, seed: int = 0) -> NDArray[np.int_]:
    """(num,): the sign of the first arm less the second if the hierarchical bootstrap's interval excludes zero, else 0."""
    fold, bootstrap = world.fold_of_case(), Bootstrap(resamples, seed)
    claims = []
    for one in scores[:, :2]:
        means = bootstrap.hierarchical([[arm[:, fold == k] for arm in one] for k in range(world.folds)])
        low, high = np.quantile(means[:, 0] - means[:, 1], [0.025, 0.975])
        claims.append(int(low > 0) - int(high < 0))
    return np.array(claims)


def rate(hits: int, num: int) -> dict[str, float]:
    """A share with its exact (Clopper-Pearson) 95% interval."""
    exact = stats.binomtest(hits, num).proportion_ci(0.95, "exact")
    return {"rate": hits / num, "low": float(exact.low), "high": float(exact.high), "hits": hits, "n": num}


def _fold_means(world: World, gaps: Floats) -> Floats:
    fold = world.fold_of_case()
    return np.stack([gaps[..., fold == k].mean(axis=-1) for k in range(world.folds)], axis=-1)


def _nadeau_bengio(differences: Floats, k: int) -> Floats:
    """p of (…, n) differences; two-sided."""
    n = differences.shape[-1]
    error = differences.std(axis=-1, ddof=1) * (1 / n + 1 / (k - 1)) ** 0.5
    return np.asarray(2 * stats.t.sf(np.abs(differences.mean(axis=-1) / error), n - 1))
