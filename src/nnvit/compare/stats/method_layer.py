"""The second layer: was it the architecture, or the run? Folds, and trainings within folds, are the sample here."""

from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bootstrap import hierarchical
from .case_table import MANY_FOLDS, Cube
from .paired_tests import CONFIDENCE, Floats, nadeau_bengio, paired_t


@dataclass(frozen=True, kw_only=True)
class Splits:
    """How an arm's cases were divided.

    names: of its folds. fold: (cases,), the fold of each case, where all runs used the same split; otherwise None.
    by_run: run -> (cases,), for repeated cross-validation with other splits.
    """

    names: list[str]
    fold: NDArray[np.str_] | None
    by_run: dict[str, NDArray[np.str_]]

    def same_as(self, other: "Splits") -> bool:
        """Whether fold-level differences between two arms can be taken."""
        if self.fold is not None and other.fold is not None:
            return bool((self.fold == other.fold).all())
        return self.by_run.keys() == other.by_run.keys() and all(
            (fold == other.by_run[run]).all() for run, fold in self.by_run.items()
        )


def splits(cube: Cube, arm: str, keep: NDArray[np.bool_]) -> Splits:
    """Of the kept cases of an arm."""
    folds = cube.folds[arm][:, keep]
    one = bool((folds == folds[:1]).all())
    by_run = dict(zip(cube.runs[arm], folds, strict=True))
    return Splits(names=sorted({str(name) for name in folds.ravel()}), fold=folds[0] if one else None, by_run=by_run)


class MethodLayer:
    """Fold-level figures of every pair of arms, for one metric and label.

    values: arm -> (runs, kept cases).
    """

    def __init__(self, cube: Cube, values: dict[str, Floats], keep: NDArray[np.bool_], num: int, seed: int) -> None:
        self.values, self.num, self.crossed = values, num, cube.crossed
        self.runs = cube.runs
        self.splits = {arm: splits(cube, arm, keep) for arm in cube.arms}
        self.resampled = self._resample(cube.arms, np.random.default_rng(seed))

    def pair(self, a: str, b: str) -> dict[str, Any]:
        """Folds' differences a - b, their paired t, the stricter Nadeau-Bengio and the hierarchical bootstrap."""
        reason = self._hindrance(a, b)
        names = self.splits[a].names if reason is None else []
        return {
            "n_folds": len(names),
            "n_runs": min(len(self.runs[a]), len(self.runs[b])),
            "folds": self._by_fold(a, b) if reason is None else [],
            "paired_t": self._paired_t(a, b, reason),
            "nadeau_bengio": self._nadeau_bengio(a, b, reason),
            "hierarchical": self._hierarchical(a, b, reason),
            "decides": "paired_t" if reason or self.splits[a].fold is not None else "nadeau_bengio",
            "reason": reason,
        }

    def _hindrance(self, a: str, b: str) -> str | None:
        """Why nothing can be said of a pair, if so."""
        first, second = self.splits[a], self.splits[b]
        if self.crossed:
            return f"cannot be claimed: {MANY_FOLDS}"
        if not first.names:
            return "cannot be claimed: no case"
        if not first.same_as(second):
            return "cannot be claimed: the folds of the two arms hold different cases"
        if len(first.names) < 2:
            return "cannot be claimed: one fold, so that training noise is unseen; two are the least, five are usual"
        return None

    def _by_fold(self, a: str, b: str) -> list[dict[str, Any]]:
        fold = self.splits[a].fold
        if fold is None:
            return [
                {"fold": name, "run": run, "difference": float(value), "n": n}
                for run, name, value, n in self._each_training(a, b)
            ]
        gap = self.values[a].mean(axis=0) - self.values[b].mean(axis=0)
        return [
            {"fold": name, "run": None, "difference": float(gap[fold == name].mean()), "n": int((fold == name).sum())}
            for name in self.splits[a].names
        ]

    def _paired_t(self, a: str, b: str, reason: str | None) -> dict[str, Any]:
        if reason is None and self.splits[a].fold is None:
            reason = "not computable: the runs used different splits; Nadeau-Bengio decides"
        differences = [] if reason else [row["difference"] for row in self._by_fold(a, b)]
        return paired_t(np.array(differences)) | ({"reason": reason} if reason else {})

    def _nadeau_bengio(self, a: str, b: str, reason: str | None) -> dict[str, Any]:
        """Over every trained fold where the arms' runs have the same names, otherwise over the folds' means."""
        if reason is not None:
            return nadeau_bengio(np.array([]), 0) | {"reason": reason}
        if self.splits[a].by_run.keys() == self.splits[b].by_run.keys():
            differences = [value for _, _, value, _ in self._each_training(a, b)]
        else:
            differences = [row["difference"] for row in self._by_fold(a, b)]
        return nadeau_bengio(np.array(differences), len(self.splits[a].names))

    def _each_training(self, a: str, b: str) -> list[tuple[str, str, float, int]]:
        """(run, fold, mean difference, n) of each run and fold; the arms' runs have the same names."""
        rows = []
        for run, fold in self.splits[a].by_run.items():
            gap = self.values[a][self.runs[a].index(run)] - self.values[b][self.runs[b].index(run)]
            for name in sorted(set(fold.tolist())):
                rows.append((run, name, float(gap[fold == name].mean()), int((fold == name).sum())))
        return rows

    def _resample(self, arms: list[str], rng: np.random.Generator) -> dict[tuple[str, str], Floats]:
        """(a, b) -> resampled differences. Arms of one split are resampled together."""
        groups: list[list[str]] = []
        for arm in arms:
            like = [group for group in groups if self.splits[group[0]].same_as(self.splits[arm])]
            if like:
                like[0].append(arm)
            else:
                groups.append([arm])
        found: dict[tuple[str, str], Floats] = {}
        for group in groups:
            fold, names = self.splits[group[0]].fold, self.splits[group[0]].names
            if self.crossed or fold is None or len(names) < 2 or len(group) < 2:
                continue
            by_fold = [[self.values[arm][:, fold == name] for arm in group] for name in names]
            means = hierarchical(by_fold, self.num, rng)
            found |= {(group[i], group[j]): means[:, i] - means[:, j] for i, j in permutations(range(len(group)), 2)}
        return found

    def _hierarchical(self, a: str, b: str, reason: str | None) -> dict[str, Any]:
        method = f"percentile bootstrap of folds, cases, runs, {self.num} resamples, {CONFIDENCE:.0%}"
        found: dict[str, Any] = {"low": None, "high": None, "method": method, "reason": reason}
        if reason is None and (a, b) not in self.resampled:
            return found | {"reason": "not computable: the runs used different splits"}
        if reason is not None:
            return found
        low, high = np.quantile(self.resampled[a, b], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return found | {"low": float(low), "high": float(high)}
