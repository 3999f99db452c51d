"""Turns the table of cases into arrays, after checking that every arm has exactly the same cases."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nnvit.errors import CompareError

from .bootstrap import Floats

KEY = ["run", "case", "label"]


@dataclass(frozen=True, kw_only=True)
class Cube:
    """One data set's scores.

    values: metric -> arm -> (runs, cases, labels), NaN where a metric is not defined. folds: arm -> (runs, cases), the fold
    that held each case, "" where that is unknown. runs: arm -> names of its trainings. crossed: every fold predicted the
    same cases (a test set).
    """

    dataset: str
    arms: list[str]
    cases: list[str]
    labels: list[str]
    runs: dict[str, list[str]]
    folds: dict[str, NDArray[np.str_]]
    values: dict[str, dict[str, Floats]]
    crossed: bool

    @classmethod
    def of_table(cls, cases: pd.DataFrame, metrics: list[str]) -> "list[Cube]":
        """Returns one cube per data set, in the order of the table. Raises CompareError where arms differ in their rows."""
        missing = [name for name in ("dataset", "arm", "run", "fold", "case", "label") if name not in cases.columns]
        if missing:
            raise CompareError(f"The table of cases lacks the columns {missing}; it has {list(cases.columns)}.")
        if cases.empty:
            raise CompareError("The table of cases is empty: no arm has a scored case. Check the arms' folders.")
        arms = list(dict.fromkeys(cases["arm"]))
        if len(arms) < 2:
            raise CompareError(f"A comparison needs two arms or more, got {arms}.")
        return [_cube(str(name), rows, arms, metrics) for name, rows in cases.groupby("dataset", sort=False)]

    def block(self, metric: str, label: str) -> tuple[dict[str, Floats], NDArray[np.bool_]]:
        """Returns arm -> (runs, kept cases), and which cases were kept; label "mean": the mean over a case's labels.

        A value that is missing for one arm or run is left out for all, so that every arm has the same cases.
        """
        values = self.values[metric]
        whole = np.all([np.isfinite(values[arm]).all(axis=0) for arm in self.arms], axis=0)
        chosen = np.ones(len(self.labels), bool) if label == "mean" else np.array(self.labels) == label
        whole = whole & chosen
        keep = whole.any(axis=1)
        counts = whole[keep].sum(axis=1)
        means = {arm: np.where(whole, values[arm], 0)[:, keep].sum(axis=2) / counts for arm in self.arms}
        return means, keep


def _cube(dataset: str, rows: pd.DataFrame, arms: list[str], metrics: list[str]) -> Cube:
    words = rows[[*KEY, "fold"]].astype(object)  # an empty cell of a csv file is an empty name
    rows = rows.assign(**words.where(words.notna(), "").astype(str))
    rows, crossed = _uncross(rows, dataset)
    tables = {arm: rows[rows["arm"] == arm].set_index(KEY) for arm in arms}
    labels = list(dict.fromkeys(rows["label"]))
    names = sorted(rows["case"].unique())
    runs = {arm: sorted(table.index.get_level_values("run").unique(), key=_number) for arm, table in tables.items()}
    wanted = set(zip(rows["case"], rows["label"], strict=True))
    _check_same_cases(dataset, tables, runs, wanted)
    values: dict[str, dict[str, Floats]] = {metric: {} for metric in metrics}
    folds = {}
    for arm, table in tables.items():
        shape = (len(runs[arm]), len(names), len(labels))
        full = table.reindex(pd.MultiIndex.from_product([runs[arm], names, labels]))
        for metric in metrics:
            values[metric][arm] = full[metric].to_numpy(float).reshape(shape)
        by_case = table["fold"].groupby(level=["run", "case"]).first()
        folds[arm] = by_case.loc[pd.MultiIndex.from_product([runs[arm], names])].to_numpy(str).reshape(shape[:2])
    return Cube(
        dataset=dataset, arms=arms, cases=names, labels=labels, runs=runs, folds=folds, values=values, crossed=crossed
    )


def _uncross(rows: pd.DataFrame, dataset: str) -> tuple[pd.DataFrame, bool]:
    """Turns folds into runs where every fold predicted the same cases (a test set)."""
    twice = rows.duplicated(["arm", *KEY, "fold"])
    if twice.any():
        first = rows[twice].iloc[0]
        raise CompareError(
            f"{dataset}: arm '{first['arm']}' has case '{first['case']}', label '{first['label']}' twice in fold "
            f"'{first['fold']}'; a case is scored once per arm, run and fold. Is an arm named twice?"
        )
    crossed = bool(rows.duplicated(["arm", *KEY]).any())
    if crossed:
        rows = rows.assign(run=rows["run"] + "/" + rows["fold"], fold="")
    return rows, crossed


def _check_same_cases(
    dataset: str, tables: dict[str, pd.DataFrame], runs: dict[str, list[str]], wanted: set[tuple[str, str]]
) -> None:
    """Raises CompareError with the cases and labels that an arm, or one of its runs, lacks."""
    lacking = []
    for arm, table in tables.items():
        if table.empty:
            lacking.append(f"arm '{arm}' has no case at all")
        for run in runs[arm]:
            missing = sorted(wanted - set(table.loc[run].index))
            if missing:
                where = f"arm '{arm}'" + (f", run '{run}'" if run else "")
                shown = ", ".join(f"{case} ({label})" for case, label in missing[:10])
                lacking.append(f"{where} lacks {len(missing)}: {shown}{' …' if len(missing) > 10 else ''}")
    if lacking:
        raise CompareError(
            f"{dataset}: the arms do not have the same cases, and only the same cases can be compared: "
            + "; ".join(lacking[:6])
            + (f"; and {len(lacking) - 6} more" if len(lacking) > 6 else "")
            + ". Predict what is missing, or compare the folds that every arm has."
        )


def _number(name: str) -> tuple[int, str]:
    """Sorts runs "2" and "10" by their numbers."""
    return (int(name), "") if name.isdigit() else (-1, name)
