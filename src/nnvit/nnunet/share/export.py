"""`nnvit export`: a trained model folder as one that needs no other file: adapters merged, frozen weights inside."""

import copy
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from safetensors.torch import save_file
from torch import Tensor, nn

from nnvit.errors import PlansError, WeightsError
from nnvit.model import Segmenter, lora
from nnvit.nnunet import checkpoint_file
from nnvit.nnunet.predict.model_folder import FINAL, Fold, Model, folds_of, network_of
from nnvit.records.json_files import read_json, write_json
from nnvit.types import State
from nnvit.weights import external

from . import model_card, onnx_file
from .zip_contents import MODEL

KEPT = ("logging", "_best_ema", "current_epoch", "inference_allowed_mirroring_axes")
"""What stays of a checkpoint beside the network; optimiser, scaler and random states are of no use to a finished model."""

BESIDE = ("nnvit_run.json", "progress.png", "validation/summary.json")
CLOSE = 1e-4
"""Largest difference of logits, in units of the largest logit (at least 1), between the model and its export in fp32."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What an export holds. merge: LoRA into the weights, in fp32; half: weights in fp16; safetensors, onnx: beside each fold."""

    merge: bool = True
    half: bool = False
    safetensors: bool = False
    onnx: bool = False


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written where. notes: how far it agrees with the model; then: how to predict."""

    out: Path
    notes: Sequence[str]
    then: Sequence[str]

    def lines(self) -> list[str]:
        """The outcome for a terminal."""
        return [*self.notes, f"wrote {self.out} ({_size(self.out) / 2**20:,.1f} MiB)", *self.then]


def export(
    folder: Path, out: Path, folds: Sequence[Fold] | None = None, chk: str = FINAL, wanted: Wanted | None = None
) -> Exported:
    """Writes a model folder, or the zip that stock nnU-Net and `nnvit install` take, for a name that ends in .zip.

    folder: of a trained model, nnvit's or stock nnU-Net's; folds: None takes all that have the checkpoint `chk`, which is
    called checkpoint_final.pth in the export. Everything is written beside and renamed at the end. Raises PlansError where
    something is there already, and WeightsError where the export would not give the model's logits.
    """
    folder, out, wanted = folder.expanduser().absolute(), out.expanduser(), wanted or Wanted()
    if out.exists():
        raise PlansError(f"{out} exists and is left as it is; name another place with -o.")
    if wanted.onnx:
        onnx_file.require()
    folds = folds_of(folder, folds, chk)
    partial = out.with_name(f".{out.name}.partial")
    name = _name(folder, folder / f"fold_{folds[0]}" / chk)
    target = partial / _dataset(folder) / name if out.suffix == ".zip" else partial
    shutil.rmtree(partial, ignore_errors=True)  # of an export that was killed
    try:
        card: dict[str, Any] = {}
        notes: list[str] = []
        for fold in folds:
            card, said = _export_fold(folder, fold, chk, target, wanted)
            notes += said
        _copy_beside(folder, target, folds)
        model_card.write(target, card | {"folds": list(folds), "checkpoint": chk}, name)
        _finish(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        external.forget()
    then = [f"predict with it: {model_card.from_folder(out, folds)}"]
    if out.suffix == ".zip":
        then = model_card.from_zip(str(out), _dataset(folder), name, folds)
    return Exported(out=out, notes=[*notes, *card.get("warnings", [])], then=then)


def _export_fold(folder: Path, fold: Fold, chk: str, target: Path, wanted: Wanted) -> tuple[dict[str, Any], list[str]]:
    """One fold's files; what is known of the model, and how far the export agrees with it."""
    raw = checkpoint_file.read(folder / f"fold_{fold}" / chk)
    model = _model(folder, fold, chk, raw)
    whole = _whole(model, raw["init_args"]["configuration"], wanted)
    home = target / f"fold_{fold}"
    home.mkdir(parents=True)
    content = {key: raw[key] for key in KEPT if key in raw} | _content(raw, whole, wanted.half)
    checkpoint_file.write(home / FINAL, content)
    write_json(target / "plans.json", whole.plans)
    done = "adapters merged in fp32, " if whole.merged else ""
    notes = [f"fold {fold}: {done}logits differ by at most {whole.difference:.1e}"]
    card = model_card.content(model, raw, merged=whole.merged, half=wanted.half)
    if wanted.safetensors:
        tensors = {name: tensor.clone() for name, tensor in whole.state.items()}  # U-Nets name some twice
        save_file(tensors, home / "model.safetensors", model_card.metadata(card, whole.plans))
        (home / "model.safetensors").chmod((home / FINAL).stat().st_mode)  # which it makes private
    if wanted.onnx:
        metadata = model_card.metadata(card | {"weights_in": "float32"}, None)
        worst = onnx_file.write(whole.network, whole.image, home / "model.onnx", metadata)
        size = list(whole.image.shape[1:])
        notes.append(f"fold {fold}: model.onnx takes {size}, any batch; onnxruntime differs by {worst:.1e}")
    return card, notes


# --- the network -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A finished network. plans, state: what it is rebuilt from; difference: of its logits for `image` from the model's."""

    network: nn.Module
    plans: dict[str, Any]
    state: State
    merged: bool
    image: Tensor
    difference: float


