"""One epoch of a trainer: nnU-Net's iterations, timed, shown, and left at a signal with their place kept."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from . import screen

if TYPE_CHECKING:
    from .trainer import nnUNetTrainer_nnvit


def train(trainer: "nnUNetTrainer_nnvit") -> None:
    """The training iterations that are left of this epoch. Raises Interrupted after a signal."""
    trainer.on_train_epoch_start()
    watch, outputs = trainer.watch, trainer.outputs
    watch.restart()
    every, total = trainer.recipe.training.save_every_iterations, trainer.num_iterations_per_epoch
    advance = trainer.screen.phase(f"epoch {trainer.current_epoch + 1}/{trainer.num_epochs}", total, len(outputs))
    for done in range(len(outputs) + 1, total + 1):
        start = time.perf_counter()
        batch = _next(trainer, trainer.dataloader_train)
        if batch is None:
            raise trainer.interrupted()
        watch.begin(time.perf_counter() - start)
        outputs.append(trainer.train_step(batch))
        watch.end()
        advance(f"loss {outputs[-1]['loss']:.3f}")
        if every is not None and done % every == 0:
            trainer.save_latest()
    trainer.on_train_epoch_end(outputs)


def validate(trainer: "nnUNetTrainer_nnvit") -> None:
    """The pseudo Dice of this epoch. Raises Interrupted after a signal."""
    outputs: list[dict[str, Any]] = []
    advance = trainer.screen.phase("pseudo Dice", trainer.num_val_iterations_per_epoch)
    with torch.no_grad(), trainer.averaged():
        trainer.on_validation_epoch_start()
        while len(outputs) < trainer.num_val_iterations_per_epoch:
            batch = _next(trainer, trainer.dataloader_val)
            if batch is None:
                break
            outputs.append(trainer.validation_step(batch))
            advance("")
        else:
            trainer.on_validation_epoch_end(outputs)
            return
    raise trainer.interrupted()  # outside, where the network has its own weights again


def show(trainer: "nnUNetTrainer_nnvit") -> None:
    """One line for every reader, and the curves for those at a terminal."""
    value = trainer.logger.get_value
    starts, ends = value("epoch_start_timestamps", None), value("epoch_end_timestamps", None)
    epoch_seconds = float(np.median(np.subtract(ends, starts)))
    dice = " ".join(f"{d:.3f}" for d in value("dice_per_class_or_region", -1))
    pace = f"ETA {screen.duration(epoch_seconds * (trainer.num_epochs - trainer.current_epoch))}"
    seconds = trainer.watch.medians()
    if seconds:  # none where the epoch was interrupted between its last iteration and its validation
        total = sum(seconds.values())
        pace = f"{total:.2f} s/it ({seconds['data_wait'] / total:.0%} waiting for data)  {pace}"
    trainer.say(
        f"epoch {trainer.current_epoch}/{trainer.num_epochs}  loss {value('train_losses', -1):.4f}  "
        f"val {value('val_losses', -1):.4f}  pseudo Dice {value('mean_fg_dice', -1):.3f} [{dice}]  {pace}"
    )
    dice_of_epochs = value("dice_per_class_or_region", None)
    trainer.screen.epoch(value("train_losses", None), value("val_losses", None), dice_of_epochs, pace)


def _next(trainer: "nnUNetTrainer_nnvit", loader: Iterator[dict]) -> dict | None:
    """The next batch; None where a signal has come, which may have taken the workers with it."""
    if trainer.signal():
        return None
    try:
        return next(loader)
    except RuntimeError:
        if trainer.signal():
            return None
        raise
