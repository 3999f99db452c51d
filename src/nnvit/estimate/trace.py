"""What a training will take, before there is a device to try it on: a whole step on fake tensors, memory followed throughout."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from math import log2
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from nnvit.model.arch_kwargs import arch_kwargs
from nnvit.model.optimizer import WeightAverage, build_optimizer
from nnvit.model.preparation import keep_frozen_in
from nnvit.model.segmenter import Segmenter
from nnvit.recipe.schema import ModelConfig, Recipe, TrainingConfig

from . import heap
from .flops import FORMULAS, fake, on_meta
from .kernels import scratch
from .timeline import Timeline

GIB = 2**30
STEPS = 3
"""The first makes the optimiser's states, the second is like all that follow; a heap's holes come to rest with the third."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A network and how it is trained. build: makes the network, on the meta device; patch: pixels or voxels."""

    build: Callable[[], nn.Module]
    training: TrainingConfig
    channels: int
    patch: tuple[int, ...]
    batch: int


@dataclass(frozen=True, kw_only=True)
class Need:
    """Of one training process. Sizes in bytes, at the moment when they come to the most; FLOPs and operators of one step.

    alive: all tensors together; of these parameters (and buffers), optimizer (its states, and the running mean), gradients;
    activations is the rest: what the backward pass needs, copies in 16 bits, the batch, temporaries. kernels: what the
    operator of that moment takes for itself on a CPU. holes: what glibc's malloc holds beyond it.
    """

    parameters: int
    optimizer: int
    gradients: int
    activations: int
    kernels: int
    holes: int
    forward_flops: int
    step_flops: int
    operators: int

    @property
    def alive(self) -> int:
        """Bytes of tensors."""
        return self.parameters + self.optimizer + self.gradients + self.activations

    @property
    def on_cpu(self) -> int:
        """Bytes that become resident, above what the process holds before it makes the network."""
        return self.alive + self.kernels + self.holes


def job_of(recipe: Recipe, *, channels: int, classes: int, patch: tuple[int, int], batch: int) -> Job:
    """Of a recipe whose network is not the base plans' own, without a data set."""
    assert isinstance(recipe.model, ModelConfig)
    halvings = max(1, int(log2(min(patch) / 4)) - 1)
    arch = arch_kwargs(recipe, scales=[[0.5**i] * 2 for i in range(1, halvings)])
    return Job(
        build=lambda: Segmenter(channels, classes, deep_supervision="aux" in arch, **arch),
        training=recipe.training,
        channels=channels,
        patch=patch,
        batch=batch,
    )


def need(job: Job, dtype: torch.dtype | None, steps: int = STEPS) -> Need:
    """What the job takes under autocast to `dtype` (None: fp32 throughout); a GPU's memory needs no more than two steps."""
    network, built = _network(job, dtype)
    with FakeTensorMode():
        fake(network)
        optimizer = build_optimizer(network, job.training)
        with Timeline(scratch) as line:
            average = WeightAverage(network, job.training.ema) if job.training.ema else None
            forward_flops, step_flops = run_steps(network, job, dtype, optimizer, average, steps)
    trained = [p for p in network.parameters() if p.requires_grad]
    states = [s for state in optimizer.state.values() for s in state.values() if isinstance(s, Tensor)]
    if average is not None:
        states += average.mean.values()
    moment = line.peak()
    parameters = _bytes([*network.parameters(), *network.buffers()])
    held = line.bytes_at(moment.time, line.alive_of(states))
    gradients = line.bytes_at(moment.time, line.alive_of([p.grad for p in trained if p.grad is not None]))
    return Need(
        parameters=parameters,
        optimizer=held,
        gradients=gradients,
        activations=moment.alive - held - gradients,
        kernels=moment.scratch,
        holes=max(0, heap.peak([*built, *line.events]) - parameters - moment.total),
        forward_flops=forward_flops,
        step_flops=step_flops,
        operators=line.now // steps,
    )


