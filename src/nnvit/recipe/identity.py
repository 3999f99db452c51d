"""Identifies recipes: the hash of what a recipe does, its name, and the keys in which two recipes differ."""

from dataclasses import asdict
from typing import Any

from nnvit import registry
from nnvit.records.hashes import digest
from nnvit.records.plans_block import SCHEMA

from .schema import ModelConfig, PlansModelConfig, Recipe

_TRAINED = ("model", "lora", "training")
"""The sections that say what is trained; `checkpoint` only says how it is kept."""


def recipe_hash(recipe: Recipe) -> str:
    """Returns the sha256 of what the recipe does.

    Name and seed are left out, so that the seeds of one arm share the hash; so is the section `checkpoint`. A key at its default
    does not enter: a key that a later release adds leaves the hashes of old recipes alone, and a release that changes a default
    raises SCHEMA.
    """
    content: dict[str, Any] = {section: _departures(getattr(recipe, section)) for section in _TRAINED}
    content["schema"] = SCHEMA
    content["training"].pop("seed", None)
    model = recipe.model
    if isinstance(model, ModelConfig):
        for kind in ("backbone", "neck"):
            args = registry.module(kind, getattr(model, kind)).Args
            content["model"][f"{kind}_args"] = _departures(args(**getattr(model, f"{kind}_args")))
    return digest(content)


def _departures(section: Any) -> dict[str, Any]:
    """Returns the fields of a dataclass that differ from their defaults, and those that name a component."""
    plain, named = type(section)(), ("head", "backbone", "backbone_size", "neck")
    return {key: value for key, value in asdict(section).items() if key in named or value != getattr(plain, key)}


def name_of(recipe: Recipe, stands_for: Recipe) -> str:
    """Returns what plans and results folders are called after.

    stands_for: the recipe that the name alone means. `_h<6 hex>` is added where the recipe departs from it, `_s<seed>` where
    a seed is set.
    """
    name = _automatic(recipe) if recipe.name == "auto" else recipe.name
    if recipe_hash(recipe) != recipe_hash(stands_for):
        name += f"_h{recipe_hash(recipe)[:6]}"
    if recipe.training.seed is not None:
        name += f"_s{recipe.training.seed}"
    return name


def _automatic(recipe: Recipe) -> str:
    """Returns `<head>_<backbone>_<size>_<tuning>`."""
    model = recipe.model
    if isinstance(model, PlansModelConfig):
        return "plans"
    size = "".join(c if c.isalnum() else "_" for c in model.backbone_size)
    parts = [model.head, model.backbone, size, recipe.tuning]
    return "_".join(part for part in "_".join(parts).split("_") if part)


def differing_keys(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Returns a line `key: old -> new` for every leaf in which two nested dictionaries differ."""
    lines: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differing_keys(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {before} -> {after}")
    return lines
