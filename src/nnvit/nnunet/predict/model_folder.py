"""A trained model folder, `…/Trainer__Plans__2d`, opened for prediction: ours or any that stock nnU-Net trained."""

import io
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnvit.errors import DataError, PlansError, WeightsError, did_you_mean
from nnvit.nnunet import checkpoint_file, paths
from nnvit.nnunet.plan.network import build_network
from nnvit.records.json_files import read_json
from nnvit.records.model_name import ModelName
from nnvit.weights.external import filled

FINAL = "checkpoint_final.pth"
Fold = int | str


@dataclass(frozen=True, kw_only=True)
class Model:
    """What `plans.json`, `dataset.json` and the checkpoints of a model folder say."""

    folder: Path
    folds: tuple[Fold, ...]
    checkpoint: str
    dataset_json: dict[str, Any]
    plans: PlansManager
    configuration: ConfigurationManager
    trainer: str
    parameters: list[dict[str, torch.Tensor]]
    """One state dict per fold; their logits are averaged."""
    mirroring_axes: tuple[int, ...] | None

    @property
    def labels(self) -> LabelManager:
        """nnU-Net's account of the labels and regions."""
        return self.plans.get_label_manager(self.dataset_json)

    @property
    def channels(self) -> int:
        """Channels of an image, without those that a cascade adds."""
        return len(self.dataset_json.get("modality") or self.dataset_json["channel_names"])

    @property
    def declared_channels(self) -> int | None:
        """As many as `nnvit dataset import` was given --channel-names, which is how photographs are to be read."""
        names = self.dataset_json.get("nnvit_import", {}).get("channel_names")
        return len(names) if names else None

    @property
    def checkpoints(self) -> list[Path]:
        """One file per fold."""
        return [self.folder / f"fold_{fold}" / self.checkpoint for fold in self.folds]

    @property
    def ending(self) -> str:
        """Of the data set's files, such as `.png`."""
        return str(self.dataset_json["file_ending"])

    @property
    def takes_photographs(self) -> bool:
        """Whether it was trained on flat pictures, read by nnU-Net's reader of png, bmp and tif."""
        reader = self.plans.image_reader_writer_class.__name__
        return reader == "NaturalImage2DIO" and len(self.configuration.patch_size) == 2


class Predictor(nnUNetPredictor):
    """Stock nnU-Net's predictor; it tells `on_case` after each case."""

    on_case: Callable[[], None] | None = None

    def predict_logits_from_preprocessed_data(self, data: torch.Tensor) -> torch.Tensor:
        """As nnU-Net's."""
        logits = super().predict_logits_from_preprocessed_data(data)
        self._tell()
        return logits

    def _tell(self) -> None:
        if self.on_case is not None:
            self.on_case()


AnyPredictor = TypeVar("AnyPredictor", bound=Predictor)


def find_model(dataset: str, configuration: str, trainer: str, plans: str) -> Path:
    """The model folder that `-d -c -tr -p` mean. Raises DataError or PlansError that lists what there is."""
    home = _results_of(dataset)
    folder = home / str(ModelName(trainer, plans, configuration))
    if not folder.is_dir():
        known = _models_in(home)
        listed = "".join(f"\n  -tr {name.trainer} -p {name.plans} -c {name.configuration}" for name in known)
        raise PlansError(f"{home} holds no {folder.name}; it has{listed or ' no trained model'}.")
    return folder


def open_model(folder: Path, folds: Sequence[Fold] | None = None, checkpoint_name: str = FINAL) -> Model:
    """Reads a model folder, every checkpoint through the safe reader.

    folds: None takes all that have the checkpoint; `fold_all` only where there is no other. Raises PlansError for a folder that
    is no model, WeightsError for folds without the checkpoint.
    """
    folds = folds_of(folder, folds, checkpoint_name)
    dataset_json, plans = (read_json(folder / f"{name}.json") for name in ("dataset", "plans"))
    contents = [checkpoint_file.read(folder / f"fold_{fold}" / checkpoint_name) for fold in folds]
    manager, first = PlansManager(plans), contents[0]
    return Model(
        folder=folder,
        folds=folds,
        checkpoint=checkpoint_name,
        dataset_json=dataset_json,
        plans=manager,
        configuration=manager.get_configuration(first["init_args"]["configuration"]),
        trainer=first["trainer_name"],
        parameters=[filled(content["network_weights"]) for content in contents],
        mirroring_axes=first.get("inference_allowed_mirroring_axes"),
    )


