"""From a recipe and the base plans to plans that carry both the network and the recipe."""

import copy
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from .. import config, registry
from ..errors import PlansError, did_you_mean
from ..model import ARCH_VERSION
from ..schema import SCHEMA, ModelConfig, PlansModelConfig, Recipe
from . import folders


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A plans file of nnvit: its path, its identifier (for `-p`), and whether this call wrote it."""

    path: Path
    identifier: str
    recipe: Recipe
    created: bool


def plan(dataset: str | int, configuration: str, recipe: Recipe, base: str = "nnUNetPlans") -> Plan:
    """Writes `<base>_<recipe>.json` beside the base plans; the same recipe again changes nothing.

    Raises PlansError for a configuration that the base plans lack or a ViT cannot take, and where a plans file of
    that name holds another recipe, which is left as it is.
    """
    name = folders.dataset_name(dataset)
    identifier = identifier_of(recipe, base)
    path = folders.plans_path(name, identifier)
    plans = make_plans(folders.read_plans(name, base), configuration, recipe, identifier)
    if path.is_file():
        existing = folders.read_json(path)
        _refuse_other(path, existing, plans)
        if configuration in existing["configurations"]:
            return Plan(path=path, identifier=identifier, recipe=recipe, created=False)
        plans["configurations"] |= existing["configurations"]
    folders.write_json(path, plans)
    return Plan(path=path, identifier=identifier, recipe=recipe, created=True)


def identifier_of(recipe: Recipe, base: str) -> str:
    """What the plans of a recipe are called."""
    return f"{base}_{recipe.name}"


def make_plans(base: dict[str, Any], configuration: str, recipe: Recipe, identifier: str) -> dict[str, Any]:
    """New plans with one configuration, which holds `architecture` and the `nnvit` block; the base is not changed."""
    base = {key: value for key, value in base.items() if key != "continue_training"}
    _check_configuration(base, configuration, recipe)
    resolved = PlansManager(copy.deepcopy(base)).get_configuration(configuration).configuration
    for cascade in ("inherits_from", "next_stage"):
        resolved.pop(cascade, None)
    training = recipe.training
    resolved["batch_size"] = training.batch_size or resolved["batch_size"]
    resolved["patch_size"] = training.patch_size or resolved["patch_size"]
    if isinstance(recipe.model, ModelConfig):
        resolved["architecture"] = {
            "network_class_name": "nnvit.model.Segmenter",
            "arch_kwargs": arch_kwargs(recipe, resolved["normalization_schemes"]),
            "_kw_requires_import": [],
        }
    resolved["nnvit"] = {
        "schema": SCHEMA,
        "recipe": config.to_dict(recipe),
        "hash": config.recipe_hash(recipe),
        "base_plans": base["plans_name"],
        "base_plans_hash": config.digest(base),
    }
    return json.loads(json.dumps({**base, "plans_name": identifier, "configurations": {configuration: resolved}}))


def arch_kwargs(recipe: Recipe, normalization_schemes: list[str]) -> dict[str, Any]:
    """Everything that rebuilds the network with random weights, as plain data."""
    model = recipe.model
    assert isinstance(model, ModelConfig)
    common = {field.name for field in fields(ModelConfig)}
    own_keys = {key: value for key, value in asdict(model).items() if key not in common}
    kwargs: dict[str, Any] = {
        "arch_version": ARCH_VERSION,
        "backbone": {
            "name": model.backbone,
            "size": model.backbone_size,
            "taps": model.feature_layers,
            "args": model.backbone_args,
        },
        "neck": {"name": model.neck, "args": model.neck_args},
        "head": {"name": model.head, **own_keys},
        "tuning": recipe.tuning,
        "input_stats": input_stats(model, normalization_schemes),
    }
    if recipe.tuning == "lora":
        adapters = asdict(recipe.lora)
        del adapters["enabled"]
        kwargs["lora"] = adapters
    return kwargs


def input_stats(model: ModelConfig, normalization_schemes: list[str]) -> dict[str, list[float]] | None:
    """The backbone's mean and std, where the plans bring values in 0..1; a z-score cannot be undone."""
    unit_range = set(normalization_schemes) == {"RGBTo01Normalization"}
    if model.input_norm == "none" or (model.input_norm == "auto" and not unit_range):
        return None
    backbone = registry.module("backbone", model.backbone)
    return backbone.statistics(model.backbone_size, backbone.Args(**model.backbone_args))


def block_of(plans: dict[str, Any], configuration: str) -> dict[str, Any] | None:
    """The `nnvit` block of a configuration, None where the plans are nnU-Net's own."""
    return plans["configurations"].get(configuration, {}).get("nnvit")


def recipe_of(block: dict[str, Any]) -> Recipe:
    """The recipe in a block. Raises PlansError for a block that a newer nnvit wrote."""
    if block["schema"] > SCHEMA:
        raise PlansError(
            f"these plans were written by a newer nnvit (schema {block['schema']}, this one knows up to {SCHEMA}); run "
            "`pip install -U nnvit`."
        )
    return config.from_dict(block["recipe"])


def _check_configuration(base: dict[str, Any], configuration: str, recipe: Recipe) -> None:
    known = list(base["configurations"])
    if configuration not in known:
        raise PlansError(
            f"configuration '{configuration}' is not in {base['plans_name']}; it has {', '.join(known)}. If it was not "
            f"planned, run `nnUNetv2_plan_and_preprocess -c {configuration}`.{did_you_mean(configuration, known)}"
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
    if block_of(base, configuration):
        raise PlansError(
            f"{base['plans_name']} already carries a recipe of nnvit; give the plans that it was made from with -p "
            f"({block_of(base, configuration)['base_plans']}), or train it as it is: `nnvit train … -p {base['plans_name']}`."  # type: ignore[index]
        )


def _refuse_other(path: Path, existing: dict[str, Any], new: dict[str, Any]) -> None:
    """A plans file is overwritten only by the same recipe on the same base plans."""
    ((configuration, wanted),) = new["configurations"].items()
    for other, held in existing["configurations"].items():
        block = held.get("nnvit")
        if block is None:
            raise PlansError(
                f"{path} exists and was not written by nnvit; give the recipe another name=… or move the file."
            )
        differences = config.differing_keys(config.to_dict(recipe_of(block)), wanted["nnvit"]["recipe"])
        if block["base_plans_hash"] != wanted["nnvit"]["base_plans_hash"]:
            differences.append(
                f"base plans {block['base_plans']}: {block['base_plans_hash'][:8]} -> {wanted['nnvit']['base_plans_hash'][:8]}"
            )
        if differences:
            raise PlansError(
                f"{path} holds another recipe ({block['hash'][:8]} for {other}; this one is "
                f"{wanted['nnvit']['hash'][:8]} for {configuration}) and is left as it is. They differ in "
                f"{'; '.join(differences)}. Give this recipe another name=…, or delete the file if nothing was trained with it."
            )
