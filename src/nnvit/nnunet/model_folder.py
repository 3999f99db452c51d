"""A trained model folder, `…/Trainer__Plans__2d`, of nnvit or of stock nnU-Net: its plans, data set and checkpoints."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.label_handling.label_handling import LabelManager, determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnvit.errors import DataError, PlansError, WeightsError, did_you_mean
from nnvit.nnunet import checkpoint_file, paths
from nnvit.nnunet.checkpoint_file import FINAL
from nnvit.records.json_files import read_json
from nnvit.records.model_name import ModelName
from nnvit.weights.external import filled

FoldId = int | str
"""A fold's number, or "all" for nnU-Net's fold of all cases."""


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A model of some folds of a model folder, ready to predict.

    plans, configuration: nnU-Net's managers; trainer: the class name in the checkpoints; parameters: one state dict per fold,
    whose logits are averaged; mirroring_axes: of the patch, from 0, None for no mirroring.
    """

    folder: Path
    folds: tuple[FoldId, ...]
    checkpoint: str
    dataset_json: dict[str, Any]
    plans: PlansManager
    configuration: ConfigurationManager
    trainer: str
    parameters: list[dict[str, torch.Tensor]]
    mirroring_axes: tuple[int, ...] | None

    @property
    def labels(self) -> LabelManager:
        """nnU-Net's manager of labels and regions."""
        return self.plans.get_label_manager(self.dataset_json)

    @property
    def channels(self) -> int:
        """Channels of an image, without those that a cascade adds."""
        return len(self.dataset_json.get("modality") or self.dataset_json["channel_names"])

    @property
    def declared_channels(self) -> int | None:
        """Number of --channel-names given to `nnvit dataset import`, which tells how to read a photograph."""
        names = self.dataset_json.get("nnvit_import", {}).get("channel_names")
        return len(names) if names else None

    @property
    def ending(self) -> str:
        """File ending of the data set's images and masks, such as `.png`."""
        return str(self.dataset_json["file_ending"])

    @property
    def takes_photographs(self) -> bool:
        """True for 2D patches read by nnU-Net's reader of png, bmp and tif."""
        reader = self.plans.image_reader_writer_class.__name__
        return reader == "NaturalImage2DIO" and len(self.configuration.patch_size) == 2

    def network(self) -> nn.Module:
        """Builds the network with the weights of the first fold."""
        network = build_network(self.plans, self.configuration, self.dataset_json, trainer=self.trainer)
        network.load_state_dict(self.parameters[0])
        return network


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """A model folder's path with the contents of its plans.json and dataset.json, read once per command."""

    path: Path
    plans: dict[str, Any]
    dataset_json: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "ModelFolder":
        """Reads plans.json and dataset.json. Raises PlansError for any other folder, and suggests the right one."""
        if not path.is_dir():
            raise PlansError(f"the model folder {path} does not exist; give a trained one, …/Trainer__Plans__2d.")
        if missing := [name for name in ("plans.json", "dataset.json") if not (path / name).is_file()]:
            advice = "give a trained one, …/Trainer__Plans__2d"
            if (path.parent / "plans.json").is_file():
                advice = f"it looks like a fold of one: give {path.parent} and -f {path.name.removeprefix('fold_')}"
            elif models := _models_in(path):
                advice = f"give one of those within: {', '.join(map(str, models))}"
            raise PlansError(f"{path} is no model folder, it lacks {' and '.join(missing)}; {advice}.")
        return cls(path=path, plans=read_json(path / "plans.json"), dataset_json=read_json(path / "dataset.json"))

    @staticmethod
    def find(dataset: str, configuration: str, trainer: str, plans: str) -> Path:
        """Returns the model folder that `-d -c -tr -p` name. Raises DataError or PlansError that lists the existing ones."""
        results = paths.folder("nnUNet_results")  # no other variable is needed
        datasets = sorted(path.name for path in results.glob("Dataset[0-9]*") if path.is_dir())
        wanted = [
            name for name in datasets if name == dataset or (dataset.isdigit() and int(name[7:10]) == int(dataset))
        ]
        if len(wanted) != 1:
            what = f"means {' or '.join(wanted)}; give the full name" if wanted else "has no trained model"
            raise DataError(
                f"-d {dataset} {what}; {results} holds {', '.join(datasets) or 'nothing'}.{did_you_mean(dataset, datasets)}"
            )
        home = results / wanted[0]
        folder = home / str(ModelName(trainer, plans, configuration))
        if not folder.is_dir():
            known = _models_in(home)
            listed = "".join(f"\n  -tr {name.trainer} -p {name.plans} -c {name.configuration}" for name in known)
            raise PlansError(f"{home} holds no {folder.name}; it has{listed or ' no trained model'}.")
        return folder

    def folds(self, wanted: Sequence[FoldId] | None, checkpoint: str) -> tuple[FoldId, ...]:
        """Returns the wanted folds. Raises WeightsError if one lacks the checkpoint, or if there is none.

        wanted: None for all folds that have the checkpoint; `fold_all` then only if there is no other, because it trained on
        every case and so joins no ensemble of the others.
        """
        if wanted is None:
            names = [path.parent.name.removeprefix("fold_") for path in self.path.glob(f"fold_*/{checkpoint}")]
            wanted = sorted(int(name) for name in names if name.isdigit()) or [name for name in names if name == "all"]
        chosen = tuple(wanted)
        lacking = [f"fold_{fold}" for fold in chosen if not (self.path / f"fold_{fold}" / checkpoint).is_file()]
        if chosen and not lacking:
            return chosen
        there = {
            path.name: sorted(file.name for file in path.glob("*.pth")) for path in sorted(self.path.glob("fold_*"))
        }
        held = "; ".join(f"{name}: {', '.join(files) or 'no checkpoint'}" for name, files in there.items())
        raise WeightsError(
            f"{', '.join(lacking) or 'no fold'} of {self.path} {'lacks' if lacking else 'has'} {checkpoint}. It holds "
            f"{held or 'no fold at all'}. Leave -f out to take all trained folds, or choose another checkpoint with -chk."
        )

    def open(self, folds: Sequence[FoldId] | None = None, checkpoint: str = FINAL) -> TrainedModel:
        """Opens the model with the checkpoints of some folds; arguments and errors as in `folds`."""
        chosen = self.folds(folds, checkpoint)
        return self.model({fold: self.checkpoint(fold, checkpoint) for fold in chosen}, checkpoint)

    def checkpoint(self, fold: FoldId, name: str) -> dict[str, Any]:
        """Reads a fold's checkpoint by the safe loader."""
        return checkpoint_file.read(self.path / f"fold_{fold}" / name)

    def model(self, contents: Mapping[FoldId, dict[str, Any]], checkpoint: str) -> TrainedModel:
        """Returns the model of the folds in `contents`, which maps each to the content of its checkpoint."""
        first = next(iter(contents.values()))
        plans = PlansManager(copy.deepcopy(self.plans))
        return TrainedModel(
            folder=self.path,
            folds=tuple(contents),
            checkpoint=checkpoint,
            dataset_json=self.dataset_json,
            plans=plans,
            configuration=plans.get_configuration(first["init_args"]["configuration"]),
            trainer=first["trainer_name"],
            parameters=[filled(content["network_weights"]) for content in contents.values()],
            mirroring_axes=first.get("inference_allowed_mirroring_axes"),
        )


