"""What a network costs, from shapes alone: nothing is allocated and nothing is computed, so that ViT-7B fits anywhere.

The network is built on the meta device and run on fake tensors, which know shapes and storages but hold no numbers.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import prod
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from .model.segmenter import Segmenter
from .schema import TrainingConfig

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One module of a network: how many parameters it holds and trains, and the shapes that it gives out."""

    name: str
    kind: str
    parameters: int
    trainable: int
    output: str


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one training step on a batch. Sizes in bytes; FLOPs count a multiplication and an addition as two.

    optimizer_bytes: its states and the running mean of the weights. The loss is left out, and so is what kernels and the
    allocator need for themselves.
    """

    parameters: int
    trainable: int
    batch: int
    forward_flops: int
    step_flops: int
    parameter_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    activation_bytes: int
    precision: str

    @property
    def total_bytes(self) -> int:
        """Parameters, gradients, optimiser states and activations together."""
        return self.parameter_bytes + self.gradient_bytes + self.optimizer_bytes + self.activation_bytes

    def line(self) -> str:
        """Parameters and FLOPs of one patch, as the headers of the shipped recipes have it."""
        forward, step = (short(flops / self.batch) for flops in (self.forward_flops, self.step_flops))
        return (
            f"{short(self.parameters)} parameters, {short(self.trainable)} trained; "
            f"{forward}FLOPs forward, {step}FLOPs with backward"
        )


def measure(
    build: Callable[[], Segmenter], image: Sequence[int], training: TrainingConfig
) -> tuple[Cost, list[Row], list[tuple[str, int, int]]]:
    """The cost of a training step on images (B, C, H, W), a row per module, and (pattern, tensors, parameters) trained.

    build: makes the network; it is called on the meta device.
    """
    network = on_meta(build)
    if training.grad_checkpointing:
        network.backbone.set_grad_checkpointing(True)
    with FakeTensorMode():
        fake(network)
        rows = _rows(network, torch.empty(*image))
        cost = _step(network, torch.empty(*image), training)
    return cost, rows, _trained(network)


def forward_flops(build: Callable[[], nn.Module], image: Sequence[int]) -> int:
    """FLOPs of any network's prediction of images (B, C, H, W) or (B, C, D, H, W); `build` as for `measure`."""
    network = on_meta(build).eval()
    with FakeTensorMode(), torch.no_grad(), FlopCounterMode(display=False, custom_mapping=FORMULAS) as flops:
        fake(network)
        network(torch.empty(*image))
    return flops.get_total_flops()


def on_meta(build: Callable[[], Network]) -> Network:
    """The network with shapes alone."""
    with torch.device("meta"):
        return build()


def fake(network: nn.Module) -> None:
    """Within a FakeTensorMode: its tensors become fake ones of the CPU, and keep shape, type and whether they are trained."""
    for module in network.modules():  # `Module._apply` trips over those that nnU-Net's networks hold twice
        for name, parameter in module.named_parameters(recurse=False):
            made = torch.empty(parameter.shape, dtype=parameter.dtype)
            module._parameters[name] = nn.Parameter(made, requires_grad=parameter.requires_grad)
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


class _Alive(TorchDispatchMode):
    """Notes the storage of every tensor that is computed.

    A network that asks for a number (whether all are finite, say) is told that of ones, because fake tensors hold none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return True if args[0].dtype is torch.bool else 1
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.storages[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return out

    def bytes_beside(self, tensors: Sequence[Tensor]) -> int:
        """Of the storages that still live, without those of `tensors`."""
        own = {tensor.untyped_storage()._cdata for tensor in tensors}
        return sum(
            size for key, (reference, size) in self.storages.items() if key not in own and not reference.expired()
        )


def _convolution_backward(
    grad_out: Sequence[int], x: Sequence[int], w: Sequence[int], *rest: Any, out_shape: Any = None, **_: Any
) -> int:
    """Each wanted gradient takes as many multiplications as the convolution did.

    torch's own formula leaves the groups out of the weight's gradient: depthwise convolutions cost it C times too much.
    """
    transposed, output_mask = rest[4], rest[7]
    positions = prod((x if transposed else grad_out)[2:])
    return 2 * x[0] * positions * prod(w) * sum(output_mask[:2])


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    """The CPU's fused attention, which torch before 2.15 passes over."""
    return sdpa_flop_count(query, key, value)


def _attention_backward(
    grad_out: Sequence[int], query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any
) -> int:
    return sdpa_backward_flop_count(grad_out, query, key, value)


