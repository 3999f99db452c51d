"""The folds of a cross-validation, one after the other: `nnvit train … --folds`."""

import gc
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

import torch

from nnvit.errors import ConfigError, PlansError
from nnvit.nnunet import checkpoint_file
from nnvit.nnunet.paths import PreprocessedDataset
from nnvit.nnunet.train import run_training
from nnvit.records.model_name import ModelName
from nnvit.records.plans_block import PlansBlock
from nnvit.records.run_record import FILE, RunRecord, split_hash

_DEFAULT_FOLDS = 5
"""Number of folds that nnU-Net makes if there is no splits_final.json."""


class _FoldState(StrEnum):
    """The state of a fold, in words that say what is left to do."""

    NEW = "to be trained"
    BEGUN = "interrupted, continues"
    TRAINED = "trained, but not validated to the end; its validation runs again"
    DONE = "finished, left as it is"


def choose(dataset: str, wanted: Sequence[str]) -> list[int]:
    """Returns the folds that `--folds all` or `--folds 0 1` name. Raises ConfigError or PlansError for unknown ones."""
    data = PreprocessedDataset(dataset)
    splits = data.splits()
    there = list(range(len(splits) if splits else _DEFAULT_FOLDS))
    if list(wanted) == ["all"]:
        return there
    if strange := [word for word in wanted if not word.isdigit()]:
        raise ConfigError(
            f"--folds {' '.join(wanted)}: {strange[0]} is no number; give numbers, or 'all' alone for all of {there}. To train "
            "one model on all cases (nnU-Net's fold 'all'), leave --folds out and give all as FOLD."
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
    data = PreprocessedDataset(dataset)
    model = data.results(ModelName(trainer, plans, configuration))
    states = {fold: _state_of(model / f"fold_{fold}") for fold in folds}
    block = cast(PlansBlock, PlansBlock.of(data.plans(plans), configuration))
    _refuse_other_runs(model, folds, block, data.splits())
    only_validate = flags.pop("only_run_validation", False)
    flags.pop("continue_training", None)  # follows from each fold's state
    for fold, state in states.items():
        print(
            f"fold {fold}: {'is validated again' if only_validate else _said(model / f'fold_{fold}', state)}",
            flush=True,
        )
    for number, (fold, state) in enumerate(states.items(), start=1):
        if state is _FoldState.DONE and not only_validate:
            continue
        print(f"\n--- fold {fold} ({number} of {len(states)}) ---", flush=True)
        run_training.run_training(
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


def _state_of(fold: Path) -> _FoldState:
    """Returns a fold's state by its nnvit_run.json and its checkpoints."""
    record = RunRecord.read(fold)
    if record is not None and record.DONE:
        return _FoldState.DONE
    if record is not None and record.exit == "finished" and (fold / checkpoint_file.FINAL).is_file():
        return _FoldState.TRAINED
    return _FoldState.BEGUN if checkpoint_file.find(fold) else _FoldState.NEW


def _said(fold: Path, state: _FoldState) -> str:
    record = RunRecord.read(fold)
    if state is _FoldState.BEGUN and record is None:
        return f"{state} from its checkpoint; its progress is unknown, because there is no {FILE}"
    if state is _FoldState.BEGUN and record is not None:
        return f"{state} after epoch {record.epochs_done} of {record.recipe['training']['num_epochs']}"
    return f"{state} ({record.end})" if record is not None and state is _FoldState.DONE else str(state)


def _refuse_other_runs(
    model: Path, folds: Sequence[int], block: PlansBlock, splits: list[dict[str, list[str]]] | None
) -> None:
    for fold in folds:
        where = model / f"fold_{fold}"
        if record := RunRecord.read(where):
            block.refuse_other_recipe(where, [record.recipe_hash])
            if splits:
                record.refuse_other_data(where, split_hash=split_hash(splits[fold]["train"], splits[fold]["val"]))
