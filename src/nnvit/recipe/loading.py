"""Reads recipes, merges them (defaults <- shipped YAML <- user YAML <- key=value) and checks them."""

import re
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from nnvit import registry
from nnvit.errors import ConfigError, did_you_mean

from .schema import ModelConfig, PlansModelConfig, Recipe

SHIPPED = {path.stem: path for path in sorted((Path(__file__).parent / "shipped").glob("*.yaml"))}
"""The names that `--recipe` takes without a path, with their files."""


def load_recipe(sources: Sequence[str | Path] = (), overrides: Sequence[str] = ()) -> Recipe:
    """Merges the defaults, the sources in order (shipped names or YAML paths) and `key=value` overrides.

    The result is resolved: its name, tapped layers and adapter targets are written out.
    Raises ConfigError for an absent file, an unknown key (with the nearest legal one) or a value of the wrong type.
    """
    layers = [*map(_read, sources), _dotlist(overrides)]
    recipe = _build(_merge(*layers))
    # A name stands for what was written up to where it was given; what is written on top of it adds a hash.
    named = [i for i, layer in enumerate(layers) if "name" in layer]
    stands_for = _spelled_out(recipe) if recipe.name == "auto" else _merge(*layers[: named[-1] + 1])
    return replace(recipe, name=_name(recipe, _build(stands_for)))


def from_dict(block: dict[str, Any]) -> Recipe:
    """Rebuilds the recipe that a plans file carries. Keys that it lacks take their defaults."""
    return _build(OmegaConf.create(block))


def _read(source: str | Path) -> DictConfig:
    path = SHIPPED.get(str(source), Path(source))
    if not path.is_file():
        raise ConfigError(
            f"recipe '{source}' is neither a shipped recipe ({', '.join(SHIPPED)}) nor a file; give one of "
            f"these names or the path of a YAML file.{did_you_mean(str(source), SHIPPED)}"
        )
    try:
        content = OmegaConf.create(path.read_text(encoding="utf-8"))
    except Exception as error:
        raise ConfigError(f"recipe '{source}' is not valid YAML: {error}") from error
    if not isinstance(content, DictConfig):
        raise ConfigError(f"recipe '{source}' must hold sections such as `model:` and `training:`, not a list.")
    return content


def _dotlist(overrides: Sequence[str]) -> DictConfig:
    for item in overrides:
        key, equals, _ = item.partition("=")
        if not equals or not key:
            raise ConfigError(f"'{item}' is not of the form key=value, such as training.lr=1e-4 or lora.r=16.")
    try:
        return OmegaConf.from_dotlist(list(overrides))
    except Exception as error:
        raise ConfigError(f"cannot read {' '.join(overrides)}: {error}") from error


def _merge(*parts: DictConfig) -> DictConfig:
    try:
        merged = OmegaConf.merge(OmegaConf.create({}), *parts)
    except OmegaConfBaseException as error:
        raise ConfigError(f"the recipe's parts do not fit together: {error}") from error
    assert isinstance(merged, DictConfig)
    return merged


def _build(raw: DictConfig) -> Recipe:
    legal = [field.name for field in fields(Recipe)]
    for key in map(str, raw):
        if key not in legal:
            raise ConfigError(
                f"'{key}' is not a section of a recipe; use {', '.join(legal)}.{did_you_mean(key, legal)}"
            )
    head = str(OmegaConf.select(raw, "model.head", default="segformer"))
    sections: dict[str, Any] = {field.name: field.type for field in fields(Recipe) if field.name != "name"}
    sections["model"] = PlansModelConfig if head == "plans" else registry.module("head", head).Config
    for name, schema in sections.items():
        written = raw.get(name)
        if written is not None and not isinstance(written, DictConfig):
            raise ConfigError(f"{name}={written} must be a section of keys, such as {name}.{fields(schema)[0].name}=…")
        sections[name] = typed(name, schema, written or {})
    return _resolve(Recipe(name=str(raw.get("name") or "auto"), **sections))


def typed(name: str, schema: type, written: Any) -> Any:
    """Makes an instance of the dataclass `schema` from plain keys. Raises ConfigError that names `name.key`."""
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), written))
    except ConfigKeyError as error:
        key, legal = str(error.key), [field.name for field in fields(schema)]
        there = f"; the keys there are {', '.join(legal)}" if legal else "; it takes no keys"
        if schema is PlansModelConfig:
            there = " with model.head=plans, which trains the base plans' own network and has no other keys"
        raise ConfigError(f"'{name}.{key}' is not a key of a recipe{there}.{did_you_mean(key, legal)}") from error
    except OmegaConfBaseException as error:
        key = error.full_key or error.key
        if "ListConfig" in str(error):
            raise ConfigError(f"{name}.{key} must be a list in brackets, such as [512,512] or [qkv].") from error
        raise ConfigError(f"{name}.{key}: {str(error).splitlines()[0]}.") from error


