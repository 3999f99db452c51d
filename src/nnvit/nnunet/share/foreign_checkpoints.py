"""`nnvit convert`: checkpoints of the original fork and transformers' SegFormer, for stock nnU-Net and nnvit to load.

The fork's SegFormerSegmentationModel has a timm ViT as `backbone`, which peft may have wrapped, and transformers' decode
head as `decode_head`. nnvit does not know the names of the decoders in the fork's "ViT model" and Mask2Former.
"""

import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from safetensors.torch import save_file
from torch import Tensor

from nnvit import registry
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
from nnvit.weights.external import filled
from nnvit.weights.safe_reading import read_config, read_weights, weights_sha256
from nnvit.weights.state_dicts import Faults, describe, flat, listed, not_finite, target_tensors

from . import KEPT, ShareResult

_FORK, _SEGFORMER = "the fork's SegFormer model", "transformers' SegFormer"
_OURS, _UNKNOWN_HEAD = "nnvit's own", "a ViT under another head"
_FORK_RECIPE = "segformer_fork"
_TRAINER = "nnUNetTrainer_nnvit"
_CHECK = "to be sure, predict validation cases and compare them with the masks in the old fold's validation folder"
_WRAPPERS = re.compile(r"^(?:_orig_mod\.)*module\.|(?:^|(?<=\.))_orig_mod\.")
"""Parts that DDP and torch.compile add to names."""
_BACKBONE = re.compile(r"^backbone\.(base_model\.model\.)?")


@dataclass(kw_only=True)
class _Mapped:
    """A checkpoint's tensors under nnvit's names.

    kind: origin of the names; renamed: `old.* -> new.*` and how many tensors; dropped: reason -> names as in the file;
    unmapped: unknown names.
    """

    kind: str
    state: State
    renamed: dict[str, int]
    dropped: Mapping[str, tuple[str, ...]]
    unmapped: tuple[str, ...] = ()


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
    with torch.device("meta"):
        network = Segmenter(3, classes, **arch_kwargs(recipe))
    mapped = _fitting(state, network, source)
    if source.is_dir() and kind == _SEGFORMER:
        network.backbone.check_config(read_config(source))
    origin = {"converted": {"from": source.name, "sha256": weights_sha256(source), "kind": kind}}
    out.parent.mkdir(parents=True, exist_ok=True)
    content = {"network_weights": mapped.state, "trainer_name": nnUNetTrainer.__name__, "nnvit": origin}
    checkpoint_file.write(out, content)
    fork = kind == _FORK
    given = [f"--recipe {recipe}" for recipe in ([_FORK_RECIPE, *recipes] if fork else recipes)]
    then = f"nnvit train … {' '.join([*given, *overrides])} -pretrained_weights {out}"
    notes = _assumptions(recipe, raw) if fork else []
    return _result(out, mapped, notes, f"start from it (all but the last layer): {then}")


def _convert_backbone(source: Path, out: Path, recipes: Sequence[str], overrides: Sequence[str]) -> ShareResult:
    """Writes the backbone with its adapters merged in the precision they were saved in, as peft does."""
    if out.suffix != ".safetensors":
        raise WeightsError(f"--out {out}: a backbone is written as .safetensors.")
    _, state = _read(source)
    mapped = _map_backbone(state)
    if not mapped.state:
        raise WeightsError(f"{source}: none of its keys begins with 'backbone.', but with {_prefixes(state)}.")
    recipe = _recipe(_FORK, recipes, overrides)
    with torch.device("meta"):
        network = Segmenter(3, 1, **arch_kwargs(recipe))
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
    kind = _known_kind(_network_state(first), found[0])
    # a finished network asks for no file
    recipe = _recipe(kind, recipes, ["model.weights=random", "checkpoint.frozen_weights=embed", *overrides])
    identifier = recipe.plans_name(str(base["plans_name"]))
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
            mapped = _fitting(_network_state(raw), network, path)
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


def _content(raw: Mapping[str, Any], mapped: _Mapped, plans: dict[str, Any], path: Path) -> dict[str, Any]:
    """Returns a checkpoint for stock nnU-Net. It holds no recipe hash, so that `--c` refuses to continue from it."""
    given, wanted = raw["init_args"], ("configuration", "fold", "dataset_json")
    return {key: raw[key] for key in KEPT if key in raw} | {
        "network_weights": mapped.state,
        "optimizer_state": {},
        "grad_scaler_state": None,
        "init_args": {key: given[key] for key in wanted if key in given} | {"plans": plans},
        "trainer_name": nnUNetTrainer.__name__,
        "nnvit": {"converted": {"trainer": raw.get("trainer_name"), "sha256": sha256_of(path), "kind": mapped.kind}},
    }


