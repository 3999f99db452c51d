"""The folds of a cross-validation: trained one after another (`nnvit train --folds`), scored together (`nnvit evaluate`)."""

import gc
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from nnunetv2.configuration import default_num_processes
from nnunetv2.evaluation.accumulate_cv_results import accumulate_cv_results
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder2, load_summary_json
from nnunetv2.utilities.file_path_utilities import folds_tuple_to_string
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from rich.table import Table

from nnvit.data.pairing import refuse
from nnvit.errors import ConfigError, DataError, PlansError
from nnvit.nnunet import checkpoint_file, paths
from nnvit.nnunet.model_folder import ModelFolder
from nnvit.nnunet.train.run_training import run_training
from nnvit.records.model_name import ModelName
from nnvit.records.plans_block import PlansBlock
from nnvit.records.run_record import FILE, RunRecord

_SUMMARY = "summary.json"
_DEFAULT_FOLDS = 5
"""Number of folds that nnU-Net makes if there is no splits_final.json."""


# --- training --------------------------------------------------------------------------------------------------------


class _FoldState(StrEnum):
    """The state of a fold, in words that say what is left to do."""

    NEW = "to be trained"
    BEGUN = "interrupted, continues"
    TRAINED = "trained, but not validated to the end; its validation runs again"
    DONE = "finished, left as it is"


def choose(dataset: str, wanted: Sequence[str]) -> list[int]:
    """Returns the folds that `--folds all` or `--folds 0 1` name. Raises ConfigError or PlansError for unknown ones."""
    data = paths.PreprocessedDataset(dataset)
    splits = data.splits()
    there = list(range(len(splits) if splits else _DEFAULT_FOLDS))
    if list(wanted) == ["all"]:
        return there
    if strange := [word for word in wanted if not word.isdigit()]:
        raise ConfigError(
            f"--folds {' '.join(wanted)}: {strange[0]} is not a fold's number; give numbers separated by spaces, or 'all' alone "
            f"for the folds {', '.join(map(str, there))}. To train one model on all cases (nnU-Net's fold 'all'), leave --folds "
            "out and give all as FOLD."
        )
    folds = sorted({int(word) for word in wanted})
    if lacking := [fold for fold in folds if fold not in there]:
        raise PlansError(
            f"--folds: {', '.join(map(str, lacking))} not in {data.file('splits_final')}, which holds folds 0 "
            f"to {there[-1]}."
        )
    return folds


def run_folds(
    dataset: str,
    configuration: str,
    folds: Sequence[int],
    trainer: str,
    plans: str,
    *,
    device: torch.device,
    pretrained_weights: str | None = None,
    **flags: Any,
) -> Path:
    """Trains the folds that are not finished and continues those that were interrupted; returns the model folder.

    flags: `run_training`'s; with `only_run_validation` every fold is validated again. Raises PlansError, before anything is
    trained, if a fold holds another recipe or was trained on another split.
    """
    data = paths.PreprocessedDataset(dataset)
    model = data.results(ModelName(trainer, plans, configuration))
    states = {fold: _state_of(model / f"fold_{fold}") for fold in folds}
    block = cast(PlansBlock, PlansBlock.of(data.plans(plans), configuration))
    _refuse_other_runs(model, folds, block, data.splits())
    only_validate = flags.pop("only_run_validation", False)
    flags.pop("continue_training", None)  # follows from each fold's state
    for fold, (_, said) in states.items():
        print(f"fold {fold}: {'is validated again' if only_validate else said}", flush=True)
    for number, (fold, (state, _)) in enumerate(states.items(), start=1):
        if state is _FoldState.DONE and not only_validate:
            continue
        print(f"\n--- fold {fold} ({number} of {len(states)}) ---", flush=True)
        run_training(
            dataset,
            configuration,
            fold,
            trainer,
            plans,
            pretrained_weights=pretrained_weights if state is _FoldState.NEW and not only_validate else None,
            continue_training=state is _FoldState.BEGUN and not only_validate,
            only_run_validation=only_validate or state is _FoldState.TRAINED,
            device=device,
            **flags,
        )
        gc.collect()  # frees the device memory that the fold held, for the next one
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return model


