"""`nnvit export`: a trained model folder as one that needs no other file: adapters merged, frozen weights inside."""

import contextlib
import copy
import io
import logging
import shlex
import shutil
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from safetensors.torch import save_file
from torch import Tensor, nn

from nnvit.errors import ConfigError, PlansError, WeightsError
from nnvit.model import Segmenter
from nnvit.nnunet import checkpoint_file
from nnvit.nnunet.checkpoint_file import FINAL
from nnvit.nnunet.model_folder import FoldId, ModelFolder, TrainedModel
from nnvit.records.json_files import write_json
from nnvit.records.model_name import ModelName
from nnvit.types import State
from nnvit.weights import external

from . import KEPT, ShareResult
from .model_card import ModelCard

_CLOSE = 1e-4
"""Largest difference of logits between a model and its fp32 export, in units of the largest logit (at least 1)."""

_ONNX_CLOSE = 1e-3
"""The same between torch and onnxruntime."""
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_ONNX_INSIDE = 1.8e9
"""Bytes of weights that fit into one ONNX file (protobuf ends at 2 GiB). Larger ones go to a second file, model.onnx.data."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Contents of an export. merge: LoRA into the weights, in fp32; half: weights in fp16; safetensors, onnx: these files too."""

    merge: bool = True
    half: bool = False
    safetensors: bool = False
    onnx: bool = False


