"""Checkpoint files in nnU-Net's own layout, written atomically and read safely."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nnvit.errors import WeightsError
from nnvit.weights import safe_load
from nnvit.weights.external import filled

NAMES = ("checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth")
"""File names in the order in which `--c` looks for them, the same as in nnU-Net."""

FINAL = NAMES[0]


def write(path: Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint atomically (temporary file, fsync, rename)."""
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def sweep(fold: Path) -> None:
    """Removes temporary files left by a process that was killed while writing."""
    for partial in fold.glob(".checkpoint_*.pth.partial"):
        partial.unlink()


def find(fold: Path) -> Path | None:
    """Returns the checkpoint that `--c` continues from, or None."""
    return next((fold / name for name in NAMES if (fold / name).is_file()), None)


def read(path: Path) -> dict[str, Any]:
    """Reads a checkpoint of nnvit or of stock nnU-Net. Raises WeightsError for anything else."""
    content = safe_load(path)
    if not isinstance(content, dict) or not isinstance(content.get("network_weights"), dict):
        raise WeightsError(f"{path} is not an nnU-Net checkpoint: it holds no 'network_weights' of names and tensors.")
    return content


def transfer(network: nn.Module, path: Path) -> int:
    """Copies all weights except the last layer's from another nnU-Net checkpoint (`-pretrained_weights`).

    The last layer (`classifier`; `seg_layers` in nnU-Net's own networks) is left unchanged. Returns the number of tensors
    copied. Raises WeightsError, and copies nothing, if any other tensor is missing, unexpected or of another shape, or if the
    checkpoint refers to a weights file that is missing on this machine.
    """
    given = filled(read(path)["network_weights"])
    own = network.state_dict()
    wanted = {name for name in own if not _is_last_layer(name)}
    missing = sorted(wanted - given.keys())
    unexpected = sorted(name for name in given.keys() - own.keys() if not _is_last_layer(name))
    misshapen = sorted(name for name in wanted & given.keys() if given[name].shape != own[name].shape)
    if missing or unexpected or misshapen:
        raise WeightsError(
            f"{path} was trained with another network: of {len(wanted)} tensors, {len(missing)} are missing {missing[:3]}, "
            f"{len(unexpected)} unexpected {unexpected[:3]}, {len(misshapen)} of another shape {misshapen[:3]}. "
            "-pretrained_weights needs a checkpoint of the same plans' network; give a bare backbone as model.weights=PATH."
        )
    network.load_state_dict(own | {name: given[name] for name in wanted})
    return len(wanted)


def _is_last_layer(name: str) -> bool:
    return ".seg_layers." in name or name.startswith(("head.classifier.", "refine.classifier.", "auxiliary."))
