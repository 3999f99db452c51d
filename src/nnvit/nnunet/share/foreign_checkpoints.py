"""`nnvit convert`: checkpoints of the original fork and transformers' SegFormer, for stock nnU-Net and nnvit to load."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from safetensors.torch import save_file
from torch import Tensor

from nnvit.errors import PlansError, WeightsError
from nnvit.model import Segmenter, arch_kwargs
from nnvit.nnunet import checkpoint_file
from nnvit.nnunet.model_folder import ModelFolder, build_network
from nnvit.nnunet.plan import plans_file
from nnvit.recipe import loading
from nnvit.recipe.schema import ARCH_VERSION, ModelConfig, Recipe
from nnvit.records.hashes import sha256_of
from nnvit.records.json_files import write_json
from nnvit.types import State
from nnvit.weights.safe_reading import read_config, read_weights, weights_sha256
from nnvit.weights.state_dicts import Faults, describe, listed, not_finite, target_tensors

from . import ShareResult, foreign_names

_FORK_RECIPE = "segformer_fork"
_TRAINER = "nnUNetTrainer_nnvit"
_KEPT = ("logging", "_best_ema", "current_epoch", "inference_allowed_mirroring_axes")
"""Entries of nnU-Net's checkpoint that a converted one keeps unchanged, beside the network."""

_CHECK = "to be sure, predict validation cases and compare them with the masks in the old fold's validation folder"


def convert(
    source: Path,
    out: Path | None,
    recipes: Sequence[str] = (),
    overrides: Sequence[str] = (),
    backbone_only: bool = False,
) -> ShareResult:
    """Converts a results folder of nnU-Net, a checkpoint file, a state dict or a model directory of transformers.

    out: what to write; for a results folder the default is one beside it. recipes, overrides: the network of the source; for
    the fork's they are applied on top of `segformer_fork`. backbone_only: write only the backbone, adapters merged, for
    `model.weights=PATH`. Raises WeightsError if a tensor is missing, unexpected or of another shape, and PlansError if `out`
    exists; then nothing is written.
    """
    source, out = source.expanduser(), out.expanduser() if out else None
    if not source.exists():
        raise WeightsError(f"{source} does not exist; give a results folder, a checkpoint, or a model directory.")
    if source.is_dir() and (source / "plans.json").is_file():
        if backbone_only:
            raise WeightsError(f"--backbone-only takes one checkpoint, such as {source}/fold_0/checkpoint_final.pth.")
        return _convert_folder(source, out, recipes, overrides)
    if out is None:
        raise PlansError("--out is missing: name the file to write.")
    _refuse_existing(out)
    return (_convert_backbone if backbone_only else _convert_file)(source, out, recipes, overrides)


# --- one file --------------------------------------------------------------------------------------------------------


def _convert_file(source: Path, out: Path, recipes: Sequence[str], overrides: Sequence[str]) -> ShareResult:
    raw, state = _read(source)
    kind = _known_kind(state, source)
    recipe = _recipe(kind, recipes, overrides)
    classes = state.get("decode_head.classifier.weight", torch.empty(1)).shape[0]
    network = _empty(3, classes, arch_kwargs(recipe))
    mapped = _fitting(state, network, source)
    if source.is_dir() and kind == foreign_names.SEGFORMER:
        network.backbone.check_config(read_config(source))
    origin = {"converted": {"from": source.name, "sha256": weights_sha256(source), "kind": kind}}
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint_file.write(
        out, {"network_weights": mapped.state, "trainer_name": nnUNetTrainer.__name__, "nnvit": origin}
    )
    flags = _as_flags(recipes, overrides, kind)
    return _result(
        out,
        mapped,
        _assumptions(recipe, raw) if kind == foreign_names.FORK else [],
        f"start from it (all but the last layer): nnvit train … {flags} -pretrained_weights {out}",
    )


def _convert_backbone(source: Path, out: Path, recipes: Sequence[str], overrides: Sequence[str]) -> ShareResult:
    """Writes the backbone with its adapters merged in the precision they were saved in, as peft does."""
    if out.suffix != ".safetensors":
        raise WeightsError(f"--out {out}: a backbone is written as .safetensors.")
    _, state = _read(source)
    mapped = foreign_names.map_backbone(state)
    if not mapped.state:
        raise WeightsError(f"{source}: none of its keys begins with 'backbone.', but with {_prefixes(state)}.")
    recipe = _recipe(foreign_names.FORK, recipes, overrides)
    network = _empty(3, 1, arch_kwargs(recipe))
    backbone, adapters = network.backbone, network.adapters()
    ours = {name.removeprefix("backbone."): tensor for name, tensor in mapped.state.items()}
    _check(ours, backbone.state_dict(), source, state)
    backbone.load_state_dict(ours, assign=True)
    for layer in adapters.values():
        layer.merge(safe_merge=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in target_tensors(backbone.model).items()}, out)
    notes = []
    if adapters:
        notes.append(f"  {len(adapters)} LoRA adapters merged (r {recipe.lora.r}, lora_alpha {recipe.lora.lora_alpha})")
    if mapped.unmapped:
        notes.append(f"  left out, not of the backbone: {_prefixes(mapped.unmapped)}")
    model = recipe.model
    assert isinstance(model, ModelConfig)
    keys = f"model.backbone={model.backbone} model.backbone_size={model.backbone_size} model.weights={out}"
    return _result(out, mapped, notes, f"train on it: nnvit train … {keys}")


