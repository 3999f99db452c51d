"""What a network costs, from shapes alone: nothing is allocated and nothing is computed, so that ViT-7B fits anywhere.

The network is built on the meta device and run on fake tensors, which know shapes and storages but hold no numbers.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from nnvit.model.segmenter import Segmenter

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
    """Of one training step on a batch. FLOPs count a multiplication and an addition as two; the loss is left out."""

    parameters: int
    trainable: int
    batch: int
    forward_flops: int
    step_flops: int

    def line(self) -> str:
        """Parameters and FLOPs of one patch, as the headers of the shipped recipes have it."""
        forward, step = (short(flops / self.batch) for flops in (self.forward_flops, self.step_flops))
        return (
            f"{short(self.parameters)} parameters, {short(self.trainable)} trained; "
            f"{forward}FLOPs forward, {step}FLOPs with backward"
        )


def parts(build: Callable[[], nn.Module], image: Sequence[int]) -> tuple[list[Row], list[tuple[str, int, int]]]:
    """A row for each module of the network on images (B, C, H, W), and (pattern, tensors, parameters) of what is trained.

    build: makes a `Segmenter`; it is called on the meta device.
    """
    network = on_meta(build)
    assert isinstance(network, Segmenter)
    with FakeTensorMode():
        fake(network)
        return _rows(network, torch.empty(*image)), _trained(network)


def forward_flops(build: Callable[[], nn.Module], image: Sequence[int]) -> int:
    """FLOPs of any network's prediction of images (B, C, H, W) or (B, C, D, H, W); `build` is called on the meta device."""
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


def short(number: float) -> str:
    """Three digits and a unit: `312 M`, `1.74 T`."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size * 0.9995:
            value = number / size
            return f"{value:.{max(0, 3 - len(str(int(value))))}f} {unit}"
    return f"{number:.0f} "