FORMULAS: Any = {
    torch.ops.aten.convolution_backward: _convolution_backward,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


def _step(network: Segmenter, image: Tensor, training: TrainingConfig) -> Cost:
    """One forward and backward pass of `network`, whose tensors are fake."""
    network.train()
    own = [*network.parameters(), *network.buffers(), image]
    name, autocast = _precision(training.precision)
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as flops, _Alive() as alive:
        with autocast:
            outputs = [out for out in tree_leaves(network(image)) if isinstance(out, Tensor) and out.requires_grad]
        forward, activations = flops.get_total_flops(), alive.bytes_beside(own)
        torch.autograd.backward(outputs, [torch.ones_like(out) for out in outputs])
    trainable = [p for p in network.parameters() if p.requires_grad]
    gradients = _bytes(trainable)
    copies = {"adamw": 2, "sgd": bool(training.momentum)}[training.optimizer] + bool(training.ema)
    return Cost(
        parameters=sum(p.numel() for p in network.parameters()),
        trainable=sum(p.numel() for p in trainable),
        batch=image.shape[0],
        forward_flops=forward,
        step_flops=flops.get_total_flops(),
        parameter_bytes=_bytes([*network.parameters(), *network.buffers()]),
        gradient_bytes=gradients,
        optimizer_bytes=copies * gradients,
        activation_bytes=activations,
        precision=name,
    )


def _precision(wanted: str) -> tuple[str, AbstractContextManager[object]]:
    """Its name, and the autocast that has its shapes; 16 bits are the same memory on every device."""
    if wanted == "fp32":
        return "fp32", nullcontext()
    name = {"auto": "bf16 autocast (auto, where the device has it)", "stock": "fp16 autocast (stock, on CUDA)"}
    return name.get(wanted, f"{wanted} autocast"), torch.autocast("cpu", dtype=torch.bfloat16)


def _rows(network: Segmenter, image: Tensor) -> list[Row]:
    """A row for each part of the network and for each module right below it, with the shapes of one forward pass."""
    shapes: dict[nn.Module, str] = {}
    handles = [
        module.register_forward_hook(lambda module, _, output: shapes.__setitem__(module, _shape(output)))
        for module in network.modules()
    ]
    supervised, network.deep_supervision = network.deep_supervision, False  # as at prediction
    with torch.no_grad():
        network.eval()(image)
    network.deep_supervision = supervised
    for handle in handles:
        handle.remove()
    return [
        Row(
            name=name,
            kind=_kind(module),
            parameters=sum(p.numel() for p in module.parameters()),
            trainable=sum(p.numel() for p in module.parameters() if p.requires_grad),
            output=shapes.get(module) or shapes.get(_last(module), ""),
        )
        for name, module in _two_levels(network)
    ]


def _two_levels(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for part, module in network.named_children():
        yield part, module
        name = part
        children = list(module.named_children())
        if len(children) == 1:  # a wrapper: what it wraps says more
            name, (_, inner) = f"{part}.{children[0][0]}", children[0]
            children = list(inner.named_children())
        yield from ((f"{name}.{child}", m) for child, m in children if any(True for _ in m.parameters()))


def _last(module: nn.Module) -> nn.Module:
    """Lists of modules are rarely called; what their last one gives out stands for them."""
    children = list(module.children())
    return children[-1] if isinstance(module, nn.ModuleList | nn.Sequential) and children else module


def _kind(module: nn.Module) -> str:
    kinds = {type(child).__name__ for child in module.children()}
    if isinstance(module, nn.ModuleList | nn.Sequential) and len(kinds) == 1:
        return f"{len(module)} x {kinds.pop()}"
    return type(module).__name__


def _shape(output: Any) -> str:
    """`2x256x128x128`, several joined, equal ones counted."""
    shapes = ["x".join(map(str, leaf.shape)) for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    return ", ".join(f"{n} of {shape}" if (n := shapes.count(shape)) > 1 else shape for shape in dict.fromkeys(shapes))


def _trained(network: nn.Module) -> list[tuple[str, int, int]]:
    """Names of trained parameters with `*` for their numbers, each with how many tensors and parameters it stands for."""
    found: dict[str, tuple[int, int]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            pattern = ".".join("*" if part.isdigit() else part for part in name.split("."))
            tensors, numbers = found.get(pattern, (0, 0))
            found[pattern] = tensors + 1, numbers + parameter.numel()
    return [(pattern, *counts) for pattern, counts in found.items()]


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def short(number: float) -> str:
    """Three digits and a unit: `312 M`, `1.74 T`."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size * 0.9995:
            value = number / size
            return f"{value:.{max(0, 3 - len(str(int(value))))}f} {unit}"
    return f"{number:.0f} "
