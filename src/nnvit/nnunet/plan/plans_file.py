"""Plans files that carry a recipe and its network, made from nnU-Net's base plans."""

import copy
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnvit.errors import PlansError, did_you_mean
from nnvit.model import Segmenter, arch_kwargs
from nnvit.nnunet.paths import PreprocessedDataset, plan_command
from nnvit.recipe import loading
from nnvit.recipe.schema import ModelConfig, PlansModelConfig, Recipe
from nnvit.records.hashes import digest
from nnvit.records.json_files import read_json, write_json
from nnvit.records.plans_block import PlansBlock
from nnvit.registry import build_backbone
from nnvit.weights import pin


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """A plans file of nnvit, its identifier (for `-p`), and whether this call wrote it."""

    path: Path
    identifier: str
    created: bool


def plan(dataset: str | int, configuration: str, recipe: Recipe, base: str = "nnUNetPlans") -> _Plan:
    """Writes `<base>_<recipe>.json` beside the base plans. The same recipe again changes only how checkpoints are kept.

    Raises PlansError for a configuration that the base plans lack or that a ViT cannot take, and if a plans file of that name
    holds another recipe, which is left unchanged; ConfigError if the network's parts do not fit together.
    """
    data, identifier = PreprocessedDataset.find(dataset), recipe.plans_name(base)
    path = data.file(identifier)
    plans = make_plans(data.plans(base), configuration, recipe, identifier, data.json())
    if path.is_file():
        existing = read_json(path)
        _refuse_other(path, existing, plans)
        held, new = (PlansBlock.of(content, configuration) for content in (existing, plans))
        if held and new and (held.weights_revision or not new.weights_revision):
            if loading.from_dict(held.recipe).checkpoint == recipe.checkpoint:
                return _Plan(path=path, identifier=identifier, created=False)
            existing["configurations"][configuration]["nnvit"]["recipe"]["checkpoint"] = new.recipe["checkpoint"]
            plans["configurations"] = {}
        plans["configurations"] = existing["configurations"] | plans["configurations"]
    write_json(path, plans)
    return _Plan(path=path, identifier=identifier, created=True)


def make_plans(
    base: dict[str, Any], configuration: str, recipe: Recipe, identifier: str, dataset_json: dict[str, Any]
) -> dict[str, Any]:
    """Returns new plans with one configuration that holds `architecture` and the `nnvit` block; `base` is not changed."""
    base = {key: value for key, value in base.items() if key != "continue_training"}
    _check_configuration(base, configuration, recipe)
    manager = PlansManager(copy.deepcopy(base))
    planned = manager.get_configuration(configuration)
    resolved, training = planned.configuration, recipe.training
    for cascade in ("inherits_from", "next_stage"):
        resolved.pop(cascade, None)
    resolved["batch_size"] = training.batch_size or resolved["batch_size"]
    resolved["patch_size"] = patch = training.patch_size or resolved["patch_size"]
    # nnU-Net's scale of each output, full size first, without those at which a recipe's own, smaller patch has no pixel left
    strides = np.cumprod(np.vstack(planned.pool_op_kernel_sizes), axis=0)
    scales = [scale for scale in (1 / strides[:-1]).tolist() if min(np.multiply(patch, scale)) >= 1]
    if isinstance(recipe.model, PlansModelConfig):
        _check_strides(strides[-1], patch)
    else:
        resolved["architecture"] = _architecture(recipe, manager, planned, dataset_json, scales)
    block = PlansBlock(
        recipe=asdict(recipe),
        hash=recipe.hash,
        base_plans=base["plans_name"],
        base_plans_hash=digest(base),
        weights_revision=_revision(recipe.model),
        deep_supervision_scales=scales,
    )
    resolved["nnvit"] = asdict(block)
    return json.loads(json.dumps({**base, "plans_name": identifier, "configurations": {configuration: resolved}}))


def _architecture(
    recipe: Recipe,
    manager: PlansManager,
    planned: ConfigurationManager,
    dataset_json: dict[str, Any],
    scales: list[list[float]],
) -> dict[str, Any]:
    """Returns the plans' entry for the network, which is built on the meta device.

    Raises ConfigError if its parts, or its loss and the labels, do not fit together.
    """
    labels = manager.get_label_manager(dataset_json)
    kwargs = arch_kwargs(
        recipe,
        normalization_schemes=planned.normalization_schemes,
        regions=labels.has_regions,
        scales=scales[1:-1],  # the first is the output itself; the last has no weight in nnU-Net's loss
    )
    channels = determine_num_input_channels(manager, planned, dataset_json)
    with torch.device("meta"):
        network = Segmenter(channels, labels.num_segmentation_heads, **kwargs)
    if kwargs.get("aux") == "native":
        network.head.native_loss(labels.ignore_label)
    return {"network_class_name": "nnvit.model.Segmenter", "arch_kwargs": kwargs, "_kw_requires_import": []}


