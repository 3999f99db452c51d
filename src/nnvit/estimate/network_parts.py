"""A network's modules as a table: parameters, how many are trained, and the shapes of their outputs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils._pytree import tree_leaves

from nnvit.model.segmenter import Segmenter

from .fake_tensors import fake_network


@dataclass(frozen=True, kw_only=True)
class _NetworkPart:
    """One module. parameters, trainable: numbers of parameters; output: shapes as text; kind: the class."""

    name: str
    kind: str
    parameters: int
    trainable: int
    output: str


def network_parts(
    build: Callable[[], nn.Module], image: Sequence[int]
) -> tuple[list[_NetworkPart], list[tuple[str, int, int]]]:
    """Returns the network's modules, two levels deep, and (pattern, tensors, parameters) of what is trained.

    build: makes a `Segmenter`, on the meta device; image: (B, C, H, W), for the shapes of the outputs.
    """
    with fake_network(build) as network:
        assert isinstance(network, Segmenter)
        return _parts(network, torch.empty(*image)), _trained(network)


def _parts(network: Segmenter, image: Tensor) -> list[_NetworkPart]:
    shapes: dict[nn.Module, str] = {}
    network.deep_supervision = False  # as in a prediction
    noted = register_module_forward_hook(lambda module, _, output: shapes.__setitem__(module, _shape(output)))
    with torch.no_grad(), noted:
        network.eval()(image)
    return [
        _NetworkPart(
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
        if len(children) == 1:  # a wrapper: show what it wraps
            name, (_, inner) = f"{part}.{children[0][0]}", children[0]
            children = list(inner.named_children())
        yield from ((f"{name}.{child}", m) for child, m in children if any(True for _ in m.parameters()))


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