def _assumptions(recipe: Recipe, raw: Mapping[str, Any]) -> list[str]:
    """Returns lines on settings that change the masks and cannot be read off the tensors."""
    model, given = recipe.model, raw.get("init_args", {}).get("segformer_config_path")
    assert isinstance(model, ModelConfig)
    assumed = [
        f"model.feature_layers={model.feature_layers}".replace(" ", ""),
        f"model.backbone_args.final_norm={str(model.backbone_args.get('final_norm')).lower()}",
        f"model.input_norm={model.input_norm}",
    ]
    if recipe.tuning == "lora":
        assumed.append(f"lora.lora_alpha={recipe.lora.lora_alpha}")
    lines = [f"the checkpoint does not say these, so they were assumed: {' '.join(assumed)}"]
    return [*lines, f"it was trained with the configuration {given}; give it with --recipe"] if given else lines


# --- shared by both --------------------------------------------------------------------------------------------------


def _result(out: Path, mapped: _Mapped, notes: Sequence[str], then: str) -> ShareResult:
    said = [
        f"{len(mapped.state)} tensors mapped from {mapped.kind}",
        *(f"  renamed {rule}: {count}" for rule, count in mapped.renamed.items()),
        *(f"  dropped {len(names)} ({reason}): {', '.join(names)}" for reason, names in mapped.dropped.items()),
        "  missing: none",
    ]
    return ShareResult(paths=[out], notes=[*said, *notes], then=[then])


def _read(source: Path) -> tuple[Any, State]:
    """Returns the content of a file, and the network's tensors in it."""
    try:
        raw = read_weights(source)
        return raw, _network_state(raw)
    except WeightsError as error:
        raise WeightsError(str(error) if str(source) in str(error) else f"{source}: {error}") from error


def _known_kind(state: State, source: Path) -> str:
    """Returns the kind of checkpoint by its names. Raises WeightsError, with a description, if they cannot be mapped."""
    kind = _kind_of(state)
    if kind == _OURS:
        raise WeightsError(
            f"{source} has nnvit's own names already, and this release has only architecture version {ARCH_VERSION}: there"
            " is nothing to convert."
        )
    if kind == _UNKNOWN_HEAD:
        raise WeightsError(
            f"{source} has a backbone, but its decoder is not SegFormer's: its other keys begin with"
            f' {_prefixes(_map_backbone(state).unmapped)}. The names in the fork\'s "ViT model" and Mask2Former are'
            " not known to nnvit, so they cannot be mapped. --backbone-only writes the backbone for model.weights=PATH."
        )
    if not kind:
        raise WeightsError(
            f"{source} is neither a SegFormer model of the original fork nor one of transformers: its keys begin with"
            f" {_prefixes(state)}; it looks like {describe(state)}."
        )
    return kind


def _recipe(kind: str, recipes: Sequence[str], overrides: Sequence[str]) -> Recipe:
    recipe = loading.load_recipe([*([] if kind == _SEGFORMER else [_FORK_RECIPE]), *recipes], overrides)
    if getattr(recipe.model, "head", "") != "segformer":
        raise WeightsError(f"{kind} becomes a network with model.head=segformer, not {recipe.model.head}.")
    return recipe


def _fitting(state: State, network: Segmenter, source: Path) -> _Mapped:
    """Returns the state under the names of a network whose head is segformer. Raises WeightsError unless it fills it exactly."""
    if _kind_of(state) == _SEGFORMER:
        mapped, head = _map_segformer(state)
    else:
        mapped = _map_backbone(state)
        head = {name: tensor for name, tensor in state.items() if name.startswith("decode_head.")}
    try:
        ours = network.head.from_segformer(head) if head else {}
    except (KeyError, ValueError) as error:
        raise WeightsError(f"its decode head is not transformers' SegformerDecodeHead: {sorted(head)[:4]} …") from error
    layout = "linear_c" if any(".linear_c." in name for name in head) else "linear_projections"
    if unmapped := [name for name in mapped.unmapped if name not in head]:
        raise WeightsError(f"{source}: no place is known for {listed(unmapped)}. Nothing was written.")
    mapped.state.update({f"head.{name}": tensor for name, tensor in ours.items()})
    mapped.renamed[f"decode_head.* (with {layout}) -> head.*"] = len(head)
    _check(mapped.state, network.state_dict(), source, state)
    return mapped


