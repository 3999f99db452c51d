"""`nnvit evaluate`: the folds of a cross-validation together, or a folder of predictions, scored by stock nnU-Net."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.configuration import default_num_processes
from nnunetv2.evaluation.accumulate_cv_results import accumulate_cv_results
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder2, load_summary_json
from nnunetv2.utilities.file_path_utilities import folds_tuple_to_string
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from rich.table import Table

from nnvit.data.pairing import refuse
from nnvit.errors import DataError, PlansError
from nnvit.nnunet import paths
from nnvit.records.json_files import read_json
from nnvit.records.run_record import RunRecord, split_hash

from . import folds

SUMMARY = "summary.json"


@dataclass(frozen=True, kw_only=True)
class Score:
    """Dice of one label over some cases."""

    values: tuple[float, ...]
    """Of the cases whose reference holds the label."""
    empty: int
    """Cases whose reference does not hold it: no Dice can be given."""
    false_alarms: int
    """Those of them where it was predicted all the same."""

    def __str__(self) -> str:
        """`0.761 ± 0.022 (8)`: mean, standard deviation over cases, number of cases."""
        spread = f"{np.std(self.values, ddof=1):.3f}" if len(self.values) > 1 else "–"
        mean = f"{np.mean(self.values):.4f} ± {spread} ({len(self.values)})" if self.values else "–"
        alarms = f", {self.false_alarms} with a false alarm" if self.false_alarms else ""
        return mean + (f"\n{self.empty} empty{alarms}" if self.empty else "")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """names: label or region -> its name; rows: `fold 0`, …, `all` -> label -> score; summary: nnU-Net's file."""

    names: dict[Any, str]
    rows: dict[str, dict[Any, Score]]
    nnunet_means: dict[Any, float]
    summary: Path

    def table(self) -> Table:
        """Dice by row and label, for a terminal."""
        table = Table(title="Dice: mean ± SD over cases (number of cases)")
        table.add_column("")
        for name in self.names.values():
            table.add_column(name, justify="right")
        for row, scores in self.rows.items():
            table.add_row(row, *(str(scores[label]) for label in self.names))
        return table

    def lines(self) -> list[str]:
        """What follows the table."""
        lines = [f"nnU-Net's summary: {self.summary}"]
        whole = list(self.rows.values())[-1]
        alarmed = {label: score for label, score in whole.items() if score.false_alarms}
        if alarmed:
            means = ", ".join(f"{self.names[label]} {self.nnunet_means[label]:.4f}" for label in alarmed)
            lines.append(
                f"there, a false alarm in a case with an empty reference counts as Dice 0, so that the means differ: {means}"
            )
        return lines


def evaluate_model(model: Path, wanted: Sequence[int] | None = None) -> Evaluation:
    """Gathers the validation masks of the folds into `crossval_results_folds_…`, as nnU-Net does, and scores them.

    wanted: folds, None for all of splits_final.json. Raises PlansError or DataError, before anything is written, that names
    folds and cases that are missing, and masks that do not belong to a fold's split.
    """
    dataset_json, plans = _read_model(model)
    dataset, ending = plans["dataset_name"], dataset_json["file_ending"]
    splits = folds.splits_of(dataset)
    if splits is None:
        raise PlansError(
            f"{paths.plans_path(dataset, 'splits_final')} does not exist; it says which cases belong to a fold."
        )
    chosen = list(range(len(splits))) if wanted is None else sorted(set(wanted))
    if unknown := [fold for fold in chosen if fold >= len(splits)]:
        raise PlansError(f"--folds: {unknown} are not in splits_final.json, which holds folds 0 to {len(splits) - 1}.")
    _refuse_incomplete(model, chosen, splits, ending)
    references = _references(dataset)
    cases = [case for fold in chosen for case in splits[fold]["val"]]
    absent = [f"{case}{ending}" for case in cases if not (references / f"{case}{ending}").is_file()]
    refuse(f"{references} lacks references", absent, "Restore them from the data set.")
    merged = model / f"crossval_results_folds_{folds_tuple_to_string(chosen)}"
    accumulate_cv_results(str(model), str(merged), chosen, default_num_processes, overwrite=True)
    groups = {f"fold {fold}": splits[fold]["val"] for fold in chosen} if len(chosen) > 1 else {}
    return _evaluation(
        merged / SUMMARY, dataset_json, plans, groups | {f"fold {chosen[0]}" if not groups else "all": cases}
    )


