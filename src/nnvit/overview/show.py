"""`nnvit show`: a recipe with every key resolved, its network, and what a training step on it takes."""

from collections.abc import Iterable, Sequence
from math import log2

from omegaconf import OmegaConf

from .. import config, cost
from ..architecture import arch_kwargs
from ..model.segmenter import Segmenter
from ..schema import ModelConfig, Recipe
from .text import table

GIB = 2**30


def show(
    source: str,
    overrides: Sequence[str] = (),
    *,
    channels: int = 3,
    classes: int = 2,
    patch: Sequence[int] = (512, 512),
    batch: int = 2,
) -> list[str]:
    """The resolved recipe and what its network costs, as lines; `patch` in pixels.

    Raises ConfigError for a recipe that does not load, or whose parts do not fit together.
    """
    recipe = config.load_recipe([source], overrides)
    lines = [
        f"# {recipe.name} ({config.recipe_hash(recipe)[:8]}), tuning {recipe.tuning}",
        *OmegaConf.to_yaml(config.to_dict(recipe)).splitlines(),
        "",
    ]
    if not isinstance(recipe.model, ModelConfig):
        return [
            *lines,
            f"model.head={recipe.model.head}: the network is the base plans' own, which there is only for a data set;",
            f"`nnvit plan DATASET CONFIGURATION --recipe {source}` makes plans with it, and training says its size.",
        ]
    measured, rows, trained = measure(recipe, channels=channels, classes=classes, patch=patch, batch=batch)
    return [
        *lines,
        f"network: {channels} channels, {classes} classes, patch {patch[0]} x {patch[1]}, batch {batch}",
        *_network(rows),
        "",
        f"trained: {measured.trainable:,} of {measured.parameters:,} parameters",
        *table([f"  {name}", f"{count} tensor{'s' * (count > 1)}", f"{size:,}"] for name, count, size in trained),
        "",
        f"cost of a patch: {measured.line()}",
        "  (a multiplication and an addition are two; the loss is left out)",
        *_memory(measured, recipe),
    ]


def measure(
    recipe: Recipe, *, channels: int = 3, classes: int = 2, patch: Sequence[int] = (512, 512), batch: int = 2
) -> tuple[cost.Cost, list[cost.Row], list[tuple[str, int, int]]]:
    """What `cost.measure` says of a recipe's network; auxiliary outputs on as many scales as nnU-Net plans for the patch."""
    halvings = max(1, int(log2(min(patch) / 4)) - 1)
    arch = arch_kwargs(recipe, scales=[[0.5**i] * 2 for i in range(1, halvings)])
    return cost.measure(
        lambda: Segmenter(channels, classes, deep_supervision="aux" in arch, **arch),
        (batch, channels, *patch),
        recipe.training,
    )


def _network(rows: Iterable[cost.Row]) -> list[str]:
    heading = ["module", "class", "parameters", "trained", "output"]
    body = [[_indented(row.name), row.kind, f"{row.parameters:,}", f"{row.trainable:,}", row.output] for row in rows]
    return table([heading, *body])


def _indented(name: str) -> str:
    return f"  {name}" if "." in name else name


def _memory(measured: cost.Cost, recipe: Recipe) -> list[str]:
    training = recipe.training
    parts = {
        "parameters": measured.parameter_bytes,
        "gradients": measured.gradient_bytes,
        f"states of {training.optimizer}{' and the running mean' if training.ema else ''}": measured.optimizer_bytes,
        "activations kept for the backward pass": measured.activation_bytes,
    }
    return [
        f"memory of a training step on {measured.batch} patches, {measured.precision}: {measured.total_bytes / GIB:.2f} GiB",
        *table([f"  {name}", f"{size / GIB:.2f} GiB"] for name, size in parts.items()),
        "  (what kernels, the loss and the allocator take for themselves comes on top)",
    ]
