"""What the sentences of the page depend on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from .wording import main_block, metrics_shown


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the sentences depend on."""

    arms: Sequence[str]
    datasets: Sequence[str]
    cases: int
    folds: int
    runs: int
    """Least number of trainings per fold of any arm."""
    metrics: Sequence[str]
    """Columns that have values."""
    resamples: int
    human: bool
    options: Mapping[str, Any]
    missed: int
    """Structures that an arm did not find at all, over arms, runs, cases and labels."""
    empty: int
    """Pairs of case and label with an empty reference."""
    unknown: Sequence[str]
    """Rows of the audit that some arm does not tell."""
    devices: Sequence[str]
    left_out: int
    """Cases that the main metric's mean leaves out: a value is missing in some arm."""


def facts_of(
    stats: Mapping[str, Any],
    cases: pd.DataFrame,
    audit: Mapping[str, Any],
    cost: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
) -> Facts:
    """What the sentences of the page depend on."""
    results = stats["datasets"].values()
    folds = [len({name for arm in found["folds"].values() for name in arm} - {""}) for found in results]
    references = cases.drop_duplicates(["dataset", "case", "label"])
    unknown = [row.get("title") or row["key"] for row in audit["rows"] if row["status"] == "unknown"]
    return Facts(
        arms=stats["arms"],
        datasets=list(stats["datasets"]),
        cases=sum(found["n_cases"] for found in results),
        folds=min(folds),
        runs=min(len(runs) for found in results for runs in found["runs"].values()),
        metrics=metrics_shown(stats),
        resamples=stats["settings"]["resamples"],
        human=any(main_block(stats, dataset)["human"] for dataset in stats["datasets"]),
        options=options,
        missed=int(cases["missed"].sum()),
        empty=int((references["n_ref"] == 0).sum()),
        unknown=unknown,
        devices=sorted({row["device"] for row in cost if row.get("device")}),
        left_out=sum(main_block(stats, dataset)["left_out"] for dataset in stats["datasets"]),
    )