def evaluate_folder(predictions: Path, references: Path) -> Evaluation:
    """Scores predictions of nnU-Net's naming against references of the same names, as nnUNetv2_evaluate_folder does.

    Raises DataError for names without a partner, and for a folder without the dataset.json and plans.json that predicting
    leaves there.
    """
    for folder in (predictions, references):
        if not folder.is_dir():
            raise DataError(f"{folder} is not a folder; give the predicted masks and then their references.")
    files = [predictions / f"{name}.json" for name in ("dataset", "plans")]
    if not all(file.is_file() for file in files):
        raise DataError(
            f"{predictions} lacks dataset.json and plans.json, which nnUNetv2_predict and, on a folder of nnU-Net's naming, "
            "`nnvit predict` leave there, and which say what the labels mean; copy them from the model folder."
        )
    dataset_json, plans = (read_json(file) for file in files)
    ending = dataset_json["file_ending"]
    predicted, known = ({path.name for path in folder.glob(f"*{ending}")} for folder in (predictions, references))
    lonely = [f"{name}: no prediction" for name in sorted(known - predicted)]
    lonely += [f"{name}: no reference" for name in sorted(predicted - known)]
    refuse(f"predictions in {predictions} and references in {references} do not match", lonely)
    if not predicted:
        raise DataError(f"{predictions} holds no {ending} file.")
    summary = predictions / SUMMARY
    compute_metrics_on_folder2(str(references), str(predictions), *map(str, files), str(summary), default_num_processes)
    cases = sorted(name.removesuffix(ending) for name in predicted)
    return _evaluation(summary, dataset_json, plans, {"all": cases})


def _evaluation(
    summary: Path, dataset_json: dict[str, Any], plans: dict[str, Any], groups: dict[str, list[str]]
) -> Evaluation:
    content = load_summary_json(str(summary))
    ending = dataset_json["file_ending"]
    metrics = {
        Path(case["prediction_file"]).name.removesuffix(ending): case["metrics"] for case in content["metric_per_case"]
    }
    names = _names(dataset_json, plans)
    return Evaluation(
        names=names,
        rows={
            row: {label: _score([metrics[c][label] for c in cases]) for label in names} for row, cases in groups.items()
        },
        nnunet_means={label: content["mean"][label]["Dice"] for label in names},
        summary=summary,
    )


def _score(cases: list[dict[str, float]]) -> Score:
    empty = [case for case in cases if case["n_ref"] == 0]
    return Score(
        values=tuple(case["Dice"] for case in cases if case["n_ref"] > 0),
        empty=len(empty),
        false_alarms=sum(not math.isnan(case["Dice"]) for case in empty),
    )


def _names(dataset_json: dict[str, Any], plans: dict[str, Any]) -> dict[Any, str]:
    """By the keys of nnU-Net's summary: an int, or a tuple for a region of several labels."""
    labels = PlansManager(plans).get_label_manager(dataset_json)
    keys = labels.foreground_regions if labels.has_regions else labels.foreground_labels
    named = {tuple(v) if isinstance(v, list) else v: name for name, v in dataset_json["labels"].items()}
    return {key: named.get(key, named.get((key,), str(key))) for key in map(_plain, keys)}


def _plain(key: Any) -> Any:
    return tuple(map(int, key)) if isinstance(key, tuple | list) else int(key)


def _read_model(model: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    files = [model / f"{name}.json" for name in ("dataset", "plans")]
    if not all(file.is_file() for file in files):
        raise PlansError(f"{model} is no model folder, …/Trainer__Plans__2d: it lacks dataset.json or plans.json.")
    dataset_json, plans = (read_json(file) for file in files)
    return dataset_json, plans


def _references(dataset: str) -> Path:
    """Where nnU-Net looks for them: with the raw data, else beside the preprocessed ones."""
    raw = Path(os.environ.get("nnUNet_raw", "")) / dataset / "labelsTr"
    if "nnUNet_raw" not in os.environ:
        paths.folder("nnUNet_raw")  # nnU-Net needs it set, and this says how
    return raw if raw.is_dir() else paths.folder("nnUNet_preprocessed") / dataset / "gt_segmentations"


def _refuse_incomplete(model: Path, chosen: list[int], splits: list[dict[str, list[str]]], ending: str) -> None:
    missing = [fold for fold in chosen if not (model / f"fold_{fold}" / "validation").is_dir()]
    if missing:
        there = [fold for fold in chosen if fold not in missing]
        raise PlansError(
            f"{model} lacks the validation of fold{'s' * (len(missing) > 1)} {', '.join(map(str, missing))}. Train and validate "
            f"them (`nnvit train … --folds {' '.join(map(str, missing))}`)"
            + (f", or evaluate --folds {' '.join(map(str, there))}." if there else ".")
        )
    problems = []
    for fold in chosen:
        folder = model / f"fold_{fold}"
        found = {path.name.removesuffix(ending) for path in (folder / "validation").glob(f"*{ending}")}
        wanted = set(splits[fold]["val"])
        problems += [f"fold {fold}: no mask of {case}" for case in sorted(wanted - found)]
        problems += [f"fold {fold}: {case}{ending} is not of its validation cases" for case in sorted(found - wanted)]
        record = RunRecord.read(folder)
        if record is not None and record.split_hash != split_hash(splits[fold]["train"], splits[fold]["val"]):
            problems.append(f"fold {fold}: it was trained on another split than splits_final.json has now")
    refuse(
        f"the masks in {model} are not those of the splits",
        problems,
        "Validate a fold again with `nnvit train … --val`, and delete masks that are left from other splits.",
    )