def build_network(
    plans: PlansManager,
    configuration: ConfigurationManager,
    dataset_json: dict[str, Any],
    *,
    trainer: str = nnUNetTrainer.__name__,
) -> nn.Module:
    """Builds the network of plans with random weights, by the trainer that a checkpoint names.

    Raises PlansError for a trainer that is not installed.
    """
    try:
        build = recursive_find_trainer_class_by_name(trainer).build_network_architecture
    except RuntimeError as error:
        raise PlansError(
            f"this model was trained by {trainer}, which is not installed here; put its file's folder into "
            "nnUNet_extTrainer."
        ) from error
    described: tuple[Any, ...] = (plans, configuration)
    if "plans_manager" not in inspect.signature(build).parameters:  # trainers written for nnU-Net before 2.8
        described = (
            configuration.network_arch_class_name,
            configuration.network_arch_init_kwargs,
            configuration.network_arch_init_kwargs_req_import,
        )
    classes = plans.get_label_manager(dataset_json).num_segmentation_heads
    channels = determine_num_input_channels(plans, configuration, dataset_json)
    return build(*described, channels, classes, enable_deep_supervision=False)


def _models_in(folder: Path) -> list[ModelName]:
    found = [ModelName.parse(path.name) for path in sorted(folder.glob("*__*__*")) if (path / "plans.json").is_file()]
    return [name for name in found if name is not None]
