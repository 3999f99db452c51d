"""When each tensor of a computation comes and goes, and so what is alive at once; run on fake tensors, nothing is allocated."""

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Scratch = Callable[[Any, Sequence[Any], Any], int]
"""(operator, its arguments, what it gave out) -> bytes that its kernel takes for itself meanwhile."""


@dataclass
class Life:
    """Of one storage, in numbers of operators: alive from `birth` to `death`, both included (None: to the end)."""

    size: int
    birth: int
    death: int | None = None


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What is alive while one operator runs. alive: bytes of what was computed; scratch: the operator's own beside it."""

    time: int
    alive: int
    scratch: int

    @property
    def total(self) -> int:
        """Bytes."""
        return self.alive + self.scratch


@dataclass
class _Record:
    lives: list[Life] = field(default_factory=list)
    alive: dict[int, Life] = field(default_factory=dict)
    scratch: dict[int, int] = field(default_factory=dict)
    events: list[tuple[int, int]] = field(default_factory=list)
    now: int = 0


class Timeline(TorchDispatchMode):
    """Notes the life of every storage that is computed within it; what was there before is not counted.

    scratch: what kernels take for themselves. A network that asks for a number (whether all are finite, say) is told that
    of ones, because fake tensors hold none.
    """

    def __init__(self, scratch: Scratch = lambda operator, arguments, out: 0) -> None:
        super().__init__()
        self._scratch, self._record = scratch, _Record()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return True if args[0].dtype is torch.bool else 1
        before = {tensor.untyped_storage()._cdata for tensor in _tensors((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        record = self._record
        record.now += 1
        for tensor in _tensors(out):
            storage = tensor.untyped_storage()
            if storage._cdata not in before and storage._cdata not in record.alive:
                life = Life(storage.nbytes(), record.now)
                record.events.append((id(life), life.size))
                record.lives.append(life)
                record.alive[storage._cdata] = life
                weakref.finalize(storage, partial(_end, record, storage._cdata)).atexit = False
        taken = record.scratch[record.now] = self._scratch(func, args, out)
        if taken:
            record.events += [(-record.now, taken), (-record.now, -1)]
        return out

    @property
    def now(self) -> int:
        """How many operators have run."""
        return self._record.now

    @property
    def events(self) -> list[tuple[int, int]]:
        """(name, bytes) as storages came, scratch among them, and (name, -1) as they went."""
        return self._record.events

    def alive_of(self, tensors: Iterable[Tensor]) -> list[Life]:
        """The lives of the storages of these tensors, each once, of those that were computed here."""
        keys = dict.fromkeys(tensor.untyped_storage()._cdata for tensor in tensors)
        return [self._record.alive[key] for key in keys if key in self._record.alive]

    def bytes_at(self, time: int, lives: Iterable[Life] | None = None) -> int:
        """Of all storages, or of some, that are alive while operator `time` runs."""
        chosen = self._record.lives if lives is None else lives
        return sum(life.size for life in chosen if life.birth <= time and (life.death is None or life.death >= time))

    def peak(self, start: int = 1, end: int | None = None) -> Moment:
        """The operator from `start` to `end` (the last one) that runs with the most memory."""
        last = self.now if end is None else end
        change = [0] * (self.now + 2)
        for life in self._record.lives:
            change[life.birth] += life.size
            change[self.now + 1 if life.death is None else life.death + 1] -= life.size
        alive = list(accumulate(change))
        time = max(range(start, last + 1), key=lambda t: alive[t] + self._record.scratch.get(t, 0))
        return Moment(time=time, alive=alive[time], scratch=self._record.scratch.get(time, 0))


def _end(record: _Record, key: int) -> None:
    life = record.alive.pop(key)
    life.death = record.now
    record.events.append((id(life), -1))


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
