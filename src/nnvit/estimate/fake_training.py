"""The memory and FLOPs of a training, from whole steps on fake tensors: no device is needed and nothing is allocated."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from math import log2
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._pytree import tree_leaves

from nnvit.model import Segmenter, arch_kwargs
from nnvit.model.precision import Precision
from nnvit.model.training import WeightAverage, build_optimizer, prepare_for_training, training_step
from nnvit.recipe.schema import ModelConfig, Recipe, TrainingConfig

from .devices import GIB, Speed
from .fake_tensors import TensorLifetimes, fake_network, flop_counter

LEAST_BATCH = 2
"""Patches in a step: nnU-Net plans no fewer."""
CPU_ALLOWANCE = 0.5
"""Share of the activations that a CPU needs beside all tensors, for freed blocks that its allocator keeps and its kernels' own
memory. Both grow with what is made and freed in every step; parameters and the optimiser's states are allocated once. Chosen
for the six trainings of bench/results/estimate.json (commit c4bdb55, glibc): their estimates come to 0.83 to 1.16 of what was
measured there, and to 0.94 to 1.10 of what a second measurement gave."""
CPU_OFF = "from 17% too low to 16% too high"
"""How far off the estimates were with `CPU_ALLOWANCE`, against those recorded measurements."""
GPU_ALLOWANCE = 0.1
"""Share of all tensors that torch's caching allocator and cuDNN's workspaces take on a GPU beside them; an assumption."""
GPU_CONTEXT = GIB // 2
"""Bytes that CUDA, cuDNN and cuBLAS take before the first tensor; an assumption."""
_STEPS = 2
"""The first step makes the optimiser's states; the second is like all that follow."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """The needs of a training process: sizes in bytes at the moment of most memory, FLOPs and operators of one step.

    parameters: with buffers; optimizer: its states, and the running mean of the weights; gradients; activations: all other
    tensors, which are what the backward pass needs, copies in 16 bits, the batch and temporaries.
    """

    parameters: int
    optimizer: int
    gradients: int
    activations: int
    forward_flops: int
    step_flops: int
    operators: int

    @property
    def tensors(self) -> int:
        """Bytes of all tensors."""
        return self.parameters + self.optimizer + self.gradients + self.activations

    @property
    def on_cpu(self) -> int:
        """Bytes that become resident, above what the process holds before it makes the network."""
        return self.tensors + int(self.activations * CPU_ALLOWANCE)

    @property
    def on_gpu(self) -> int:
        """Bytes of a GPU's memory."""
        return int(self.tensors * (1 + GPU_ALLOWANCE)) + GPU_CONTEXT


@dataclass(frozen=True, kw_only=True)
class Job:
    """A network and how it is trained. build: makes the network, on the meta device; patch: pixels or voxels."""

    build: Callable[[], nn.Module]
    training: TrainingConfig
    channels: int
    patch: tuple[int, ...]
    batch: int

    @classmethod
    def of(cls, recipe: Recipe, *, channels: int, classes: int, patch: tuple[int, int], batch: int) -> "Job":
        """Returns the job of a recipe without a data set; its network must not be the base plans' own."""
        assert isinstance(recipe.model, ModelConfig)
        halvings = max(1, int(log2(min(patch) / 4)) - 1)
        arch = arch_kwargs(recipe, scales=[[0.5**i] * 2 for i in range(1, halvings)])
        return cls(
            build=lambda: Segmenter(channels, classes, deep_supervision="aux" in arch, **arch),
            training=recipe.training,
            channels=channels,
            patch=patch,
            batch=batch,
        )

    def need(self, dtype: torch.dtype | None) -> Need:
        """Returns what the job needs under autocast to `dtype` (None: fp32 throughout); both kinds of 16 bits need the same."""
        dtype = torch.bfloat16 if dtype else None

        def prepared() -> nn.Module:
            network = self.build()
            prepare_for_training(network, self.training, dtype)
            return network.train()

        with fake_network(prepared) as network:
            optimizer = build_optimizer(network, self.training)
            with TensorLifetimes() as lifetimes:
                average = WeightAverage(network, self.training.ema) if self.training.ema else None
                forward_flops, step_flops = _run_steps(network, self, dtype, optimizer, average)
        states = [s for state in optimizer.state.values() for s in state.values() if isinstance(s, Tensor)]
        if average is not None:
            states += average.mean.values()
        moment, computed = lifetimes.peak()
        held = lifetimes.bytes_at(moment, states)
        gradients = lifetimes.bytes_at(moment, [p.grad for p in network.parameters() if p.grad is not None])
        return Need(
            parameters=sum(t.numel() * t.element_size() for t in [*network.parameters(), *network.buffers()]),
            optimizer=held,
            gradients=gradients,
            activations=computed - held - gradients,
            forward_flops=forward_flops,
            step_flops=step_flops,
            operators=lifetimes.operators // _STEPS,
        )

    def largest_batch(self, budget: int, dtype: torch.dtype | None) -> tuple[int, int]:
        """Returns the most patches in a step that fit into `budget` bytes of a GPU, and the bytes they need; 0 if none fit.

        The bytes grow almost evenly with the batch, so that two sizes predict the third, which is then tried with its neighbours.
        """

        @cache
        def bytes_of(batch: int) -> int:
            return replace(self, batch=batch).need(dtype).on_gpu

        least = bytes_of(LEAST_BATCH)
        if least > budget:
            return 0, least
        slope = max(1.0, (bytes_of(2 * LEAST_BATCH) - least) / LEAST_BATCH)
        batch = max(LEAST_BATCH, int(LEAST_BATCH + (budget - least) / slope))
        while bytes_of(batch) > budget:
            batch -= 1
        while bytes_of(batch + 1) <= budget:
            batch += 1
        return batch, bytes_of(batch)

    def seconds(self, need: Need, speed: Speed) -> tuple[float, float]:
        """Returns the time of a training iteration, and of an epoch with its validation iterations.

        A forward pass is about a third of a step's operators.
        """
        step = speed.seconds(need.step_flops, need.operators)
        forward = speed.seconds(need.forward_flops, need.operators / 3)
        training = self.training
        return step, training.num_iterations_per_epoch * step + training.num_val_iterations_per_epoch * forward


def _run_steps(
    network: nn.Module,
    job: Job,
    dtype: torch.dtype | None,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
) -> tuple[int, int]:
    """Makes the trainer's steps; returns the FLOPs of the first one's forward pass, and of that whole step."""
    data, target = torch.zeros(job.batch, job.channels, *job.patch), torch.zeros(job.batch, *job.patch)
    precision = Precision(dtype=dtype, reason="estimate")
    counted: list[int] = []

    def step(mark: Callable[[], None]) -> None:
        training_step(
            network,
            lambda outputs, target: _loss(outputs, target, job.training),
            optimizer,
            data,
            target,
            autocast=precision.autocast(torch.device("cpu")),
            grad_clip=job.training.grad_clip,
            average=average,
            mark=mark,
        )

    with flop_counter() as counter:
        step(lambda: counted.append(counter.get_total_flops()))
    for _ in range(_STEPS - 1):
        step(lambda: None)
    return counted[0], counter.get_total_flops()


def _loss(outputs: Any, target: Tensor, training: TrainingConfig) -> Tensor:
    """Computes a loss with the tensors of nnU-Net's Dice and cross-entropy: logits, two softmaxes and the classes as maps.

    For a head's own loss it is the sum of all outputs.
    """
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