def folds_of(folder: Path, folds: Sequence[Fold] | None, checkpoint_name: str) -> tuple[Fold, ...]:
    """The folds that are meant, all of which have the checkpoint; raises as `open_model`."""
    _check_folder(folder)
    chosen = _folds_with(folder, checkpoint_name) if folds is None else tuple(folds)
    _check_folds(folder, chosen, checkpoint_name)
    return chosen


def predictor_of(
    model: Model,
    device: torch.device,
    kind: type[AnyPredictor],
    *,
    step_size: float = 0.5,
    mirroring: bool = True,
    on_device: bool = True,
    verbose: bool = False,
) -> AnyPredictor:
    """A predictor with the model's network, stock nnU-Net's or another; arguments as `nnUNetPredictor`'s."""
    quiet = sys.stdout if verbose else io.StringIO()
    with redirect_stdout(quiet):
        predictor = kind(
            tile_step_size=step_size,
            use_mirroring=mirroring,
            perform_everything_on_device=on_device,
            device=device,
            verbose=verbose,
            verbose_preprocessing=verbose,
            allow_tqdm=False,
        )
        predictor.manual_initialization(
            network_of(model),
            model.plans,
            model.configuration,
            model.parameters,
            model.dataset_json,
            model.trainer,
            model.mirroring_axes,
        )
    return predictor


def network_of(model: Model) -> nn.Module:
    """Builds the model's network with the weights of its first fold."""
    network = build_network(model.plans, model.configuration, model.dataset_json, trainer=model.trainer)
    network.load_state_dict(model.parameters[0])
    return network


def _results_of(dataset: str) -> Path:
    """The data set's folder of trained models, by name or number; nothing but nnUNet_results need be set."""
    results = paths.folder("nnUNet_results")
    known = sorted(path.name for path in results.glob("Dataset[0-9]*") if path.is_dir())
    wanted = [name for name in known if name == dataset or (dataset.isdigit() and int(name[7:10]) == int(dataset))]
    if len(wanted) != 1:
        what = f"belongs to {' and '.join(wanted)}; give the full name" if wanted else "has no trained model"
        raise DataError(
            f"-d {dataset} {what}; {results} holds {', '.join(known) or 'nothing'}.{did_you_mean(dataset, known)}"
        )
    return results / wanted[0]


def _models_in(folder: Path) -> list[ModelName]:
    found = [ModelName.parse(path.name) for path in sorted(folder.glob("*__*__*")) if (path / "plans.json").is_file()]
    return [name for name in found if name is not None]


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise PlansError(f"the model folder {folder} does not exist; give a trained one, …/Trainer__Plans__2d.")
    missing = [name for name in ("plans.json", "dataset.json") if not (folder / name).is_file()]
    if not missing:
        return
    advice = "give a trained one, …/Trainer__Plans__2d"
    if (folder.parent / "plans.json").is_file():
        advice = f"it looks like a fold of one: give {folder.parent} and -f {folder.name.removeprefix('fold_')}"
    elif models := _models_in(folder):
        advice = f"give one of those within: {', '.join(map(str, models))}"
    raise PlansError(f"{folder} is no model folder, it holds no {' and no '.join(missing)}; {advice}.")


def _folds_with(folder: Path, checkpoint_name: str) -> tuple[Fold, ...]:
    """`fold_all` was trained on every case, so that it does not belong to an ensemble of the others."""
    names = [path.parent.name.removeprefix("fold_") for path in folder.glob(f"fold_*/{checkpoint_name}")]
    numbers = sorted(int(name) for name in names if name.isdigit())
    return tuple(numbers) or tuple(name for name in names if name == "all")


def _check_folds(folder: Path, folds: tuple[Fold, ...], checkpoint_name: str) -> None:
    lacking = [f"fold_{fold}" for fold in folds if not (folder / f"fold_{fold}" / checkpoint_name).is_file()]
    if folds and not lacking:
        return
    there = {path.name: sorted(file.name for file in path.glob("*.pth")) for path in sorted(folder.glob("fold_*"))}
    held = "; ".join(f"{name}: {', '.join(files) or 'no checkpoint'}" for name, files in there.items())
    raise WeightsError(
        f"{', '.join(lacking) or 'no fold'} of {folder} {'lacks' if lacking else 'has'} {checkpoint_name}. It holds "
        f"{held or 'no fold at all'}. Leave -f out to take the folds that are trained, or name another checkpoint with -chk."
    )
