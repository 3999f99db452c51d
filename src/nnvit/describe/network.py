"""`nnvit show RECIPE`: a recipe with every key resolved, its network, and what a training step on it needs."""

from collections.abc import Sequence
from dataclasses import asdict

import torch
from omegaconf import OmegaConf

from nnvit.estimate import GIB, Job, Need
from nnvit.estimate.network_parts import network_parts
from nnvit.model.precision import Precision
from nnvit.recipe import loading
from nnvit.recipe.schema import ModelConfig

from .columns import short, table
from .training_needs import tensor_rows


def show(
    source: str,
    overrides: Sequence[str] = (),
    *,
    channels: int = 3,
    classes: int = 2,
    patch: Sequence[int] = (512, 512),
    batch: int = 2,
) -> list[str]:
    """Returns the resolved recipe, its network's modules and its needs, as lines; `patch` in pixels.

    Raises ConfigError for a recipe that does not load, or whose parts do not fit together.
    """
    recipe = loading.load_recipe([source], overrides)
    lines = [
        f"# {recipe.name} ({recipe.hash[:8]}), tuning {recipe.tuning}",
        *OmegaConf.to_yaml(asdict(recipe)).splitlines(),
        "",
    ]
    if not isinstance(recipe.model, ModelConfig):
        return [
            *lines,
            f"model.head={recipe.model.head}: the network is the base plans' own, so that its size depends on the data set;",
            f"`nnvit plan DATASET CONFIGURATION --recipe {source}` makes plans with it, and training prints its size.",
        ]
    job = Job.of(recipe, channels=channels, classes=classes, patch=(patch[0], patch[1]), batch=batch)
    found = job.need(Precision.choose(job.training.precision, torch.device("cuda"), has_bf16=True).dtype)
    return [
        *lines,
        f"network: {channels} channels, {classes} classes, patch {patch[0]} x {patch[1]}, batch {batch}",
        *_network(job, found),
        *_memory(job, found),
    ]


def _network(job: Job, found: Need) -> list[str]:
    rows, trained = network_parts(job.build, (job.batch, job.channels, *job.patch))
    parameters = sum(row.parameters for row in rows if "." not in row.name)
    trainable = sum(size for _, _, size in trained)
    heading = ["module", "class", "parameters", "trained", "output"]
    body = [
        [
            f"  {row.name}" if "." in row.name else row.name,
            row.kind,
            f"{row.parameters:,}",
            f"{row.trainable:,}",
            row.output,
        ]
        for row in rows
    ]
    forward, step = (short(flops / job.batch) for flops in (found.forward_flops, found.step_flops))
    return [
        *table([heading, *body]),
        "",
        f"trained: {trainable:,} of {parameters:,} parameters",
        *table([f"  {name}", f"{count} tensor{'s' * (count > 1)}", f"{size:,}"] for name, count, size in trained),
        "",
        f"cost of a patch: {short(parameters)} parameters, {short(trainable)} trained; {forward}FLOPs forward, {step}FLOPs with "
        "backward",
        "  (a multiplication and an addition are two; the loss is left out)",
    ]


def _memory(job: Job, found: Need) -> list[str]:
    names = {"auto": "bf16 (auto, if the device has it)", "stock": "fp16 (stock, on CUDA)"}
    precision = names.get(job.training.precision, job.training.precision)
    return [
        f"memory of a training step on {job.batch} patches, {precision}: {found.tensors / GIB:.2f} GiB",
        *table(tensor_rows(job, found)),
        "  (all at the moment of most memory; `nnvit estimate` adds what the allocator takes beside)",
    ]
