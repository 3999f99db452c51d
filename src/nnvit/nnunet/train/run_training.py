"""The functions behind the training commands, with the names and arguments of nnU-Net's `run_training.py`."""

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from nnunetv2.run.run_training import cleanup_ddp, find_free_network_port, setup_ddp
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from torch import multiprocessing
from torch.backends import cudnn

from nnvit.errors import ConfigError, NnvitError, PlansError, WeightsError, did_you_mean
from nnvit.nnunet import checkpoint_file, paths
from nnvit.recipe.schema import Recipe
from nnvit.records.model_name import ModelName
from nnvit.records.run_record import RunRecord

from . import trainer_names
from .trainer import nnUNetTrainer_nnvit

DEFAULT_TRAINER = "nnUNetTrainerNoDeepSupervision_segformer"
_TRAINERS = sorted(name for name in vars(trainer_names) if name.startswith("nnUNetTrainer"))


def get_trainer_from_args(
    dataset_name_or_id: str | int,
    configuration: str,
    fold: int | str,
    trainer_name: str = DEFAULT_TRAINER,
    plans_identifier: str = "nnUNetPlans",
    continue_training: bool = False,
    device: torch.device = torch.device("cuda"),  # noqa: B008 - the signature is nnU-Net's
) -> nnUNetTrainer_nnvit:
    """Returns a trainer ready for `maybe_load_checkpoint`. Raises NnvitError if the data set, plans or trainer is missing."""
    paths.folder("nnUNet_results")
    dataset = paths.PreprocessedDataset.find(dataset_name_or_id)
    plans = dataset.plans(plans_identifier) | {"continue_training": continue_training}
    if configuration not in plans["configurations"]:
        raise PlansError(
            f"configuration '{configuration}' is not in {plans_identifier}; it has {', '.join(plans['configurations'])}."
        )
    trainer_class, fold = _find_trainer(trainer_name), _parse_fold(dataset, fold)
    return trainer_class(plans, configuration, fold, dataset.json(), device)  # type: ignore[arg-type]


def _find_trainer(name: str) -> type[nnUNetTrainer_nnvit]:
    """Returns nnvit's trainer of a name, or a subclass that nnU-Net finds in `nnUNet_extTrainer`. Raises ConfigError."""
    if name in _TRAINERS:
        return getattr(trainer_names, name)
    known = ", ".join(_TRAINERS)
    try:
        found = recursive_find_trainer_class_by_name(name)
    except RuntimeError as error:
        raise ConfigError(
            f"no trainer is called '{name}'; nnvit's are {known}.{did_you_mean(name, _TRAINERS)}"
        ) from error
    if not issubclass(found, nnUNetTrainer_nnvit):
        raise ConfigError(
            f"-tr {name} is not a trainer of nnvit ({known}); train it with nnUNetv2_train. For the same network in "
            "nnvit's harness, use recipe unet."
        )
    return found


def _parse_fold(dataset: paths.PreprocessedDataset, fold: int | str) -> int | str:
    """Returns a fold's number, or "all". Raises ConfigError for anything else.

    Raises PlansError for a fold that splits_final.json lacks: nnU-Net would draw a random split, with a patient on both sides.
    """
    if fold == "all":
        return fold
    if isinstance(fold, str) and not fold.isdigit():
        raise ConfigError(
            f"fold '{fold}' must be a number from 0, or 'all'; it stands after the configuration, unless --folds is given."
        )
    splits = dataset.splits()
    if splits is not None and int(fold) >= len(splits):
        raise PlansError(
            f"fold {fold} is not in {dataset.file('splits_final')}, which holds folds 0 to {len(splits) - 1}; "
            "train one of them, or 'all'."
        )
    return int(fold)


def maybe_load_checkpoint(
    nnunet_trainer: nnUNetTrainer_nnvit,
    continue_training: bool,
    validation_only: bool,
    pretrained_weights_file: str | None = None,
) -> None:
    """Loads a checkpoint as nnU-Net's function does, except that `--c` without one is an error, not a silent new start."""
    fold = Path(nnunet_trainer.output_folder)
    found = _checkpoint_to_load(fold, continue_training, validation_only, pretrained_weights_file)
    if pretrained_weights_file is not None:
        nnunet_trainer.pretrained = Path(pretrained_weights_file)
    if found is not None:
        nnunet_trainer.load_checkpoint(str(found))
    elif continue_training:
        nnunet_trainer.say(
            f"--c: the training in {fold} ended before its first checkpoint, so it starts from the beginning"
        )


