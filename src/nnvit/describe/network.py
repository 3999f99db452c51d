"""`nnvit show`: a recipe with every key resolved, its network, and what a training step on it takes."""

from collections.abc import Iterable, Sequence

import torch
from omegaconf import OmegaConf

from nnvit.estimate import GIB, Job, Need, flops, job_of, need
from nnvit.recipe import identity, loading
from nnvit.recipe.schema import ModelConfig, Recipe

from .columns import table
from .training_needs import shares


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
    recipe = loading.load_recipe([source], overrides)
    lines = [
        f"# {recipe.name} ({identity.recipe_hash(recipe)[:8]}), tuning {recipe.tuning}",
        *OmegaConf.to_yaml(loading.to_dict(recipe)).splitlines(),
        "",
    ]
    if not isinstance(recipe.model, ModelConfig):
        return [
            *lines,
            f"model.head={recipe.model.head}: the network is the base plans' own, which there is only for a data set;",
            f"`nnvit plan DATASET CONFIGURATION --recipe {source}` makes plans with it, and training says its size.",
        ]
    job = job_of(recipe, channels=channels, classes=classes, patch=(patch[0], patch[1]), batch=batch)
    rows, trained = flops.parts(job.build, (batch, channels, *patch))
    taken = _need(job)
    measured = _cost(job, taken)
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
        *_memory(job, taken),
    ]


def cost_of(recipe: Recipe) -> flops.Cost:
    """What the headers of the shipped recipes say: of patches of 3 x 512 x 512 pixels and 2 classes."""
    job = job_of(recipe, channels=3, classes=2, patch=(512, 512), batch=2)
    return _cost(job, _need(job))


def _need(job: Job) -> Need:
    """As `nnvit estimate` has it for GPUs."""
    return need(job, None if job.training.precision == "fp32" else torch.bfloat16, steps=2)


def _cost(job: Job, taken: Need) -> flops.Cost:
    network = flops.on_meta(job.build)
    return flops.Cost(
        parameters=sum(p.numel() for p in network.parameters()),
        trainable=sum(p.numel() for p in network.parameters() if p.requires_grad),
        batch=job.batch,
        forward_flops=taken.forward_flops,
        step_flops=taken.step_flops,
    )


def _network(rows: Iterable[flops.Row]) -> list[str]:
    heading = ["module", "class", "parameters", "trained", "output"]
    body = [[_indented(row.name), row.kind, f"{row.parameters:,}", f"{row.trainable:,}", row.output] for row in rows]
    return table([heading, *body])


def _indented(name: str) -> str:
    return f"  {name}" if "." in name else name


def _memory(job: Job, taken: Need) -> list[str]:
    names = {"auto": "bf16 (auto, where the device has it)", "stock": "fp16 (stock, on CUDA)"}
    precision = names.get(job.training.precision, job.training.precision)
    return [
        f"memory of a training step on {job.batch} patches, {precision}: {taken.alive / GIB:.2f} GiB",
        *table([f"  {name}", f"{size / GIB:.2f} GiB"] for name, size in shares(job, taken).items()),
        "  (all at the moment when they come to the most; `nnvit estimate` says what kernels and the allocator take beside)",
    ]
