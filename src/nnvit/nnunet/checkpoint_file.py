"""Checkpoint files in nnU-Net's own layout: written atomically, read safely, with or without frozen weights."""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nnvit.errors import WeightsError
from nnvit.weights import external, safe_load

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


def find(fold: Path) -> Path | None:
    """Returns the checkpoint that `--c` continues from, or None."""
    return next((fold / name for name in NAMES if (fold / name).is_file()), None)


def read(path: Path) -> dict[str, Any]:
    """Reads a checkpoint of nnvit or of stock nnU-Net. Raises WeightsError for anything else."""
    content = safe_load(path)
    if not isinstance(content, dict) or not isinstance(content.get("network_weights"), dict):
        raise WeightsError(f"{path} is not an nnU-Net checkpoint: it holds no 'network_weights' of names and tensors.")
    return content


class FrozenWeights:
    """The frozen weights of one training, which follow `checkpoint.frozen_weights`.

    wanted: True if checkpoints are to leave them out; spec: model.weights; say: prints a line. The decision is taken once:
    what is frozen does not change during a training.
    """

    def __init__(self, *, wanted: bool, spec: str, say: Callable[[str], None]) -> None:
        self.wanted, self.spec, self.say = wanted, spec, say
        self.external: external.ExternalWeights | None = None
        self.decided = not wanted

    def decide(self, network: nn.Module, origin: Mapping[str, Any]) -> None:
        """Finds out whether checkpoints can leave them out, and prints it; does nothing once that is decided.

        origin: the report of the weights that were loaded into the network.
        """
        if self.decided:
            return
        try:
            self.external = external.ExternalWeights.of(network, origin.get("base", origin), self.spec)
            words = self.external.file_words()
            self.say(f"checkpoints leave {len(self.external.dtypes)} frozen tensors out: {words}")
            self.say("  they are read where that file is; `nnvit export` makes one that needs no other file")
        except WeightsError as error:
            self.say(f"checkpoints hold the frozen weights, against checkpoint.frozen_weights=reference: {error}")
        external.forget()
        self.decided = True

    def left_out(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the network's state dict as a checkpoint holds it, once it is decided."""
        return self.external.leave_out(state) if self.external else dict(state)

    def described(self) -> dict[str, Any] | None:
        """Describes the file and the tensors left out, None where checkpoints are whole."""
        return asdict(self.external) if self.external else None

    def resume(self, state: Mapping[str, Any], network: nn.Module) -> None:
        """Continues to leave out what the loaded checkpoint left out, if the network holds exactly these values.

        A training that keeps frozen weights in another precision than the one before may have rounded them.
        """
        held = external.ExternalWeights.named_in(state)
        if self.wanted and held and held.describes(network):
            self.external, self.decided = held, True
        external.forget()

    def origin(self, path: Path) -> dict[str, Any]:
        """Returns which file another checkpoint's backbone came from, as far as it says so."""
        if not self.wanted:
            return {}
        weights = safe_load(path).get("nnvit", {}).get("weights") or {}
        return {"base": weights.get("base", weights)}