def _checkpoint_to_load(fold: Path, go_on: bool, only_validate: bool, pretrained: str | None) -> Path | None:
    """Returns the checkpoint that the flags mean, None to start from the beginning. Raises NnvitError for impossible flags."""
    if go_on and only_validate:
        raise ConfigError("--c and --val exclude each other: --c trains and then validates, --val only validates.")
    if pretrained is not None and (go_on or only_validate):
        raise ConfigError("-pretrained_weights is for a new training; it cannot be combined with --c or --val.")
    if pretrained is not None and not Path(pretrained).is_file():
        raise WeightsError(f"-pretrained_weights {pretrained} does not exist.")
    final = fold / "checkpoint_final.pth"
    if only_validate and not final.is_file():
        raise PlansError(
            f"--val: {fold} holds no checkpoint_final.pth: no training was finished there (--c continues an unfinished one)."
        )
    if not go_on:
        return final if only_validate else None
    latest, record = checkpoint_file.find(fold), RunRecord.read(fold)
    if latest is None and (record is None or record.weights.get("source") == "-pretrained_weights"):
        raise PlansError(f"--c: {fold} holds no checkpoint to continue from; leave --c out to start a new training.")
    return latest  # None for a training that ended before its first checkpoint


def check_request(
    dataset: str, configuration: str, fold: int | str, trainer_name: str, plans_identifier: str, *, c: bool, val: bool,
    pretrained_weights: str | None, recipe: Recipe | None = None,
) -> None:  # fmt: skip
    """Raises NnvitError for impossible flags, before plans, folders or logs are written."""
    trainer_class = _find_trainer(trainer_name)
    if recipe is not None:
        trainer_class.check_recipe(recipe)
    data = paths.PreprocessedDataset(dataset)
    number = _parse_fold(data, fold)
    model = data.results(ModelName(trainer_class.__name__, plans_identifier, configuration))
    _checkpoint_to_load(model / f"fold_{number}", c, val, pretrained_weights)


def run_training(
    dataset_name_or_id: str | int,
    configuration: str,
    fold: int | str,
    trainer_class_name: str = DEFAULT_TRAINER,
    plans_identifier: str = "nnUNetPlans",
    pretrained_weights: str | None = None,
    num_gpus: int = 1,
    export_validation_probabilities: bool = False,
    continue_training: bool = False,
    only_run_validation: bool = False,
    disable_checkpointing: bool = False,
    val_with_best: bool = False,
    device: torch.device = torch.device("cuda"),  # noqa: B008
    fast_validation: bool = False,
) -> None:
    """Trains and validates one fold, with the arguments of nnU-Net's `run_training`. Raises NnvitError if they do not fit.

    fast_validation: validate with the predictor of `nnvit predict` instead of nnU-Net's.
    """
    arguments = dict(locals())
    if val_with_best and disable_checkpointing:
        raise ConfigError("--val_best needs the checkpoint that --disable_checkpointing does not write.")
    if num_gpus != 1:
        _run_on_gpus(num_gpus, device, arguments)
        return
    named = dataset_name_or_id, configuration, fold, trainer_class_name, plans_identifier
    trainer = get_trainer_from_args(*named, continue_training, device)
    trainer.disable_checkpointing, trainer.fast_validation = disable_checkpointing, fast_validation
    maybe_load_checkpoint(trainer, continue_training, only_run_validation, pretrained_weights)
    if device.type == "cuda":
        cudnn.deterministic, cudnn.benchmark = False, True
    if not only_run_validation:
        trainer.run_training()
    if val_with_best:
        trainer.validated = "checkpoint_best.pth"
        trainer.load_checkpoint(str(Path(trainer.output_folder) / trainer.validated))
    trainer.perform_actual_validation(export_validation_probabilities)


def _run_on_gpus(num_gpus: int, device: torch.device, arguments: dict[str, Any]) -> None:
    """Runs `run_training` in one process per GPU."""
    if device.type != "cuda" or torch.cuda.device_count() < num_gpus:
        raise ConfigError(
            f"-num_gpus {num_gpus} needs as many CUDA devices; this machine has {torch.cuda.device_count()}."
        )
    os.environ["MASTER_ADDR"] = "localhost"
    os.environ.setdefault("MASTER_PORT", str(find_free_network_port()))
    try:
        multiprocessing.spawn(_run_ddp, args=(num_gpus, arguments), nprocs=num_gpus, join=True)
    except multiprocessing.ProcessExitedException as error:
        raise SystemExit(error.exit_code) from error


def _run_ddp(rank: int, world_size: int, arguments: dict[str, Any]) -> None:
    setup_ddp(rank, world_size)
    torch.cuda.set_device(torch.device("cuda", dist.get_rank()))
    try:
        run_training(**arguments | {"num_gpus": 1, "device": torch.device("cuda")})
    except NnvitError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    finally:
        cleanup_ddp()
