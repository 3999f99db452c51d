"""Networks of fake tensors, and what is counted on them: FLOPs, and the lifetimes of a computation's tensors.

Fake tensors have shapes and storages but hold no numbers: nothing is allocated, nothing computed. Of FLOPs, a multiplication and
an addition are two.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count


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


def flop_counter() -> FlopCounterMode:
    """Returns torch's counter, with formulas for what torch 2.14 counts wrongly or not at all."""
    return FlopCounterMode(display=False, custom_mapping=_FORMULAS)


def forward_flops(build: Callable[[], nn.Module], image: Sequence[int]) -> int:
    """Returns the FLOPs of a prediction by the network that `build` makes, for images (B, C, H, W) or (B, C, D, H, W)."""
    with fake_network(build) as network, torch.no_grad(), flop_counter() as counter:
        network.eval()(torch.empty(*image))
    return counter.get_total_flops()


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


@dataclass
class _Lifetime:
    """One storage of `size` bytes, alive from operator `birth` to operator `death`, both included (None: to the end)."""

    size: int
    birth: int
    death: int | None = None


class TensorLifetimes(TorchDispatchMode):
    """Records the lifetime of every storage that is computed within it; storages made before it are not counted.

    A network that asks for a number (such as whether all values are finite) gets 1 or True, because fake tensors hold none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operators = 0
        self._lifetimes: list[_Lifetime] = []
        self._alive: dict[int, _Lifetime] = {}

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
                self._alive[key] = _Lifetime(storage.nbytes(), self.operators)
                self._lifetimes.append(self._alive[key])
                weakref.finalize(storage, self._end, key).atexit = False
        return out

    def _end(self, key: int) -> None:
        self._alive.pop(key).death = self.operators

    def peak(self) -> tuple[int, int]:
        """Returns the operator, counted from 1, that runs with the most memory, and the bytes alive then."""
        change = [0] * (self.operators + 2)
        for life in self._lifetimes:
            change[life.birth] += life.size
            change[self.operators + 1 if life.death is None else life.death + 1] -= life.size
        alive = list(accumulate(change))
        operator = max(range(1, self.operators + 1), key=alive.__getitem__)
        return operator, alive[operator]

    def bytes_at(self, operator: int, tensors: Iterable[Tensor]) -> int:
        """Returns the bytes that these tensors, which still exist, had alive while `operator` ran."""
        keys = {tensor.untyped_storage()._cdata for tensor in tensors}
        return sum(self._alive[key].size for key in keys if key in self._alive and self._alive[key].birth <= operator)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