def _check_strides(total: np.ndarray, patch: list[int]) -> None:
    """Raises PlansError for a patch that the planned network's strides do not divide, or reduce to a single element."""
    if np.any(np.mod(patch, total)) or np.prod(np.floor_divide(patch, total)) < 2:
        legal = [int(t * max(round(p / t), 2)) for p, t in zip(patch, total, strict=True)]
        raise PlansError(
            f"training.patch_size={list(patch)} does not fit the planned network, whose strides come to {total.tolist()}: each "
            f"number must be a multiple of these, and one at least twice as large, such as {legal}."
        )


def _revision(model: ModelConfig | PlansModelConfig) -> str | None:
    """Returns the hub commit of the weights, which pins them for these plans; None if there is none to pin."""
    if isinstance(model, PlansModelConfig):
        return None
    with torch.device("meta"):
        backbone = build_backbone(model.backbone, model.backbone_size, model.feature_layers or [], model.backbone_args)
    return pin(model.weights, backbone)


def _check_configuration(base: dict[str, Any], configuration: str, recipe: Recipe) -> None:
    known = list(base["configurations"])
    if configuration not in known:
        raise PlansError(
            f"configuration '{configuration}' is not in {base['plans_name']}; it has {', '.join(known)}. If it was not "
            f"planned, run `{plan_command(base['dataset_name'], configuration)}`.{did_you_mean(configuration, known)}"
        )
    patch = PlansManager(copy.deepcopy(base)).get_configuration(configuration).patch_size
    if len(patch) != 2 and not isinstance(recipe.model, PlansModelConfig):
        raise PlansError(
            f"configuration '{configuration}' is {len(patch)}D (patch {list(patch)}), but a vision transformer here "
            f"takes 2D patches; use the configuration 2d, which slices volumes, or recipe unet for {len(patch)}D."
        )
    if base["configurations"][configuration].get("previous_stage"):
        raise PlansError(
            f"configuration '{configuration}' is the second stage of a cascade, which nnvit does not train; use 3d_fullres."
        )
    if recipe.training.patch_size is not None and len(recipe.training.patch_size) != len(patch):
        raise PlansError(
            f"training.patch_size={recipe.training.patch_size} must have {len(patch)} numbers for the configuration "
            f"'{configuration}', such as {list(patch)}."
        )
    axes = recipe.training.mirror_axes
    if axes is not None and not set(axes) <= set(range(len(patch))):
        raise PlansError(
            f"training.mirror_axes={axes} must name axes of the {len(patch)}D patch, {list(range(len(patch)))}."
        )
    if block := PlansBlock.of(base, configuration):
        raise PlansError(
            f"{base['plans_name']} already carries a recipe of nnvit; give the plans that they were made from with -p "
            f"({block.base_plans}), or train them as they are: `nnvit train … -p {base['plans_name']}`."
        )


def _refuse_other(path: Path, existing: dict[str, Any], new: dict[str, Any]) -> None:
    """Raises PlansError if a plans file holds another recipe, or the same one on other base plans."""
    (configuration,) = new["configurations"]
    wanted = PlansBlock.of(new, configuration)
    assert wanted is not None
    for other in existing["configurations"]:
        block = PlansBlock.of(existing, other)
        if block is None:
            raise PlansError(
                f"{path} exists and was not written by nnvit; give the recipe another name=… or move the file."
            )
        resolved = asdict(loading.from_dict(block.recipe))
        # how checkpoints are kept may change
        held_recipe, wanted_recipe = ({**recipe, "checkpoint": None} for recipe in (resolved, wanted.recipe))
        differences = _differing_keys(held_recipe, wanted_recipe)
        if block.base_plans_hash != wanted.base_plans_hash:
            differences.append(
                f"base plans {block.base_plans}: {block.base_plans_hash[:8]} -> {wanted.base_plans_hash[:8]}"
            )
        wanted.refuse_other_recipe(
            path,
            [block.hash] if differences else [],
            "Give this recipe another name=…, or delete the file if nothing was trained with it.",
            differences=differences,
        )


def _differing_keys(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Returns a line `key: old -> new` for every leaf in which two nested dictionaries differ."""
    lines: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += _differing_keys(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {before} -> {after}")
    return lines
