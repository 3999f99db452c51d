"""Checkpoints in nnU-Net's own layout, written so that a kill never leaves half a file, and read safely."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from nnvit.errors import WeightsError
from nnvit.weights import safe_load
from nnvit.weights.external import filled

from .train import randomness

if TYPE_CHECKING:
    from .train.trainer import nnUNetTrainer_nnvit

NAMES = ("checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth")
"""In the order in which `--c` looks for them, as in nnU-Net."""


def content_of(trainer: "nnUNetTrainer_nnvit", epoch: int, losses: list[dict[str, Any]]) -> dict[str, Any]:
    """nnU-Net's content, under the name of the stock trainer, which builds the same network from the plans.

    epoch: the one to go on with; losses: of the iterations that are done in it. With a running mean of the weights,
    `network_weights` holds it, because it is what is predicted with; the trained values stand beside it, to go on from.
    """
    logging = {key: values[:epoch] for key, values in trainer.logger.get_checkpoint().items()}
    weights, scaler, average = trainer.bare_network.state_dict(), trainer.grad_scaler, trainer.average
    return {
        "network_weights": trainer.frozen.left_out(weights if average is None else weights | average.mean),
        "optimizer_state": trainer.optimizer.state_dict(),
        "grad_scaler_state": scaler.state_dict() if scaler is not None else None,
        "logging": logging,
        "_best_ema": trainer._best_ema,
        "current_epoch": epoch,
        "init_args": trainer.my_init_kwargs,
        "trainer_name": nnUNetTrainer.__name__,
        "inference_allowed_mirroring_axes": trainer.inference_allowed_mirroring_axes,
        "nnvit": {
            "hash": trainer.block["hash"],
            "trainer": type(trainer).__name__,
            "weights": trainer.manifest.weights,
            "reference": trainer.frozen.described(),
            "trained": average.trained() if average is not None else None,
            "losses": torch.from_numpy(np.stack([output["loss"] for output in losses])) if losses else None,
            "random": randomness.states(trainer.device),
        },
    }


def restore(trainer: "nnUNetTrainer_nnvit", content: dict[str, Any]) -> None:
    """Puts an initialised trainer where a checkpoint of its own left off; the random streams are restored as training starts."""
    ours = content["nnvit"]
    losses = ours.get("losses")  # older checkpoints were written between epochs, and without random streams
    trainer.outputs = [] if losses is None else [{"loss": np.asarray(loss)} for loss in losses.numpy()]
    trainer.random_states = ours.get("random")
    trainer.bare_network.load_state_dict(content["network_weights"])
    trainer.frozen.resume(content["network_weights"])
    if trainer.average is not None:
        updates = content["current_epoch"] * trainer.num_iterations_per_epoch + len(trainer.outputs)
        trainer.average.restore(ours["trained"], updates)
    trainer.optimizer.load_state_dict(content["optimizer_state"])
    if trainer.grad_scaler is not None and content["grad_scaler_state"] is not None:
        trainer.grad_scaler.load_state_dict(content["grad_scaler_state"])
    trainer.my_init_kwargs = content["init_args"]
    trainer.current_epoch = content["current_epoch"]
    trainer.logger.load_checkpoint(content["logging"])
    trainer._best_ema = content["_best_ema"]
    trainer.inference_allowed_mirroring_axes = content["inference_allowed_mirroring_axes"]
    trainer.manifest.weights = ours["weights"]


def write(path: Path, content: dict[str, Any]) -> None:
    """Writes to a file beside, flushes it to disk and renames it."""
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def sweep(fold: Path) -> None:
    """Removes what `write` left half done in a process that was killed."""
    for partial in fold.glob(".checkpoint_*.pth.partial"):
        partial.unlink()


def find(fold: Path) -> Path | None:
    """The checkpoint that `--c` continues from, None where there is none."""
    return next((fold / name for name in NAMES if (fold / name).is_file()), None)


def read(path: Path) -> dict[str, Any]:
    """A checkpoint of nnvit or of stock nnU-Net. Raises WeightsError for anything else."""
    content = safe_load(path)
    if not isinstance(content, dict) or not isinstance(content.get("network_weights"), dict):
        raise WeightsError(f"{path} is not an nnU-Net checkpoint: it holds no 'network_weights' of names and tensors.")
    return content


def transfer(network: nn.Module, path: Path) -> int:
    """Takes all weights but the last layer's from another nnU-Net checkpoint (`-pretrained_weights`).

    The last layer (`classifier`, `seg_layers` in nnU-Net's own networks) stays as it is. Returns the number of tensors
    taken. Raises WeightsError, with nothing taken, where any other tensor is missing, foreign or of another shape, or where
    the checkpoint refers to a file that is not here.
    """
    given = filled(read(path)["network_weights"])
    own = network.state_dict()
    wanted = {name for name in own if not _is_last_layer(name)}
    missing = sorted(wanted - given.keys())
    foreign = sorted(name for name in given.keys() - own.keys() if not _is_last_layer(name))
    misshapen = sorted(name for name in wanted & given.keys() if given[name].shape != own[name].shape)
    if missing or foreign or misshapen:
        raise WeightsError(
            f"{path} was trained with another network: {len(missing)} tensors are missing {missing[:3]}, "
            f"{len(foreign)} foreign {foreign[:3]}, {len(misshapen)} of another shape {misshapen[:3]}, of {len(wanted)}. "
            "-pretrained_weights takes a checkpoint of the same plans' network; a bare backbone goes to model.weights=PATH."
        )
    network.load_state_dict(own | {name: given[name] for name in wanted})
    return len(wanted)


def _is_last_layer(name: str) -> bool:
    return ".seg_layers." in name or name.startswith(("head.classifier.", "refine.classifier.", "auxiliary."))
