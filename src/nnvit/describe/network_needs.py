"""`nnvit show RECIPE` and `nnvit estimate`: a recipe's network, and the memory, time and FLOPs of a training of it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils._pytree import tree_leaves

from nnvit.estimate import GIB, Job, Need
from nnvit.estimate.devices import LAUNCH, UNCERTAIN, Device, Speed
from nnvit.estimate.fake_training import CPU_ALLOWANCE, CPU_OFF, GPU_ALLOWANCE, GPU_CONTEXT, fake_network
from nnvit.model import Segmenter
from nnvit.model.precision import Precision
from nnvit.recipe import loading
from nnvit.recipe.schema import ModelConfig

from .columns import short, table


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
    rows, trained = _network_parts(job.build, (job.batch, job.channels, *job.patch))
    parameters = sum(row.parameters for row in rows if "." not in row.name)
    trainable = sum(size for _, _, size in trained)
    heading = ["module", "class", "parameters", "trained", "output"]
    body = [
        ["  " * ("." in row.name) + row.name, row.kind, f"{row.parameters:,}", f"{row.trainable:,}", row.output]
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
        *_sizes(job, found),
        "  (all at the peak; `nnvit estimate` adds what the allocator takes beside)",
    ]


# --- the network's parts ---------------------------------------------------------------------------------------------


class _NetworkPart(NamedTuple):
    """One module. parameters, trainable: numbers of parameters; output: shapes as text; kind: the class."""

    name: str
    kind: str
    parameters: int
    trainable: int
    output: str


def _network_parts(
    build: Callable[[], nn.Module], image: Sequence[int]
) -> tuple[list[_NetworkPart], list[tuple[str, int, int]]]:
    """Returns the network's modules, two levels deep, and (pattern, tensors, parameters) of what is trained.

    build: makes a `Segmenter`, on the meta device; image: (B, C, H, W), for the shapes of the outputs.
    """
    shapes: dict[nn.Module, str] = {}
    with fake_network(build) as network, torch.no_grad():
        assert isinstance(network, Segmenter)
        network.deep_supervision = False  # as in a prediction
        with register_module_forward_hook(lambda module, _, output: shapes.__setitem__(module, _shape(output))):
            network.eval()(torch.empty(*image))
    parts = [
        _NetworkPart(
            name=name,
            kind=_kind(module),
            parameters=sum(p.numel() for p in module.parameters()),
            trainable=sum(p.numel() for p in module.parameters() if p.requires_grad),
            output=shapes.get(module) or shapes.get(_last(module), ""),
        )
        for name, module in _two_levels(network)
    ]
    return parts, _trained(network)


def _two_levels(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for part, module in network.named_children():
        yield part, module
        name, children = part, list(module.named_children())
        if len(children) == 1:  # a wrapper: show what it wraps
            name, (_, inner) = f"{part}.{children[0][0]}", children[0]
            children = list(inner.named_children())
        yield from ((f"{name}.{child}", m) for child, m in children if list(m.parameters()))


def _last(module: nn.Module) -> nn.Module:
    """Returns the last module of a list, whose output stands for the list, since lists are rarely called."""
    children = list(module.children())
    return children[-1] if isinstance(module, nn.ModuleList | nn.Sequential) and children else module


def _kind(module: nn.Module) -> str:
    kinds = {type(child).__name__ for child in module.children()}
    if isinstance(module, nn.ModuleList | nn.Sequential) and len(kinds) == 1:
        return f"{len(module)} x {kinds.pop()}"
    return type(module).__name__


def _shape(output: Any) -> str:
    """Returns shapes as `2x256x128x128`, joined by commas, equal ones counted."""
    shapes = ["x".join(map(str, leaf.shape)) for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    return ", ".join(f"{n} of {shape}" if (n := shapes.count(shape)) > 1 else shape for shape in dict.fromkeys(shapes))


def _trained(network: nn.Module) -> list[tuple[str, int, int]]:
    """Returns the trained parameters' names with `*` for numbers, each with the tensors and parameters it stands for."""
    found: dict[str, tuple[int, int]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            pattern = ".".join("*" if part.isdigit() else part for part in name.split("."))
            tensors, numbers = found.get(pattern, (0, 0))
            found[pattern] = tensors + 1, numbers + parameter.numel()
    return [(pattern, *counts) for pattern, counts in found.items()]


# --- memory and time -------------------------------------------------------------------------------------------------


def needs(job: Job, precision: Precision | None, gpus: Sequence[Device], here: torch.device | None) -> list[str]:
    """Returns the lines for one job.

    precision: that of a training on this machine. here: this machine's device, None to leave it out; matrix products are timed
    on it for a second.
    """
    lines = [f"a step on {job.batch} patches of {' x '.join(map(str, job.patch))}, {job.channels} channels"]
    if here is not None and precision is not None:
        found = job.need(precision.dtype)
        lines += ["", *_memory_here(job, found, precision, here), "", *_time_here(job, found, precision, here)]
    if gpus:
        lines += ["", *_gpus(job, gpus)]
    return lines


def _sizes(job: Job, found: Need, beside: dict[str, int] | None = None) -> list[str]:
    """Returns a line per kind of tensors in a step, with its size; beside: name -> bytes of what else is needed."""
    tensors = {
        "parameters and buffers": found.parameters,
        f"states of {job.training.optimizer}{' and the running mean' if job.training.ema else ''}": found.optimizer,
        "gradients": found.gradients,
        "activations, 16-bit copies, batch": found.activations,
    }
    return table([f"  {name}", f"{size / GIB:.2f} GiB"] for name, size in (tensors | (beside or {})).items())


def _memory_here(job: Job, found: Need, precision: Precision, here: torch.device) -> list[str]:
    if here.type == "cpu":
        total, beside, other = found.on_cpu, "beside torch and nnU-Net themselves", "allocator and kernels (allowance)"
        how = [f"  (allowance: {CPU_ALLOWANCE:.0%} of the activations; estimates for six trainings were {CPU_OFF})"]
    else:
        total, beside, other, how = found.on_gpu, "with CUDA itself", "allocator, cuDNN, CUDA (assumed)", []
    return [
        f"peak memory on this machine's {here.type}, {precision.name}: {total / GIB:.2f} GiB {beside}",
        *_sizes(job, found, {other: total - found.tensors}),
        "  (all at the peak; from fake tensors, nothing was allocated)",
        *how,
    ]


def _time_here(job: Job, found: Need, precision: Precision, here: torch.device) -> list[str]:
    speed = Speed.here(here, precision.dtype)
    step, epoch = job.seconds(found, speed)
    return [
        f"time on this machine's {here.type}: {_duration(step)} an iteration, {_duration(epoch)} an epoch",
        f"  {found.step_flops / 1e12:.2f} TFLOPs a step, at {speed.share:.0%} of {speed.rate / 1e9:,.0f} GFLOP/s, which a matrix",
        f"  product in {precision.name} reached here just now; it may be off by a factor of {UNCERTAIN:g} either way and does",
        "  not include waiting for data: nnvit_run.json has both after one epoch",
    ]


def _gpus(job: Job, gpus: Sequence[Device]) -> list[str]:
    rows, found = [["GPU", "memory", "needed", "", "precision", "an iteration", "an epoch"]], {}
    for gpu in gpus:
        precision = Precision.choose(job.training.precision, torch.device("cuda"), has_bf16=gpu.bf16)
        half = precision.dtype is not None  # which of the two kinds of 16 bits makes no difference to what is needed
        if half not in found:
            found[half] = job.need(precision.dtype)
        rows.append(_gpu_row(job, found[half], gpu, precision))
    return [
        *table(rows),
        f"  needed: tensors, {GPU_ALLOWANCE:.0%} for the allocator and cuDNN, {GPU_CONTEXT / GIB:g} GiB for CUDA;",
        f"  time: {gpus[0].speed(None).share:.0%} of the published dense rate, an assumption that may be off by a factor of "
        f"{UNCERTAIN:g} either way, and at least {LAUNCH * 1e6:.0f} µs for each operator;",
        "  *: that bound, for a network so small: faster GPUs do not help, larger batches do;",
        "  no figure of this table was measured on a GPU",
    ]


def _gpu_row(job: Job, found: Need, gpu: Device, precision: Precision) -> list[str]:
    step, epoch = job.seconds(found, gpu.speed(precision.dtype))
    return [
        gpu.name,
        f"{gpu.memory} GiB",
        f"{found.on_gpu / GIB:.1f} GiB",
        "fits" if found.on_gpu <= gpu.memory * GIB else "TOO MUCH",
        precision.name,
        _duration(step) + (" *" if step == LAUNCH * found.operators else ""),
        _duration(epoch),
    ]


def _duration(seconds: float) -> str:
    if seconds < 0.1:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