# --- a results folder ------------------------------------------------------------------------------------------------


def _convert_folder(source: Path, out: Path | None, recipes: Sequence[str], overrides: Sequence[str]) -> ShareResult:
    """Converts all folds or none, in a temporary folder that is renamed at the end."""
    found = sorted(path for name in checkpoint_file.NAMES for path in source.glob(f"fold_*/{name}"))
    if not found:
        raise PlansError(f"{source} holds no fold_*/checkpoint_final.pth: there is nothing to convert.")
    folder = ModelFolder.read(source)
    base, dataset_json = folder.plans, folder.dataset_json
    first = checkpoint_file.read(found[0])
    configuration = str(first.get("init_args", {}).get("configuration"))
    state = foreign_names.network_state(first)
    kind = _known_kind(state, found[0])
    # a finished network asks for no file
    recipe = _recipe(kind, recipes, ["model.weights=random", "checkpoint.frozen_weights=embed", *overrides])
    identifier = plans_file.identifier_of(recipe, str(base["plans_name"]))
    out = out or source.parent / f"{_TRAINER}__{identifier}__{configuration}"
    _refuse_existing(out)
    plans = plans_file.make_plans(base, configuration, recipe, identifier, dataset_json)
    manager = PlansManager(plans)
    with torch.device("meta"):
        network = build_network(manager, manager.get_configuration(configuration), dataset_json)
    assert isinstance(network, Segmenter)
    partial = out.with_name(f".{out.name}.partial")
    try:
        for path in found:
            raw = checkpoint_file.read(path)
            mapped = _fitting(foreign_names.network_state(raw), network, path)
            target = partial / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            checkpoint_file.write(target, _content(raw, mapped, plans, path))
        write_json(partial / "plans.json", plans)
        for file in ("dataset.json", "dataset_fingerprint.json"):
            if (source / file).is_file():
                shutil.copy(source / file, partial / file)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    kept = f"  in each of {len(found)} checkpoints; their optimiser states are left out"
    folds = " ".join(sorted({path.parent.name.removeprefix("fold_") for path in found}))
    command = f"nnUNetv2_predict_from_modelfolder -m {out} -i IMAGES -o OUT -f {folds}"
    return _result(out, mapped, [kept, *_assumptions(recipe, first), _CHECK], f"predict with it: {command}")


def _content(raw: Mapping[str, Any], mapped: foreign_names.Mapped, plans: dict[str, Any], path: Path) -> dict[str, Any]:
    """Returns a checkpoint for stock nnU-Net. It holds no recipe hash, so that `--c` refuses to continue from it."""
    arguments = {
        key: raw["init_args"][key] for key in ("configuration", "fold", "dataset_json") if key in raw["init_args"]
    }
    return {key: raw[key] for key in _KEPT if key in raw} | {
        "network_weights": mapped.state,
        "optimizer_state": {},
        "grad_scaler_state": None,
        "init_args": arguments | {"plans": plans},
        "trainer_name": nnUNetTrainer.__name__,
        "nnvit": {"converted": {"trainer": raw.get("trainer_name"), "sha256": sha256_of(path), "kind": mapped.kind}},
    }


def _assumptions(recipe: Recipe, raw: Mapping[str, Any]) -> list[str]:
    """Returns lines on settings that change the masks and cannot be read off the tensors."""
    model, given = recipe.model, raw.get("init_args", {}).get("segformer_config_path")
    assert isinstance(model, ModelConfig)
    alpha = [f"lora.lora_alpha={recipe.lora.lora_alpha}"] if recipe.tuning == "lora" else []
    assumed = [
        f"model.feature_layers={model.feature_layers}".replace(" ", ""),
        f"model.backbone_args.final_norm={str(model.backbone_args.get('final_norm')).lower()}",
        f"model.input_norm={model.input_norm}",
        *alpha,
    ]
    return [
        f"the checkpoint does not say these, so they were assumed: {' '.join(assumed)}",
        *([f"it was trained with the configuration {given}; give it with --recipe"] if given else []),
    ]


# --- shared by both --------------------------------------------------------------------------------------------------


def _result(out: Path, mapped: foreign_names.Mapped, notes: Sequence[str], then: str) -> ShareResult:
    return ShareResult(paths=[out], notes=[*mapped.lines(), "  missing: none", *notes], then=[then])


