"""The lifetimes of a computation's tensors, and so the bytes that are alive at once."""

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


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