def _state_of(fold: Path) -> tuple[_FoldState, str]:
    """Returns a fold's state by its nnvit_run.json and its checkpoints, and a sentence on it."""
    record = RunRecord.read(fold)
    if record is not None and record.DONE:
        return _FoldState.DONE, f"{_FoldState.DONE} ({record.end})"
    if record is not None and record.exit == "finished" and (fold / checkpoint_file.FINAL).is_file():
        return _FoldState.TRAINED, str(_FoldState.TRAINED)
    if not checkpoint_file.find(fold):
        return _FoldState.NEW, str(_FoldState.NEW)
    progress = f"from its checkpoint; its progress is unknown, because there is no {FILE}"
    if record is not None:
        progress = f"after epoch {record.epochs_done} of {record.recipe['training']['num_epochs']}"
    return _FoldState.BEGUN, f"{_FoldState.BEGUN} {progress}"


def _refuse_other_runs(
    model: Path, folds: Sequence[int], block: PlansBlock, splits: list[dict[str, list[str]]] | None
) -> None:
    for fold in folds:
        where = model / f"fold_{fold}"
        if record := RunRecord.read(where):
            block.refuse_other_recipe(where, [record.recipe_hash])
            if splits:
                record.refuse_other_data(where, split_hash=RunRecord.hash_of_split(splits[fold]))


# --- evaluation ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _LabelScore:
    """Dice of one label over some cases.

    values: of the cases whose reference holds the label; empty: number of cases whose reference lacks it, which have no Dice;
    false_alarms: those of them where it was predicted.
    """

    values: tuple[float, ...]
    empty: int
    false_alarms: int

    def __str__(self) -> str:
        """Returns mean, standard deviation over cases and number of cases: `0.761 ± 0.022 (8)`."""
        spread = f"{np.std(self.values, ddof=1):.3f}" if len(self.values) > 1 else "–"
        mean = f"{np.mean(self.values):.4f} ± {spread} ({len(self.values)})" if self.values else "–"
        alarms = f", {self.false_alarms} with a false alarm" if self.false_alarms else ""
        return mean + (f"\n{self.empty} empty{alarms}" if self.empty else "")


@dataclass(frozen=True, kw_only=True)
class _Evaluation:
    """Scores of a cross-validation or a folder.

    names: label or region -> name; rows: `fold 0`, …, `all` -> label -> score; nnunet_means: label -> nnU-Net's mean Dice;
    summary: nnU-Net's summary.json.
    """

    names: dict[Any, str]
    rows: dict[str, dict[Any, _LabelScore]]
    nnunet_means: dict[Any, float]
    summary: Path

    def table(self) -> Table:
        """Returns Dice by row and label, for a terminal."""
        table = Table(title="Dice: mean ± SD over cases (number of cases)")
        table.add_column("")
        for name in self.names.values():
            table.add_column(name, justify="right")
        for row, scores in self.rows.items():
            table.add_row(row, *(str(scores[label]) for label in self.names))
        return table

    def lines(self) -> list[str]:
        """Returns the lines below the table."""
        lines = [f"nnU-Net's summary: {self.summary}"]
        whole = list(self.rows.values())[-1]
        alarmed = {label: score for label, score in whole.items() if score.false_alarms}
        if alarmed:
            means = ", ".join(f"{self.names[label]} {self.nnunet_means[label]:.4f}" for label in alarmed)
            lines.append(
                f"there, a false alarm in a case with an empty reference counts as Dice 0, so the means differ: {means}"
            )
        return lines


def evaluate_model(model: Path, wanted: Sequence[int] | None = None) -> _Evaluation:
    """Copies the validation masks of the folds to `crossval_results_folds_…`, as nnU-Net does, and scores them.

    wanted: folds, None for all of splits_final.json. Raises PlansError or DataError before anything is written; it names
    missing folds and cases, and masks that do not belong to a fold's split.
    """
    folder = ModelFolder.read(model)
    dataset, ending = paths.PreprocessedDataset(folder.plans["dataset_name"]), folder.dataset_json["file_ending"]
    splits = dataset.splits()
    if splits is None:
        raise PlansError(f"{dataset.file('splits_final')} does not exist; it says which cases belong to a fold.")
    chosen = list(range(len(splits))) if wanted is None else sorted(set(wanted))
    if unknown := [fold for fold in chosen if fold >= len(splits)]:
        raise PlansError(f"--folds: {unknown} are not in splits_final.json, which holds folds 0 to {len(splits) - 1}.")
    _refuse_incomplete(model, chosen, splits, ending)
    references = _references(dataset.name)
    cases = [case for fold in chosen for case in splits[fold]["val"]]
    absent = [f"{case}{ending}" for case in cases if not (references / f"{case}{ending}").is_file()]
    refuse(f"{references} lacks references", absent, "Restore them from the data set.")
    merged = model / f"crossval_results_folds_{folds_tuple_to_string(chosen)}"
    accumulate_cv_results(str(model), str(merged), chosen, default_num_processes, overwrite=True)
    groups = {f"fold {fold}": splits[fold]["val"] for fold in chosen} if len(chosen) > 1 else {}
    return _evaluation(merged / _SUMMARY, folder, groups | {"all" if groups else f"fold {chosen[0]}": cases})