def _read(source: Path) -> tuple[Any, State]:
    """Returns the content of a file, and the network's tensors in it."""
    try:
        raw = read_weights(source)
        return raw, foreign_names.network_state(raw)
    except WeightsError as error:
        raise WeightsError(str(error) if str(source) in str(error) else f"{source}: {error}") from error


def _known_kind(state: State, source: Path) -> str:
    """Returns the kind of checkpoint by its names. Raises WeightsError, with a description, if they cannot be mapped."""
    kind = foreign_names.kind_of(state)
    if kind == foreign_names.OURS:
        raise WeightsError(
            f"{source} has nnvit's own names already, and this release has only architecture version {ARCH_VERSION}: there"
            " is nothing to convert."
        )
    if kind == foreign_names.UNKNOWN_HEAD:
        raise WeightsError(
            f"{source} has a backbone, but its decoder is not SegFormer's: its other keys begin with"
            f' {_prefixes(foreign_names.map_backbone(state).unmapped)}. The names in the fork\'s "ViT model" and Mask2Former are'
            " not known to nnvit, so they cannot be mapped. --backbone-only writes the backbone for model.weights=PATH."
        )
    if not kind:
        raise WeightsError(
            f"{source} is neither a SegFormer model of the original fork nor one of transformers: its keys begin with"
            f" {_prefixes(state)}; it looks like {describe(state)}."
        )
    return kind


def _recipe(kind: str, recipes: Sequence[str], overrides: Sequence[str]) -> Recipe:
    recipe = loading.load_recipe([*([] if kind == foreign_names.SEGFORMER else [_FORK_RECIPE]), *recipes], overrides)
    if getattr(recipe.model, "head", "") != "segformer":
        raise WeightsError(f"{kind} becomes a network with model.head=segformer, not {recipe.model.head}.")
    return recipe


def _empty(channels: int, classes: int, kwargs: Mapping[str, Any]) -> Segmenter:
    """Builds the network on the meta device."""
    with torch.device("meta"):
        return Segmenter(channels, classes, **kwargs)


def _fitting(state: State, network: Segmenter, source: Path) -> foreign_names.Mapped:
    """Returns the state under the network's names. Raises WeightsError unless it fills the network exactly."""
    mapped = foreign_names.map_names(state, network.head.from_segformer)
    if mapped.unmapped:
        raise WeightsError(f"{source}: no place is known for {listed(mapped.unmapped)}. Nothing was written.")
    _check(mapped.state, network.state_dict(), source, state)
    return mapped


def _check(ours: State, targets: State, source: Path, given: State) -> None:
    found = Faults.between(_floats(ours), _floats(targets))
    if found:
        raise WeightsError(
            f"{source}: {found}{_hints(ours, targets, found)} The backbone in it looks like {_described(given)}. Nothing was"
            " written."
        )
    if broken := not_finite(ours):
        raise WeightsError(f"{source}: {len(broken)} tensors hold NaN or Inf: {listed(broken)}. Nothing was written.")


def _floats(state: State) -> dict[str, Tensor]:
    """Makes batch norm's integer count of batches a float, since `Faults` takes integers for quantised weights."""
    return {name: tensor.float() if name.endswith("num_batches_tracked") else tensor for name, tensor in state.items()}


def _hints(ours: State, targets: State, found: Faults) -> str:
    """Returns the recipe keys that would fit the file, as far as its shapes show them."""
    rank = {side: _first_dim(state, ".lora_A.") for side, state in (("file", ours), ("recipe", targets))}
    hidden = _first_dim(ours, "head.projections."), _first_dim(targets, "head.projections.")
    hints = []
    if rank["file"] != rank["recipe"]:
        hints.append(f"lora.enabled=true lora.r={rank['file']}" if rank["file"] else "lora.enabled=false")
    if hidden[0] and hidden[0] != hidden[1]:
        hints.append(f"model.decoder_hidden_size={hidden[0]}")
    return f" The file fits {' '.join(hints)}." if hints else ""


def _first_dim(state: State, part: str) -> int:
    return next((tensor.shape[0] for name, tensor in state.items() if part in name), 0)


def _described(state: State) -> str:
    plain = {
        foreign_names.BACKBONE.sub("", name).replace(".base_layer.", "."): tensor for name, tensor in state.items()
    }
    return describe(plain)


def _prefixes(keys: Any) -> str:
    """Returns the first parts of names with their numbers of tensors."""
    firsts = [name.partition(".")[0] for name in keys]
    return ", ".join(f"{first}.* ({firsts.count(first)})" for first in sorted(set(firsts)))


def _refuse_existing(out: Path) -> None:
    if out.exists():
        raise PlansError(f"{out} exists and is left as it is; name another place with --out.")


def _as_flags(recipes: Sequence[str], overrides: Sequence[str], kind: str) -> str:
    given = recipes if kind == foreign_names.SEGFORMER else [_FORK_RECIPE, *recipes]
    return " ".join([*(f"--recipe {recipe}" for recipe in given), *overrides])
