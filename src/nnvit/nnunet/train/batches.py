"""Batches that depend on the seed and on their place in the training alone, whatever the number of workers.

nnU-Net's own queue hands batches over as its workers finish them, each from a stream of its own, so that no two trainings see
the same ones. torch's DataLoader keeps the order.
"""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from torch.utils.data import DataLoader, Dataset

from . import randomness, signals

if TYPE_CHECKING:
    from .trainer import nnUNetTrainer_nnvit


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
    """Within it nnU-Net hands its data loaders out bare, rather than inside a queue that has begun to draw from them."""
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
    trainer: "nnUNetTrainer_nnvit", train: nnUNetDataLoader, val: nnUNetDataLoader
) -> tuple[Iterator[dict[str, Any]], Iterator[dict[str, Any]]]:
    """Endless iterators over nnU-Net's batches, from where the training stands; half as many workers validate, as in nnU-Net."""
    workers, epoch = get_allowed_n_proc_DA(), trainer.current_epoch
    count = trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch
    start = epoch * count[0] + len(trainer.outputs), epoch * count[1]
    return (
        _seeded(trainer, 0, train, count[0], start[0], workers),
        _seeded(trainer, 1, val, count[1], start[1], min(workers, max(1, workers // 2))),
    )


def _seeded(
    trainer: "nnUNetTrainer_nnvit", part: int, loader: nnUNetDataLoader, per_epoch: int, start: int, workers: int
) -> Iterator[dict[str, Any]]:
    seed = trainer.recipe.training.seed
    assert seed is not None
    _blur_in_one_way(loader.transforms)
    batches: DataLoader = DataLoader(
        _Batches(loader, (seed, part, trainer.local_rank), per_epoch),
        batch_size=None,
        sampler=itertools.count(start),
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=trainer.device.type == "cuda",
        worker_init_fn=signals.ignore,  # a signal to the whole group ends the training, not its workers under it
        generator=torch.Generator(),  # or it would draw from the stream that the network draws from
    )
    return iter(batches)


def close(*batches: Any) -> None:
    """Ends the workers, of `in_order` or nnU-Net's own; left alone, a thread of the latter would cry out at their death."""
    for iterator in batches:
        for end in ("_shutdown_workers", "_finish"):
            getattr(iterator, end, lambda: None)()


def _as_it_is(batch: Any) -> Any:
    return batch


def _blur_in_one_way(transform: BasicTransform) -> None:
    """Direct convolution: nnU-Net times it against a Fourier transform in every process, and the two differ in the last bits."""
    if isinstance(transform, GaussianBlurTransform):
        transform.benchmark = False
    for held in vars(transform).values():
        for inner in held if isinstance(held, list | tuple) else [held]:
            if isinstance(inner, BasicTransform):
                _blur_in_one_way(inner)
