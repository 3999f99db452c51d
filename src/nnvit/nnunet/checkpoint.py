"""Checkpoints in nnU-Net's own layout, written so that a kill never leaves half a file, and read safely."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import WeightsError
from ..weights.files import safe_load

NAMES = ("checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth")
"""In the order in which `--c` looks for them, as in nnU-Net."""


def write(path: Path, content: dict[str, Any]) -> None:
    """Writes to a file beside, flushes it to disk and renames it."""
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def find(fold: Path) -> Path | None:
    """The checkpoint that `--c` continues from, None where there is none."""
    return next((fold / name for name in NAMES if (fold / name).is_file()), None)


def read(path: Path) -> dict[str, Any]:
    """A checkpoint of nnvit or of stock nnU-Net. Raises WeightsError for anything else."""
    content = safe_load(path)
    if not isinstance(content, dict) or "network_weights" not in content:
        raise WeightsError(f"{path} is not an nnU-Net checkpoint: it holds no 'network_weights'.")
    return content


def transfer(network: nn.Module, path: Path) -> int:
    """Takes all weights but the last layer's from another nnU-Net checkpoint (`-pretrained_weights`).

    The last layer (`classifier`, `seg_layers` in nnU-Net's own networks) stays as it is. Returns the number of tensors
    taken. Raises WeightsError, with nothing taken, where any other tensor is missing, foreign or of another shape.
    """
    given = read(path)["network_weights"]
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