def _resolve(recipe: Recipe) -> Recipe:
    """Writes out what the recipe leaves to its backbone, and checks what only the parts' own files know."""
    _check_external_weights(recipe)
    if isinstance(recipe.model, PlansModelConfig):
        for key in ("drop_path", "grad_checkpointing"):
            if getattr(recipe.training, key):
                raise ConfigError(f"training.{key} is for ViT backbones; model.head=plans has none.")
        if recipe.training.loss != "nnunet":
            raise ConfigError(
                "training.loss=native: the base plans' own network has no loss of its own; set it to nnunet."
            )
        return recipe
    model, lora = recipe.model, recipe.lora
    backbone, neck = registry.family(model.backbone), registry.module("neck", model.neck)
    taps = backbone.resolve_taps(model.backbone_size, model.feature_layers)
    model = replace(
        model,
        feature_layers=taps,
        backbone_args=asdict(typed("model.backbone_args", backbone, model.backbone_args)),
        neck_args=asdict(typed("model.neck_args", neck.Args, model.neck_args)),
    )
    if lora.target_modules is None:
        lora = replace(lora, target_modules=list(backbone.LORA_TARGETS))
    recipe = replace(recipe, model=model, lora=lora)
    _check_training(recipe)
    return recipe


def _check_external_weights(recipe: Recipe) -> None:
    """Raises ConfigError where no file holds frozen weights that checkpoints could leave out."""
    if recipe.checkpoint.frozen_weights == "embed":
        return
    why = ""
    if recipe.tuning == "full":
        why = "this recipe trains the whole network, and a checkpoint has to hold all that was trained"
    elif getattr(recipe.model, "weights", "") == "random":
        why = "model.weights=random comes from no file that could be found again by its hash"
    if why:
        raise ConfigError(
            f"checkpoint.frozen_weights=reference leaves out weights that a file holds, but {why}; set it to embed."
        )


def _check_training(recipe: Recipe) -> None:
    """Raises ConfigError for keys of the training that this network would silently ignore."""
    model, training = recipe.model, recipe.training
    assert isinstance(model, ModelConfig)
    head = registry.module("head", model.head).Head
    if training.loss == "native" and not head.by_queries:
        raise ConfigError(f"training.loss=native: head '{model.head}' has no loss of its own; set it to nnunet.")
    if training.loss == "native" and training.deep_supervision:
        raise ConfigError(
            "training.loss=native supervises every layer by itself; set training.deep_supervision=false (it belongs to "
            "training.loss=nnunet)."
        )
    if training.drop_path and recipe.tuning != "full":
        raise ConfigError(
            f"training.drop_path={training.drop_path} drops blocks of a backbone that is trained in full; with tuning "
            f"'{recipe.tuning}' it does nothing: set it to 0, or lora.enabled=false and model.freeze_backbone=false."
        )
    if training.grad_checkpointing and recipe.tuning == "frozen" and not head.reads_tokens:
        raise ConfigError(
            "training.grad_checkpointing=true saves activations of a backbone that gradients flow through; a frozen one "
            "keeps none: set it to false."
        )


def _name(recipe: Recipe, stands_for: Recipe) -> str:
    """Returns what plans and results folders are called after.

    stands_for: the recipe that the name alone means. `_h<6 hex>` is added where the recipe departs from it, `_s<seed>` where
    a seed is set.
    """
    name = _automatic_name(recipe) if recipe.name == "auto" else recipe.name
    if recipe.hash != stands_for.hash:
        name += f"_h{recipe.hash[:6]}"
    return name if recipe.training.seed is None else f"{name}_s{recipe.training.seed}"


def _automatic_name(recipe: Recipe) -> str:
    """Returns `<head>_<backbone>_<size>_<tuning>`."""
    model = recipe.model
    if isinstance(model, PlansModelConfig):
        return "plans"
    parts = "_".join([model.head, model.backbone, model.backbone_size, recipe.tuning])
    return re.sub(r"[\W_]+", "_", parts).strip("_")


def _spelled_out(recipe: Recipe) -> DictConfig:
    """Returns the defaults with only the keys that an automatic name spells out."""
    if isinstance(recipe.model, PlansModelConfig):
        return OmegaConf.create({"model": {"head": "plans"}, "lora": {"enabled": False}})
    spelled = ("head", "backbone", "backbone_size", "freeze_backbone")
    model = {key: getattr(recipe.model, key) for key in spelled}
    return OmegaConf.create({"model": model, "lora": {"enabled": recipe.lora.enabled}})