def _network(job: Job, dtype: torch.dtype | None) -> tuple[nn.Module, list[tuple[int, int]]]:
    """As the trainer prepares it, with the allocations that this takes: frozen layers come in fp32 and are then cast."""
    network, training = on_meta(job.build), job.training
    first = [(id(module), name, _bytes([tensor])) for module, name, tensor in _tensors(network)]
    backbone: Any = getattr(network, "backbone", None)
    if backbone is not None and training.drop_path:
        backbone.set_drop_path(training.drop_path)
    if backbone is not None and training.grad_checkpointing:
        backbone.set_grad_checkpointing(True)
    if isinstance(network, Segmenter) and dtype is not None:
        keep_frozen_in(network, torch.bfloat16)  # `_autocast`'s kind of 16 bits, whichever the trainer takes
    events = [(_name(module, name, 0), size) for module, name, size in first]
    for module, name, tensor in _tensors(network):
        before = _name(id(module), name, 0)
        if (before, _bytes([tensor])) not in events:
            events += [(_name(id(module), name, 1), _bytes([tensor])), (before, -1)]
    return network.train(), events


def run_steps(
    network: nn.Module,
    job: Job,
    dtype: torch.dtype | None,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
    steps: int,
) -> tuple[int, int]:
    """The trainer's steps; FLOPs of the forward pass and of the whole step."""
    image, target = torch.zeros(job.batch, job.channels, *job.patch), torch.zeros(job.batch, *job.patch)
    forward_flops = step_flops = 0
    for step in range(steps):
        counter = FlopCounterMode(display=False, custom_mapping=FORMULAS) if step == 0 else None
        with counter or nullcontext():
            optimizer.zero_grad(set_to_none=True)
            with _autocast(dtype):
                loss = _loss(network(image), target, job.training)
            forward_flops = forward_flops or counter.get_total_flops()  # type: ignore[union-attr]
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), job.training.grad_clip)
            optimizer.step()
            if average is not None:
                average.update()
            del loss
        step_flops = step_flops or counter.get_total_flops()  # type: ignore[union-attr]
    return forward_flops, step_flops


def _loss(outputs: Any, target: Tensor, training: TrainingConfig) -> Tensor:
    """Keeps as much as nnU-Net's Dice and cross-entropy do: logits, two softmaxes and the classes as maps; natively, a sum."""
    maps = [out for out in tree_leaves(outputs) if isinstance(out, Tensor) and out.requires_grad]
    if training.loss == "native":
        return torch.stack([out.float().sum() for out in maps]).sum()
    total = maps[0].new_zeros(())
    for out in maps:
        shape = [out.shape[0], *out.shape[2:]]
        labels = target[tuple(slice(side) for side in shape)].long()
        classes = torch.zeros(out.shape, dtype=torch.bool).scatter_(1, labels[:, None], 1)
        total = total + cross_entropy(out, labels) - (torch.softmax(out, 1) * classes).sum()
    return total


def _autocast(dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """16 bits are the same memory in either of the two kinds."""
    return torch.autocast("cpu", dtype=torch.bfloat16) if dtype else nullcontext()


def _tensors(network: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    for module in network.modules():
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            yield module, name, tensor


def _name(module: int, name: str, cast: int) -> int:
    return hash((module, name, cast))


def _bytes(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


# --- the largest batch -------------------------------------------------------------------------------------------------


def largest_batch(job: Job, budget: int, dtype: torch.dtype | None, taken: Callable[[Need], int]) -> tuple[int, int]:
    """The most patches in a step whose `taken` bytes stay within `budget`, and those bytes; 0 where `LEAST` are too many.

    The bytes grow almost evenly with the batch, so that two sizes give the third, which is then tried, and its neighbours.
    """
    known: dict[int, int] = {}

    def bytes_of(batch: int) -> int:
        if batch not in known:
            known[batch] = taken(need(replace(job, batch=batch), dtype, steps=2))
        return known[batch]

    if bytes_of(LEAST) > budget:
        return 0, known[LEAST]
    slope = max(1.0, (bytes_of(2 * LEAST) - known[LEAST]) / LEAST)
    batch = max(LEAST, int(LEAST + (budget - known[LEAST]) / slope))
    while bytes_of(batch) > budget:
        batch -= 1
    while bytes_of(batch + 1) <= budget:
        batch += 1
    return batch, known[batch]


LEAST = 2
"""Patches in a step: nnU-Net plans no fewer."""