def _check(ours: State, targets: State, source: Path, given: State) -> None:
    if found := Faults.between(_floats(ours), _floats(targets)):
        backbone = {_BACKBONE.sub("", name).replace(".base_layer.", "."): tensor for name, tensor in given.items()}
        raise WeightsError(
            f"{source}: {found}{_hints(ours, targets)} The backbone in it looks like {describe(backbone)}. Nothing was written."
        )
    if broken := not_finite(ours):
        raise WeightsError(f"{source}: {len(broken)} tensors hold NaN or Inf: {listed(broken)}. Nothing was written.")


def _floats(state: State) -> dict[str, Tensor]:
    """Makes batch norm's integer count of batches a float, since `Faults` takes integers for quantised weights."""
    return {name: tensor.float() if name.endswith("num_batches_tracked") else tensor for name, tensor in state.items()}


def _hints(ours: State, targets: State) -> str:
    """Returns the recipe keys that would fit the file, as far as its shapes show them."""
    rank, wanted_rank = (_first_dim(state, ".lora_A.") for state in (ours, targets))
    hidden, wanted_hidden = (_first_dim(state, "head.projections.") for state in (ours, targets))
    hints = []
    if rank != wanted_rank:
        hints.append(f"lora.enabled=true lora.r={rank}" if rank else "lora.enabled=false")
    if hidden and hidden != wanted_hidden:
        hints.append(f"model.decoder_hidden_size={hidden}")
    return f" The file fits {' '.join(hints)}." if hints else ""


def _first_dim(state: State, part: str) -> int:
    return next((tensor.shape[0] for name, tensor in state.items() if part in name), 0)


def _prefixes(keys: Iterable[str]) -> str:
    """Returns the first parts of names with their numbers of tensors."""
    counts = Counter(name.partition(".")[0] for name in keys)
    return ", ".join(f"{first}.* ({count})" for first, count in sorted(counts.items()))


def _refuse_existing(out: Path) -> None:
    if out.exists():
        raise PlansError(f"{out} exists and is left as it is; name another place with --out.")


# --- names -----------------------------------------------------------------------------------------------------------


def _network_state(raw: Any) -> State:
    """Returns the network's tensors in an nnU-Net checkpoint, or in a state dict with or without common wrappers.

    The names are without the parts that torch.compile and DDP add; external weights are read. Raises WeightsError if there
    are no tensors.
    """
    state = raw["network_weights"] if isinstance(raw, Mapping) and "network_weights" in raw else raw
    state = filled(flat(state)[1])
    plain = {_WRAPPERS.sub("", name): tensor for name, tensor in state.items()}
    if len(plain) < len(state):
        raise WeightsError(
            "some of its keys exist both with and without the prefixes of torch.compile or DDP; keep one set."
        )
    return plain


def _kind_of(state: State) -> str:
    """Returns the origin of the names: one of the constants above, or "" for unknown names."""
    parts = {name.partition(".")[0] for name in state}
    if any(name.startswith("backbone.model.") for name in state) and "head" in parts:
        return _OURS
    if registry.family("mit").recognise(state) is not None:
        return _SEGFORMER
    if "backbone" not in parts:
        return ""
    return _FORK if "decode_head" in parts else _UNKNOWN_HEAD


def _map_segformer(state: State) -> tuple[_Mapped, State]:
    """Renames the backbone of transformers' SegFormer. Returns the decode head's tensors under the file's names, too."""
    converted = registry.family("mit").recognise(state)
    assert converted is not None
    classifier = tuple(name for name in converted.dropped if name not in converted.decode_head)
    mapped = _Mapped(
        kind=f"{_SEGFORMER} ({converted.layout})",
        state={f"backbone.model.{name}": tensor for name, tensor in converted.state.items()},
        renamed={"segformer.* -> backbone.model.*": len(converted.state)},
        dropped={"an image classifier": classifier} if classifier else {},
    )
    return mapped, converted.decode_head


def _map_backbone(state: State) -> _Mapped:
    """Renames the backbone alone; all other names are unmapped."""
    ours = {_BACKBONE.sub("backbone.model.", name): tensor for name, tensor in state.items() if _BACKBONE.match(name)}
    found = [match[0] for name in state if (match := _BACKBONE.match(name))]
    classifier = [name for name in ours if name.startswith("backbone.model.head.")]
    dropped = tuple(name.replace(".model.", ".", 1) for name in classifier)
    return _Mapped(
        kind=_kind_of(state),
        state={name: tensor for name, tensor in ours.items() if name not in classifier},
        renamed=Counter(f"{prefix}* -> backbone.model.*" for prefix in found),
        dropped={"timm's classifier, which segmentation does not read": dropped} if dropped else {},
        unmapped=tuple(name for name in state if not _BACKBONE.match(name)),
    )
