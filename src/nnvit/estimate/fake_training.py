"""The memory and FLOPs of a training, from whole steps on fake tensors.

Fake tensors have shapes and storages but hold no numbers: no device is needed, nothing is allocated, nothing computed. Of FLOPs,
a multiplication and an addition are two.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import accumulate
from math import log2, prod
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from nnvit.model import Segmenter, arch_kwargs
from nnvit.model.precision import Precision
from nnvit.model.training import WeightAverage, build_optimizer, prepare_for_training, training_step
from nnvit.recipe.schema import ModelConfig, Recipe, TrainingConfig

from .devices import GIB, Speed

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
    """The needs of a training process: sizes in bytes at the peak of memory, FLOPs and operators of one step.

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
            with _TensorLifetimes() as lifetimes:
                average = WeightAverage(network, self.training.ema) if self.training.ema else None
                forward_flops, step_flops = self._run_steps(network, dtype, optimizer, average)
        states = _tensors([*optimizer.state.values(), average.mean if average else None])
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
        self, network: nn.Module, dtype: torch.dtype | None, optimizer: Optimizer, average: WeightAverage | None
    ) -> tuple[int, int]:
        """Makes the trainer's steps; returns the FLOPs of the first one's forward pass, and of that whole step."""
        step = partial(
            training_step,
            network,
            self._loss,
            optimizer,
            torch.zeros(self.batch, self.channels, *self.patch),
            torch.zeros(self.batch, *self.patch),
            autocast=Precision(dtype=dtype, reason="estimate").autocast(torch.device("cpu")),
            grad_clip=self.training.grad_clip,
            average=average,
        )
        counted: list[int] = []
        with _flop_counter() as counter:
            step(mark=lambda: counted.append(counter.get_total_flops()))
        for _ in range(_STEPS - 1):
            step(mark=lambda: None)
        return counted[0], counter.get_total_flops()

    def _loss(self, outputs: Any, target: Tensor) -> Tensor:
        """Computes a loss with the tensors of nnU-Net's Dice and cross-entropy: logits, two softmaxes and the classes as maps.

        For a head's own loss it is the sum of all outputs.
        """
        maps = [out for out in _tensors(outputs) if out.requires_grad]
        if self.training.loss == "native":
            return torch.stack([out.float().sum() for out in maps]).sum()
        total = maps[0].new_zeros(())
        for out in maps:
            shape = [out.shape[0], *out.shape[2:]]
            labels = target[tuple(slice(side) for side in shape)].long()
            classes = torch.zeros(out.shape, dtype=torch.bool).scatter_(1, labels[:, None], 1)
            total = total + cross_entropy(out, labels) - (torch.softmax(out, 1) * classes).sum()
        return total


@contextmanager
def fake_network(build: Callable[[], nn.Module]) -> Iterator[nn.Module]:
    """Yields the network that `build` makes, with fake CPU tensors, in fake tensor mode; even a ViT-7B fits anywhere.

    `build` is called on the meta device. Shapes, dtypes and `requires_grad` are kept.
    """
    with torch.device("meta"):
        network = build()
    with FakeTensorMode():
        for module in network.modules():  # `Module._apply` fails on those that nnU-Net's networks hold under two names
            for name, parameter in module.named_parameters(recurse=False):
                made = torch.empty(parameter.shape, dtype=parameter.dtype)
                module._parameters[name] = nn.Parameter(made, requires_grad=parameter.requires_grad)
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
        yield network


def _flop_counter() -> FlopCounterMode:
    """Returns torch's counter, with formulas for what torch 2.14 counts wrongly or not at all."""
    return FlopCounterMode(display=False, custom_mapping=_FORMULAS)


def forward_flops(build: Callable[[], nn.Module], image: Sequence[int]) -> int:
    """Returns the FLOPs of a prediction by the network that `build` makes, for images (B, C, H, W) or (B, C, D, H, W)."""
    with fake_network(build) as network, torch.no_grad(), _flop_counter() as counter:
        network.eval()(torch.empty(*image))
    return counter.get_total_flops()


# --- what is counted on fake tensors: FLOPs, and the lifetimes of a computation's tensors -----------------------------


def _convolution_backward(
    grad_out: Sequence[int], x: Sequence[int], w: Sequence[int], *rest: Any, out_shape: Any = None, **_: Any
) -> int:
    """Counts as many multiplications for each wanted gradient as the convolution took.

    torch's own formula leaves the groups out of the weight's gradient: it counts C times too much for depthwise ones.
    """
    transposed, output_mask = rest[4], rest[7]
    positions = prod((x if transposed else grad_out)[2:])
    return 2 * x[0] * positions * prod(w) * sum(output_mask[:2])


_FORMULAS: Any = {
    torch.ops.aten.convolution_backward: _convolution_backward,
    # the CPU's fused attention, which torch before 2.15 leaves out
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad_out, q, k, v, *_, **__: sdpa_backward_flop_count(grad_out, q, k, v)
    ),
}


class _TensorLifetimes(TorchDispatchMode):
    """Records the lifetime of every storage that is computed within it; storages made before it are not counted.

    A network that asks for a number (such as whether all values are finite) gets 1 or True, because fake tensors hold none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operators = 0
        self._alive: dict[int, tuple[int, int]] = {}  # storage -> its bytes, and the operator that made it
        self._change = Counter[int]()  # operator -> bytes made by it, less those that were freed after the one before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return True if args[0].dtype is torch.bool else 1
        before = {tensor.untyped_storage()._cdata for tensor in _tensors((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        self.operators += 1
        for tensor in _tensors(out):
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in before and key not in self._alive:
                self._alive[key] = storage.nbytes(), self.operators
                self._change[self.operators] += storage.nbytes()
                weakref.finalize(storage, self._end, key).atexit = False
        return out

    def _end(self, key: int) -> None:
        self._change[self.operators + 1] -= self._alive.pop(key)[0]

    def peak(self) -> tuple[int, int]:
        """Returns the operator, counted from 1, that runs with the most memory, and the bytes alive then."""
        alive = list(accumulate(self._change[operator] for operator in range(self.operators + 1)))
        operator = max(range(1, self.operators + 1), key=alive.__getitem__)
        return operator, alive[operator]

    def bytes_at(self, operator: int, tensors: Iterable[Tensor]) -> int:
        """Returns the bytes that these tensors, which still exist, had alive while `operator` ran."""
        found = (self._alive.get(key) for key in {tensor.untyped_storage()._cdata for tensor in tensors})
        return sum(size for size, birth in filter(None, found) if birth <= operator)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