def export(
    path: Path, out: Path, folds: Sequence[FoldId] | None = None, chk: str = FINAL, options: ExportOptions | None = None
) -> ShareResult:
    """Writes a model folder or, for a name that ends in .zip, the zip that stock nnU-Net and `nnvit install` take.

    path: a trained model folder of nnvit or stock nnU-Net; folds: None for all that have the checkpoint `chk`, which the
    export calls checkpoint_final.pth. Everything is written to a temporary folder and renamed at the end. Raises PlansError
    if `out` exists, and WeightsError if the export would not give the model's logits.
    """
    path, out, options = path.expanduser().absolute(), out.expanduser(), options or ExportOptions()
    if out.exists():
        raise PlansError(f"{out} exists and is left as it is; name another place with -o.")
    if options.onnx:
        _require_onnx()
    folder = ModelFolder.read(path)
    folds = folder.folds(folds, chk)
    dataset = path.parent.name if path.parent.name.startswith("Dataset") else str(folder.plans["dataset_name"])
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by an export that was killed
    try:
        name = _name(folder, folds[0], chk)
        target = partial / dataset / name if out.suffix == ".zip" else partial
        notes: list[str] = []
        for fold in folds:
            card, said = _export_fold(folder, fold, chk, target, options)
            notes += said
        _copy_beside(path, target, folds)
        card.write(target, name, folds, chk)
        _finish(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        external.forget()
    if out.suffix == ".zip":
        then = ModelCard.commands(str(out), dataset, name, folds)
    else:
        words = ["-i", "IMAGES", "-o", "OUT", "-m", str(out), "-f", *map(str, folds)]
        then = [f"predict with it: nnUNetv2_predict_from_modelfolder {shlex.join(words)}"]
    return ShareResult(paths=[out], notes=[*notes, *card.content["warnings"]], then=then)


def _export_fold(
    folder: ModelFolder, fold: FoldId, chk: str, target: Path, options: ExportOptions
) -> tuple[ModelCard, list[str]]:
    """Writes one fold's files. Returns the model's card, and notes on how far the export agrees with the model."""
    raw = folder.checkpoint(fold, chk)
    model = folder.model({fold: raw}, chk)
    finished = _finished(model, raw["init_args"]["configuration"], options)
    home = target / f"fold_{fold}"
    home.mkdir(parents=True)
    checkpoint_file.write(home / FINAL, _content(raw, finished, options.half))
    write_json(target / "plans.json", finished.plans)
    done = "adapters merged in fp32, " if finished.merged else ""
    notes = [f"fold {fold}: {done}logits differ by at most {finished.difference:.1e}"]
    card = ModelCard(model, raw, merged=finished.merged, half=options.half)
    if options.safetensors:
        tensors = {name: tensor.clone() for name, tensor in finished.state.items()}  # U-Nets name some twice
        save_file(tensors, home / "model.safetensors", card.metadata(format="pt", plans=finished.plans))
        (home / "model.safetensors").chmod((home / FINAL).stat().st_mode)  # safetensors makes it private
    if options.onnx:
        worst = _write_onnx(finished.network, finished.image, home / "model.onnx", card.metadata(weights_in="float32"))
        size = list(finished.image.shape[1:])
        notes.append(f"fold {fold}: model.onnx takes {size}, any batch; onnxruntime differs by {worst:.1e}")
    return card, notes


# --- the network -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _FinishedNetwork:
    """A network with all its weights, rebuilt from `plans` and `state`, and its distance from the trained one.

    difference: the largest difference of logits for `image`, a random one (1, C, *patch), the same each time.
    """

    network: nn.Module
    plans: dict[str, Any]
    state: State
    merged: bool
    image: Tensor
    difference: float


def _finished(model: TrainedModel, configuration: str, options: ExportOptions) -> _FinishedNetwork:
    """Rebuilds the network as a user of the export does. Raises WeightsError, see `_difference`."""
    channels = determine_num_input_channels(model.plans, model.configuration, model.dataset_json)
    image = torch.rand(1, channels, *model.configuration.patch_size, generator=torch.Generator().manual_seed(0))
    network = model.network().eval()
    with torch.inference_mode():
        before = network(image)
    merged, half = False, options.half
    if options.merge:
        network.float()
        merged = isinstance(network, Segmenter) and network.merge_adapters() > 0
    plans = _without_lora(model.plans.plans, configuration) if merged else model.plans.plans
    state = {
        name: tensor.half() if half and tensor.is_floating_point() else tensor
        for name, tensor in network.state_dict().items()
    }
    del network
    manager = PlansManager(plans)
    rebuilt = replace(model, plans=manager, configuration=manager.get_configuration(configuration), parameters=[state])
    network = rebuilt.network().eval()
    with torch.inference_mode():
        difference = _difference(before, network(image), half)
    return _FinishedNetwork(
        network=network, plans=plans, state=state, merged=merged, image=image, difference=difference
    )


def _without_lora(plans: dict[str, Any], configuration: str) -> dict[str, Any]:
    """Returns plans of the merged network. The recipe in them stays the one that it was trained with."""
    plans = copy.deepcopy(plans)
    arch = plans["configurations"][configuration]["architecture"]["arch_kwargs"]
    arch["tuning"] = "frozen"
    arch.pop("lora", None)
    return plans


def _difference(before: Tensor, after: Tensor, half: bool) -> float:
    """Returns the largest difference of logits. Raises WeightsError if it is more than rounding."""
    worst, scale = _apart(before, after)
    if not worst <= (0.05 if half else _CLOSE) * scale:  # also refuses NaN, where fp16 overflowed
        advice = "Leave --half out: fp16 does not hold these weights." if half else "Give --no-merge."
        raise WeightsError(
            f"the export's logits differ from the model's by {worst:.2g} (largest logit {scale:.3g}), so nothing was written."
            f" {advice}"
        )
    return worst


def _apart(expected: Tensor, got: Tensor) -> tuple[float, float]:
    """Returns the largest difference of logits, and its unit: the largest logit, at least 1. NaN stays NaN."""
    return float((expected - got).abs().max()), max(1.0, float(expected.abs().max()))


# --- ONNX ------------------------------------------------------------------------------------------------------------


def _require_onnx() -> None:
    """Raises ConfigError if a package is missing."""
    missing = [name for name in _ONNX_PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"--onnx needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not here. Install with: "
            'pip install "nnvit[onnx]".'
        )


def _write_onnx(network: nn.Module, image: Tensor, path: Path, metadata: Mapping[str, str]) -> float:
    """Writes the network for images (any batch, C, *patch) of `image`'s size, input "image" and output "logits".

    metadata: entries of the file. Returns the largest difference between onnxruntime's logits and torch's, for one image and
    for two. Raises WeightsError, and deletes the file, if that is above _ONNX_CLOSE of the logits.
    """
    size = sum(tensor.nbytes for tensor in network.state_dict().values())
    # torch.export takes a batch of one for a constant
    example = torch.cat([image, image.flip(-1)])
    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it lists what it does not simplify
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
        assert program is not None
        program.model.metadata_props.update(metadata)
        program.save(path, external_data=size > _ONNX_INSIDE)
    worst, scale = _onnx_difference(network, example, path)
    if not worst <= _ONNX_CLOSE * scale:
        for file in path.parent.glob(f"{path.name}*"):
            file.unlink()
        raise WeightsError(
            f"onnxruntime's logits of {path.name} differ from torch's by {worst:.2g} (largest logit {scale:.3g}): the file"
            " is not the network, and was deleted. Leave --onnx out, and report the recipe."
        )
    return worst


@torch.no_grad()
def _onnx_difference(network: nn.Module, example: Tensor, path: Path) -> tuple[float, float]:
    import onnxruntime  # type: ignore[import-untyped]

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    batches = (example[:1], example)
    got = [torch.from_numpy(session.run(["logits"], {"image": batch.numpy()})[0]) for batch in batches]
    return _apart(torch.cat([network(batch) for batch in batches]), torch.cat(got))


# --- files -----------------------------------------------------------------------------------------------------------


def _content(raw: dict[str, Any], finished: _FinishedNetwork, half: bool) -> dict[str, Any]:
    """Returns the export's checkpoint. It holds no recipe hash, so that `--c` refuses to continue from it."""
    ours, arguments = raw.get("nnvit", {}), raw["init_args"]
    return {key: raw[key] for key in KEPT if key in raw} | {
        "network_weights": finished.state,
        "optimizer_state": {},
        "grad_scaler_state": None,
        "init_args": {key: arguments[key] for key in ("configuration", "fold") if key in arguments},
        "trainer_name": raw["trainer_name"],
        "nnvit": {
            "exported": {"hash": ours.get("hash"), "merged": finished.merged, "half": half},
            "trainer": ours.get("trainer"),
            "weights": ours.get("weights"),
        },
    }


def _copy_beside(folder: Path, target: Path, folds: Sequence[FoldId]) -> None:
    """Copies what nnU-Net's own export takes along: data set, records of each fold, postprocessing."""
    wanted = ["dataset.json", "dataset_fingerprint.json"]
    beside = ("nnvit_run.json", "progress.png", "validation/summary.json")
    wanted += [f"fold_{fold}/{file}" for fold in folds for file in beside]
    together = f"crossval_results_folds_{'_'.join(map(str, folds))}"
    wanted += [f"{together}/{file}" for file in ("summary.json", "postprocessing.json", "postprocessing.pkl")]
    for file in wanted:
        if (folder / file).is_file():
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / file, target / file)


def _name(folder: ModelFolder, fold: FoldId, chk: str) -> str:
    """Returns Trainer__Plans__Configuration, also for a folder that was renamed."""
    parsed = ModelName.parse(folder.path.name)
    if parsed is not None and all(parsed):
        return str(parsed)
    raw = folder.checkpoint(fold, chk)
    trainer = raw.get("nnvit", {}).get("trainer") or raw["trainer_name"]
    return str(ModelName(trainer, folder.plans["plans_name"], raw["init_args"]["configuration"]))


def _finish(partial: Path, out: Path) -> None:
    """Renames the temporary folder to `out`, or packs it into a zip."""
    if out.suffix != ".zip":
        partial.rename(out)
        return
    archive = partial / "archive.zip"
    files = sorted(path for path in partial.rglob("*") if path.is_file())
    with zipfile.ZipFile(archive, "w") as zipped:
        for path in files:
            text = path.suffix in (".json", ".txt")  # weights cannot be compressed
            kind = zipfile.ZIP_DEFLATED if text else zipfile.ZIP_STORED
            zipped.write(path, path.relative_to(partial), kind)
    archive.rename(out)
