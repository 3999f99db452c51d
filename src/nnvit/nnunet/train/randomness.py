"""Everything random in a training: its streams, and batches that depend only on the seed and on their place in it.

nnU-Net's own queue hands batches over as its workers finish them, each from a random stream of its own, so that no two trainings
see the same batches. torch's DataLoader keeps the order, whatever the number of workers.
"""

import itertools
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from torch.utils.data import DataLoader, Dataset

from .iterations import Signals


class RandomStreams:
    """The random streams that a training draws from: Python's, numpy's and torch's.

    seed: None leaves the streams alone; device: a GPU has a stream of its own.
    """

    def __init__(self, seed: int | None, device: torch.device) -> None:
        self.seed, self.device = seed, device

    def start(self, *place: int) -> None:
        """Starts all streams from the seed and a place in the training, those of the devices included."""
        if self.seed is not None:
            torch.manual_seed(_seed_on_the_cpu(self.seed, *place))

    def states(self) -> dict[str, Any]:
        """Returns the states of all streams, in types that `torch.load(weights_only=True)` accepts."""
        name, keys, *rest = np.random.get_state()
        return {
            "python": random.getstate(),
            "numpy": (name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def restore(self, held: dict[str, Any]) -> None:
        """Restores what `states` returned; a GPU's stream only if there was a GPU then and is one now."""
        random.setstate(held["python"])
        name, keys, *rest = held["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
        torch.set_rng_state(held["torch"])
        if held["cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(held["cuda"], self.device)

    def batches(
        self,
        dataloaders: Callable[[], tuple[Any, Any]],
        *,
        rank: int,
        per_epoch: tuple[int, int],
        start: tuple[int, int],
    ) -> tuple[Iterator[dict[str, Any]], Iterator[dict[str, Any]]]:
        """Returns endless iterators over nnU-Net's training and validation batches, from where the training stands.

        dataloaders: nnU-Net's `get_dataloaders`; per_epoch: batches of an epoch; start: batches that are done; both for training
        and validation. Half as many workers validate, as in nnU-Net.
        """
        assert self.seed is not None
        workers = get_allowed_n_proc_DA()
        counts = workers, min(workers, max(1, workers // 2))
        with _without_workers():
            queues = dataloaders()
        streams = []
        for part, loader in enumerate(stock.data_loader for stock in queues):
            _blur_in_one_way(loader.transforms)
            queue: DataLoader = DataLoader(
                _Batches(loader, (self.seed, part, rank), per_epoch[part]),
                batch_size=None,
                sampler=itertools.count(start[part]),
                num_workers=counts[part],
                pin_memory=self.device.type == "cuda",
                worker_init_fn=Signals.ignore,  # a signal to the whole group ends the training, not its workers under it
                generator=torch.Generator(),  # or it would draw from the stream that the network draws from
            )
            streams.append(iter(queue))
        return streams[0], streams[1]


def _seed_on_the_cpu(*place: int) -> int:
    state = int(np.random.SeedSequence(place).generate_state(1)[0])
    random.seed(state)
    np.random.seed(state)
    torch.default_generator.manual_seed(state)
    return state


class _Batches(Dataset):
    """The batches of a data loader, each from a stream of its own. place: the seed, and what tells the loader from others."""

    def __init__(self, loader: nnUNetDataLoader, place: tuple[int, ...], per_epoch: int) -> None:
        self.loader, self.place, self.per_epoch = loader, place, per_epoch
        self.streams = RandomStreams(None, torch.device("cpu"))

    def __getitem__(self, index: int) -> dict[str, Any]:
        held, threads = self.streams.states(), torch.get_num_threads()
        _seed_on_the_cpu(*self.place, *divmod(index, self.per_epoch))
        torch.set_num_threads(1)  # as in a worker: the order of a sum is then the same in every process
        try:
            return self.loader.generate_train_batch()
        finally:
            torch.set_num_threads(threads)
            self.streams.restore(held)


@contextmanager
def _without_workers() -> Iterator[None]:
    """Makes nnU-Net hand out its bare data loaders, instead of a queue that has begun to draw from them."""
    variable = "nnUNet_n_proc_DA"
    before = os.environ.pop(variable, None)
    os.environ[variable] = "0"
    try:
        yield
    finally:
        del os.environ[variable]
        if before is not None:
            os.environ[variable] = before


def _blur_in_one_way(transform: BasicTransform) -> None:
    """Fixes direct convolution: nnU-Net times it against a Fourier transform, which differs in the last bits, in each process."""
    if isinstance(transform, GaussianBlurTransform):
        transform.benchmark = False
    for held in vars(transform).values():
        for inner in held if isinstance(held, list | tuple) else [held]:
            if isinstance(inner, BasicTransform):
                _blur_in_one_way(inner)