def evaluate_folder(predictions: Path, references: Path) -> _Evaluation:
    """Scores predicted masks against references of the same names, as nnUNetv2_evaluate_folder does.

    Raises DataError for names that only one of the folders holds, and if `predictions` lacks the dataset.json and plans.json
    that predicting writes there.
    """
    for given in (predictions, references):
        if not given.is_dir():
            raise DataError(f"{given} is not a folder; give the predicted masks first and then their references.")
    files = [predictions / f"{name}.json" for name in ("dataset", "plans")]
    if not all(file.is_file() for file in files):
        raise DataError(
            f"{predictions} lacks dataset.json and plans.json, which define the labels. nnUNetv2_predict writes them there, and "
            "so does `nnvit predict` for a folder of nnU-Net's naming; copy them from the model folder."
        )
    folder = ModelFolder.read(predictions)
    ending = folder.dataset_json["file_ending"]
    predicted, known = ({path.name for path in given.glob(f"*{ending}")} for given in (predictions, references))
    lonely = [f"{name}: no prediction" for name in sorted(known - predicted)]
    lonely += [f"{name}: no reference" for name in sorted(predicted - known)]
    refuse(f"predictions in {predictions} and references in {references} do not match", lonely)
    if not predicted:
        raise DataError(f"{predictions} holds no {ending} file.")
    summary = predictions / _SUMMARY
    compute_metrics_on_folder2(str(references), str(predictions), *map(str, files), str(summary), default_num_processes)
    cases = sorted(name.removesuffix(ending) for name in predicted)
    return _evaluation(summary, folder, {"all": cases})


def _evaluation(summary: Path, folder: ModelFolder, groups: dict[str, list[str]]) -> _Evaluation:
    """Reads nnU-Net's summary. groups: row -> its cases."""
    content = load_summary_json(str(summary))
    ending = folder.dataset_json["file_ending"]
    metrics = {
        Path(case["prediction_file"]).name.removesuffix(ending): case["metrics"] for case in content["metric_per_case"]
    }
    names = _names(folder)
    return _Evaluation(
        names=names,
        rows={
            row: {label: _score([metrics[c][label] for c in cases]) for label in names} for row, cases in groups.items()
        },
        nnunet_means={label: content["mean"][label]["Dice"] for label in names},
        summary=summary,
    )


def _score(cases: list[dict[str, float]]) -> _LabelScore:
    empty = [case for case in cases if case["n_ref"] == 0]
    return _LabelScore(
        values=tuple(case["Dice"] for case in cases if case["n_ref"] > 0),
        empty=len(empty),
        false_alarms=sum(not math.isnan(case["Dice"]) for case in empty),
    )


def _names(folder: ModelFolder) -> dict[Any, str]:
    """Returns the names by the keys of nnU-Net's summary: an int, or a tuple for a region of several labels."""
    labels = PlansManager(folder.plans).get_label_manager(folder.dataset_json)
    found = labels.foreground_regions if labels.has_regions else labels.foreground_labels
    keys = [tuple(map(int, key)) if isinstance(key, tuple | list) else int(key) for key in found]
    named = {tuple(v) if isinstance(v, list) else v: name for name, v in folder.dataset_json["labels"].items()}
    return {key: named.get(key, named.get((key,), str(key))) for key in keys}


def _references(dataset: str) -> Path:
    """Returns the folder where nnU-Net looks for references: the raw data's, else the preprocessed data's."""
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
        problems += [
            f"fold {fold}: {case}{ending} is not one of its validation cases" for case in sorted(found - wanted)
        ]
        record = RunRecord.read(folder)
        if record is not None and record.split_hash != RunRecord.hash_of_split(splits[fold]):
            problems.append(f"fold {fold}: it was trained on another split than the one now in splits_final.json")
    refuse(
        f"the masks in {model} are not those of the splits",
        problems,
        "Validate a fold again with `nnvit train … --val`, and delete masks left from other splits.",
    )
