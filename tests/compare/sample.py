"""A comparison with everything in it, small and made up, for the tests of the report: scores, masks, photographs, records."""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nnvit.compare import Options, report
from nnvit.compare.audit.fairness import Audit, AuditRow
from nnvit.compare.inputs.arms import ArmCost
from nnvit.compare.stats import analysis

HOSTILE = '<img src=x onerror="alert(1)"> & </script>{{ 7 * 7 }}'
"""A name that does harm if it is not escaped."""
NAN = float("nan")
COMMAND = "nnvit compare unet=/home/somebody/results/folder_0 --out x/y"
GAINS = (0.0, 0.04, 0.01, -0.02)
"""The arms' gains in Dice, shifted by one arm with every data set."""


@dataclass(kw_only=True)
class Sample:
    """The input that `write` makes a report of; fields may be changed before."""

    arms: tuple[str, ...] = ("unet", "segformer", "vit_random", HOSTILE)
    labels: tuple[str, ...] = ("vessel", "disc & cup")
    datasets: tuple[str, ...] = ("Dataset101_CHASE",)
    num_cases: int = 20
    folds: int = 5
    runs: int = 3
    baseline: str | None = "unet"
    metric: str = "dice"
    human: bool = True
    costs: bool = True
    verdict_rows: tuple[str, ...] = ("equal", "declared", "unknown", "by design")
    options: dict[str, Any] = field(default_factory=dict)

    def cases(self) -> pd.DataFrame:
        """Scores of all arms; the second label is empty in every seventh case."""
        rng = np.random.default_rng(0)
        rows = []
        for d, dataset in enumerate(self.datasets):
            base_NL = rng.beta(20, 4, (self.num_cases, len(self.labels)))
            for a, arm in enumerate(self.arms):
                for run in range(self.runs):
                    for n in range(self.num_cases):
                        for k, label in enumerate(self.labels):
                            gain = GAINS[(a + d) % len(GAINS)] + rng.normal(0, 0.01)
                            dice = NAN if k == 1 and n % 7 == 0 else float(np.clip(base_NL[n, k] + gain, 0, 1))
                            where = {"dataset": dataset, "arm": arm, "run": str(run) if self.runs > 1 else ""}
                            rows.append(
                                where
                                | {"fold": str(n % self.folds), "case": _case(n), "label": label}
                                | _scores(dice, k)
                            )
        return pd.DataFrame(rows)

    def observer(self, cases: pd.DataFrame) -> pd.DataFrame | None:
        """A second observer, a little apart from the first arm."""
        if not self.human:
            return None
        first = cases[(cases["arm"] == self.arms[0]) & cases["run"].isin(["", "0"])]
        return first.assign(arm="human", run="", fold="", dice=first["dice"] - 0.03)

    def audit(self) -> Audit:
        """One row per status."""
        rows = [
            AuditRow(
                key=f"row_{status}",
                title=f"row that is {status}",
                equal_expected=status != "by design",
                values={arm: f"{status} of {arm}" for arm in self.arms},
                status=status,
            )
            for status in self.verdict_rows
        ]
        return Audit(rows=tuple(rows), notes=(f"segformer has no random-init twin {HOSTILE}",))

    def cost(self) -> list[ArmCost]:
        """Costs; the second arm has no FLOPs, and no arm has any costs if `costs` is off."""
        known: list[dict[str, Any]] = [
            {
                "parameters_total": 20_000_000 * (i + 1),
                "parameters_trainable": 2_000_000,
                "flops": None if i == 1 else 10**11,
                "seconds_per_iteration": 1.5 + i,
                "seconds_per_iteration_of": "data and step",
                "train_hours": 4.0,
                "peak_memory_bytes": 2**31,
                "checkpoint_bytes": 2**27,
                "predict_seconds_per_case": 0.4,
                "device": "cpu",
            }
            for i in range(len(self.arms))
        ]
        return [ArmCost(arm=arm, **(told if self.costs else {})) for arm, told in zip(self.arms, known, strict=True)]


def whole_report(factory: pytest.TempPathFactory) -> Path:
    """The folder with the report of the unchanged sample, written once for all tests."""
    folder = factory.getbasetemp() / "whole_report"
    if not (folder / "report.html").is_file():
        write(folder)
    return folder


def write(out: Path, sample: Sample | None = None, **changes: Any) -> Path:
    """Writes the report of a sample, changed by field; masks and photographs go to `out`/given. Returns the page."""
    sample = sample or Sample(**changes)
    cases = sample.cases()
    options = Options(
        configuration="2d", version="0.1.0", date="2026-11-25", nsd_tolerance_mm=2.0,
        hd95_rule="the larger of two percentiles", command=COMMAND, **sample.options,
    )  # fmt: skip
    comparison = analysis.analyse(
        cases, sample.baseline, sample.metric, sample.observer(cases), num_bootstrap=199,
        spacing_unit=options.spacing_unit,
    )  # fmt: skip
    references, predictions, images = write_masks(out / "given", sample)
    return report.write(
        out,
        cases=cases,
        comparison=comparison,
        audit=sample.audit(),
        cost=sample.cost(),
        arms=[
            SimpleNamespace(name=arm, path=Path("/home/somebody/results") / f"folder_{i}")
            for i, arm in enumerate(sample.arms)
        ],  # type: ignore[misc]
        options=options,
        images=images,
        references=references,
        predictions=predictions,
    )


def write_masks(folder: Path, sample: Sample) -> tuple[dict[str, Path], dict[str, dict[str, Path]], Path]:
    """References and predictions (48 × 64, a disc that is shifted from arm to arm), and photographs by nnU-Net's names."""
    images = folder / "imagesTr"
    images.mkdir(parents=True)
    rng = np.random.default_rng(1)
    references: dict[str, Path] = {}
    predictions: dict[str, dict[str, Path]] = {arm: {} for arm in sample.arms}
    for n in range(sample.num_cases):
        photograph = Image.fromarray(rng.integers(60, 200, (48, 64, 3), dtype=np.uint8))
        photograph.save(images / f"{_case(n)}_0000.png")
        for dataset in sample.datasets:
            name = f"{dataset}/{_case(n)}" if len(sample.datasets) > 1 else _case(n)
            references[name] = folder / f"reference_{n}.png"
            Image.fromarray(disc(24, 32)).save(references[name])
            for a, arm in enumerate(sample.arms):
                predictions[arm][name] = folder / f"arm{a}_{n}.png"
                Image.fromarray(disc(24 + a, 30)).save(predictions[arm][name])
    return references, predictions, images


def disc(y: int, x: int, radius: int = 10) -> np.ndarray:
    """(48, 64) uint8: a disc of label 1 with a core of label 2."""
    ys, xs = np.mgrid[:48, :64]
    distance = np.hypot(ys - y, xs - x)
    return np.select([distance < radius / 2, distance < radius], [2, 1], 0).astype(np.uint8)


def _case(n: int) -> str:
    return f"Image_{n:02d}"


def _scores(dice: float, label: int) -> dict[str, Any]:
    empty = bool(np.isnan(dice))
    return {
        "n_ref": 0 if empty else 400,
        "n_pred": 410,
        "dice": dice,
        "iou": dice / (2 - dice),
        "sensitivity": dice,
        "precision": dice,
        "nsd": dice,
        "hd95_mm": 40 * (1 - dice),
        "cldice": NAN if label else dice,
        "fp_volume_mm3": 10.0 if empty else NAN,
        "missed": False,
    }
