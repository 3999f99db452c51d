"""Draws batches that depend only on the seed and on their place in the training, whatever the number of workers.

nnU-Net's own queue hands batches over as its workers finish them, each from a random stream of its own, so that no two trainings
see the same batches. torch's DataLoader keeps the order.
"""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from torch.utils.data import DataLoader, Dataset

from . import randomness, signals


class _Batches(Dataset):
    def __init__(self, loader: nnUNetDataLoader, stream: tuple[int, ...], per_epoch: int) -> None:
        self.loader, self.stream, self.per_epoch = loader, stream, per_epoch

    def __getitem__(self, index: int) -> dict[str, Any]:
        # One thread, as in a worker: the order of a sum is then the same in every process.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with randomness.apart(*self.stream, *divmod(index, self.per_epoch)):
                return self.loader.generate_train_batch()
        finally:
            torch.set_num_threads(threads)


@contextmanager
def without_workers() -> Iterator[None]:
    """Makes nnU-Net hand out its bare data loaders, instead of a queue that has begun to draw from them."""
    variable = "nnUNet_n_proc_DA"
    before = os.environ.get(variable)
    os.environ[variable] = "0"
    try:
        yield
    finally:
        os.environ.pop(variable)
        if before is not None:
            os.environ[variable] = before


def in_order(
    train: nnUNetDataLoader,
    val: nnUNetDataLoader,
    *,
    seed: int,
    rank: int,
    per_epoch: tuple[int, int],
    start: tuple[int, int],
    pin_memory: bool,
) -> tuple[Iterator[dict[str, Any]], Iterator[dict[str, Any]]]:
    """Returns endless iterators over nnU-Net's training and validation batches, from where the training stands.

    per_epoch: batches of an epoch; start: batches that are done; both for training and validation. Half as many workers validate,
    as in nnU-Net.
    """
    workers = get_allowed_n_proc_DA()
    counts = workers, min(workers, max(1, workers // 2))
    streams = []
    for part, loader in enumerate((train, val)):
        _blur_in_one_way(loader.transforms)
        batches: DataLoader = DataLoader(
            _Batches(loader, (seed, part, rank), per_epoch[part]),
            batch_size=None,
            sampler=itertools.count(start[part]),
            num_workers=counts[part],
            collate_fn=_unchanged,
            pin_memory=pin_memory,
            worker_init_fn=signals.ignore,  # a signal to the whole group ends the training, not its workers under it
            generator=torch.Generator(),  # or it would draw from the stream that the network draws from
        )
        streams.append(iter(batches))
    return streams[0], streams[1]


def close(*batches: Any) -> None:
    """Ends the workers of `in_order` or of nnU-Net's queue, a thread of which would raise when its workers exit."""
    for iterator in batches:
        for end in ("_shutdown_workers", "_finish"):
            getattr(iterator, end, lambda: None)()


def _unchanged(batch: Any) -> Any:
    return batch


def _blur_in_one_way(transform: BasicTransform) -> None:
    """Fixes direct convolution: nnU-Net times it against a Fourier transform, which differs in the last bits, in each process."""
    if isinstance(transform, GaussianBlurTransform):
        transform.benchmark = False
    for held in vars(transform).values():
        for inner in held if isinstance(held, list | tuple) else [held]:
            if isinstance(inner, BasicTransform):
                _blur_in_one_way(inner)
