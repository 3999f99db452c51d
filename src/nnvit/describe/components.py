"""`nnvit list`: backbones and their sizes, heads and necks with their keys, shipped recipes and the page on them."""

import inspect
import json
from collections.abc import Iterable
from dataclasses import MISSING, Field, fields
from itertools import takewhile
from typing import Any

import torch

from nnvit import registry
from nnvit.recipe import loading
from nnvit.recipe.schema import ModelConfig, Recipe
from nnvit.registry import build_backbone

from .columns import table


def listing(kind: str) -> list[str]:
    """Returns lines on all `backbones`, `sizes`, `heads`, `necks` or `recipes`.

    `recipes_page` is the page `src/nnvit/recipe/shipped/README.md`, made from the headers of the recipes.
    """
    components = {"backbones": _backbones, "sizes": _sizes, "heads": _heads, "necks": _necks}
    return (components | {"recipes": _recipes, "recipes_page": _recipes_page})[kind]()


def _backbones() -> list[str]:
    lines = ["backbones (model.backbone)"]
    for name in registry.names("backbone"):
        family = registry.family(name)
        sizes = ", ".join(family.SIZES) or "any name that timm knows"
        summary = _summary(registry.module("backbone", name))
        lines += [f"  {name}: {summary}", f"    model.backbone_size: {sizes}"]
        lines += _keys("model.backbone_args", fields(family))
        lines += [f"    lora.target_modules: {', '.join(family.LORA_TARGETS)}"]
    return lines


def _sizes() -> list[str]:
    rows = [["backbone", "size", "parameters", "strides", "taps", "licence", "default weights"]]
    for name in registry.names("backbone"):
        family = registry.family(name)
        for size in family.SIZES:
            taps = family.resolve_taps(size, None)
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
        lines += [f"  {name}: {_summary(module)}", f"    model.neck={module.Config().neck}", *_keys("model", own)]
        lines += ["    training.loss: nnunet, native"] if module.Head.by_queries else []
    return [*lines, "  plans: the base plans' own network, the baseline of every comparison"]


def _necks() -> list[str]:
    lines = ["necks (model.neck), each with its keys and their defaults"]
    for name in registry.names("neck"):
        module = registry.module("neck", name)
        lines += [f"  {name}: {_summary(module)}", *_keys("model.neck_args", fields(module.Args))]
    return lines


def _recipes() -> list[str]:
    rows = [[f"  {name}", _header(name)[0]] for name in loading.SHIPPED]
    return ["shipped recipes (--recipe)", *table(rows)]


def _keys(section: str, keys: Iterable[Field[Any]]) -> list[str]:
    defaults = {key.name: key.default if key.default_factory is MISSING else key.default_factory() for key in keys}
    # as YAML has them: null, true, [1, 2]
    return [f"    {section}.{name}=" + json.dumps(value).strip('"') for name, value in defaults.items()]


def _summary(module: Any) -> str:
    """Returns the first line of a module's docstring."""
    return (inspect.getdoc(module) or "").partition("\n")[0]


# --- shipped recipes -------------------------------------------------------------------------------------------------


def _header(name: str) -> tuple[str, dict[str, str]]:
    """Returns the comment before the first key of a shipped YAML: a summary, and the notes `Source`, `Use` and `Cost`.

    The summary is the first paragraph; each note is `Word: text`, which may run over several lines.
    """
    paragraphs: list[str] = []
    text = loading.SHIPPED[name].read_text(encoding="utf-8")
    for line in takewhile(lambda line: line.startswith("#"), text.splitlines()):
        words = line.removeprefix("#").strip()
        begins = not paragraphs or words.partition(":")[0] in ("Source", "Use", "Cost")
        paragraphs = [*paragraphs, words] if begins else [*paragraphs[:-1], f"{paragraphs[-1]} {words}"]
    notes = (paragraph.partition(": ") for paragraph in paragraphs[1:])
    return paragraphs[0], {word: text for word, _, text in notes}


def _recipes_page() -> list[str]:
    lines = [
        "# Shipped recipes",
        "",
        "Made by `nnvit list recipes --markdown` from the headers of the YAML files beside it; edit those.",
        "`nnvit show NAME` prints a recipe with every key resolved, its network and its cost; `--recipe NAME` trains it.",
        "Cost is that of one patch of 3 x 512 x 512 pixels and 2 classes, as `nnvit show` counts it.",
    ]
    for name in loading.SHIPPED:
        summary, notes = _header(name)
        lines += ["", f"## `{name}`", "", summary, "", *(f"- **{word}**: {text}" for word, text in notes.items())]
        lines += [f"- **Network**: {_parts(loading.load_recipe([name]))}"]
    return lines


def _parts(recipe: Recipe) -> str:
    model, training = recipe.model, recipe.training
    if not isinstance(model, ModelConfig):
        return "the base plans' own"
    tuning = {"lora": f"LoRA of rank {recipe.lora.r}", "frozen": "frozen", "full": "trained in full"}[recipe.tuning]
    return (
        f"`{model.backbone}` `{model.backbone_size}`, {tuning}; neck `{model.neck}`; head `{model.head}`; "
        f"loss `{training.loss}`; results under `{recipe.name}`"
    )
