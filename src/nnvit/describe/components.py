"""`nnvit list`: backbones and their sizes, heads and necks with their keys, shipped recipes."""

import inspect
import json
from collections.abc import Iterable
from dataclasses import MISSING, Field, fields
from typing import Any

import torch

from nnvit import registry
from nnvit.recipe import loading
from nnvit.recipe.schema import ModelConfig
from nnvit.registry import build_backbone

from .columns import table
from .shipped_recipes import header


def listing(kind: str) -> list[str]:
    """Returns lines on all `backbones`, `sizes`, `heads`, `necks` or `recipes`."""
    return {"backbones": _backbones, "sizes": _sizes, "heads": _heads, "necks": _necks, "recipes": _recipes}[kind]()


def _backbones() -> list[str]:
    lines = ["backbones (model.backbone)"]
    for name in registry.names("backbone"):
        module = registry.module("backbone", name)
        sizes = ", ".join(module.SIZES) or "any name that timm knows"
        lines += [f"  {name}: {_summary(module)}", f"    model.backbone_size: {sizes}"]
        lines += _keys("model.backbone_args", fields(module.Args))
        lines += [f"    lora.target_modules: {', '.join(module.LORA_TARGETS)}"]
    return lines


def _sizes() -> list[str]:
    rows = [["backbone", "size", "parameters", "strides", "taps", "licence", "default weights"]]
    for name in registry.names("backbone"):
        module = registry.module("backbone", name)
        for size in module.SIZES:
            taps = module.resolve_taps(size, None)
            with torch.device("meta"):
                backbone = build_backbone(name, size, taps, {})
            weights = backbone.default_weights
            numbers = f"{sum(p.numel() for p in backbone.parameters()):,}"
            strides = ",".join(f"{stride:g}" for stride in dict.fromkeys(backbone.strides))
            file = [weights.licence, weights.file] if weights else ["", "none"]
            rows.append([name, size, numbers, strides, ",".join(map(str, taps)), *file])
    return ["sizes (model.backbone, model.backbone_size)", *(f"  {line}" for line in table(rows))]


def _heads() -> list[str]:
    common = {field.name for field in fields(ModelConfig)}
    lines = ["heads (model.head), each with its keys and their defaults"]
    for name in registry.names("head"):
        module = registry.module("head", name)
        own = [field for field in fields(module.Config) if field.name not in common]
        loss = ["    training.loss: nnunet, native"] if module.Head.by_queries else []
        lines += [
            f"  {name}: {_summary(module)}",
            f"    model.neck={module.Config().neck}",
            *_keys("model", own),
            *loss,
        ]
    return [*lines, "  plans: the base plans' own network, the baseline of every comparison"]


def _necks() -> list[str]:
    lines = ["necks (model.neck), each with its keys and their defaults"]
    for name in registry.names("neck"):
        module = registry.module("neck", name)
        lines += [f"  {name}: {_summary(module)}", *_keys("model.neck_args", fields(module.Args))]
    return lines


def _recipes() -> list[str]:
    rows = [[f"  {name}", header(name).summary] for name in loading.shipped_recipes()]
    return ["shipped recipes (--recipe)", *table(rows)]


def _keys(section: str, keys: Iterable[Field[Any]]) -> list[str]:
    return [f"    {section}.{key.name}={_default(key)}" for key in keys]


def _default(key: Field[Any]) -> str:
    value = key.default if key.default_factory is MISSING else key.default_factory()
    return json.dumps(value).strip('"')  # as YAML has it: null, true, [1, 2]


def _summary(module: Any) -> str:
    """Returns the first line of a module's docstring."""
    return (inspect.getdoc(module) or "").partition("\n")[0]