def _whole(model: Model, configuration: str, wanted: Wanted) -> Whole:
    """The network with all its weights, built as whoever loads the export builds it. Raises WeightsError, see `_difference`."""
    network, image = network_of(model).eval(), _example(model)
    with torch.inference_mode():
        before = network(image)
    merged = wanted.merge and merge(network)
    plans = without_lora(model.plans.plans, configuration) if merged else model.plans.plans
    state = {name: _written(tensor, wanted.half) for name, tensor in network.state_dict().items()}
    del network
    manager = PlansManager(plans)
    rebuilt = replace(model, plans=manager, configuration=manager.get_configuration(configuration), parameters=[state])
    network = network_of(rebuilt).eval()
    with torch.inference_mode():
        difference = _difference(before, network(image), wanted.half)
    return Whole(network=network, plans=plans, state=state, merged=merged, image=image, difference=difference)


def merge(network: nn.Module) -> bool:
    """Merges all adapters into the weights below them, in place and in fp32. False where there are none."""
    network.float()
    return isinstance(network, Segmenter) and lora.merge(network) > 0


def without_lora(plans: dict[str, Any], configuration: str) -> dict[str, Any]:
    """Plans whose network is the merged one; the recipe stays what it was trained with."""
    plans = copy.deepcopy(plans)
    arch = plans["configurations"][configuration]["architecture"]["arch_kwargs"]
    arch["tuning"] = "frozen"
    arch.pop("lora", None)
    return plans


def _model(folder: Path, fold: Fold, chk: str, raw: dict[str, Any]) -> Model:
    """A model folder with one of its folds."""
    plans = PlansManager(read_json(folder / "plans.json"))
    return Model(
        folder=folder,
        folds=(fold,),
        checkpoint=chk,
        dataset_json=read_json(folder / "dataset.json"),
        plans=plans,
        configuration=plans.get_configuration(raw["init_args"]["configuration"]),
        trainer=raw["trainer_name"],
        parameters=[external.filled(raw["network_weights"])],
        mirroring_axes=raw.get("inference_allowed_mirroring_axes"),
    )


def _example(model: Model) -> Tensor:
    """One patch of noise, of the size that the model was trained on."""
    generator = torch.Generator().manual_seed(0)
    channels = determine_num_input_channels(model.plans, model.configuration, model.dataset_json)
    return torch.rand(1, channels, *model.configuration.patch_size, generator=generator)


def _written(tensor: Tensor, half: bool) -> Tensor:
    return tensor.half() if half and tensor.is_floating_point() else tensor


def _difference(before: Tensor, after: Tensor, half: bool) -> float:
    """The largest of the logits. Raises WeightsError where it is no rounding."""
    worst, scale = onnx_file.apart(before, after)
    if not worst <= (0.05 if half else CLOSE) * scale:  # NaN, where fp16 overflowed
        raise WeightsError(
            f"the export's logits differ from the model's by {worst:.2g} (largest logit {scale:.3g}), so that nothing was"
            f" written. {'Leave --half out: fp16 does not hold these weights.' if half else 'Give --no-merge.'}"
        )
    return worst


# --- files -----------------------------------------------------------------------------------------------------------


def _content(raw: dict[str, Any], whole: Whole, half: bool) -> dict[str, Any]:
    """Without a recipe's hash, so that `--c` refuses to go on from it."""
    ours = raw.get("nnvit", {})
    return {
        "network_weights": whole.state,
        "optimizer_state": {},
        "grad_scaler_state": None,
        "init_args": {key: raw["init_args"][key] for key in ("configuration", "fold") if key in raw["init_args"]},
        "trainer_name": raw["trainer_name"],
        "nnvit": {
            "exported": {"hash": ours.get("hash"), "merged": whole.merged, "half": half},
            "trainer": ours.get("trainer"),
            "weights": ours.get("weights"),
        },
    }


def _copy_beside(folder: Path, target: Path, folds: Sequence[Fold]) -> None:
    """What nnU-Net's own export takes along: the data set, the account of each fold, and its postprocessing."""
    wanted = ["dataset.json", "dataset_fingerprint.json"]
    wanted += [f"fold_{fold}/{file}" for fold in folds for file in BESIDE]
    together = f"crossval_results_folds_{'_'.join(map(str, folds))}"
    wanted += [f"{together}/{file}" for file in ("summary.json", "postprocessing.json", "postprocessing.pkl")]
    for file in wanted:
        if (folder / file).is_file():
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / file, target / file)


def _name(folder: Path, first: Path) -> str:
    """Trainer__Plans__Configuration, also of a folder that was given another name."""
    if MODEL.fullmatch(folder.name):
        return folder.name
    raw, plans = checkpoint_file.read(first), read_json(folder / "plans.json")
    trainer = raw.get("nnvit", {}).get("trainer") or raw["trainer_name"]
    return f"{trainer}__{plans['plans_name']}__{raw['init_args']['configuration']}"


def _dataset(folder: Path) -> str:
    """The data set's name, which a zip for nnU-Net begins with."""
    own = folder.parent.name
    return own if own.startswith("Dataset") else str(read_json(folder / "plans.json")["dataset_name"])


def _finish(partial: Path, out: Path) -> None:
    if out.suffix != ".zip":
        partial.rename(out)
        return
    archive = partial / "archive.zip"
    files = sorted(path for path in partial.rglob("*") if path.is_file())
    with zipfile.ZipFile(archive, "w") as zipped:
        for path in files:
            text = path.suffix in (".json", ".txt")  # weights do not get smaller
            kind = zipfile.ZIP_DEFLATED if text else zipfile.ZIP_STORED
            zipped.write(path, path.relative_to(partial), kind)
    archive.rename(out)


def _size(out: Path) -> int:
    return sum(path.stat().st_size for path in ([out] if out.is_file() else out.rglob("*")) if path.is_file())
