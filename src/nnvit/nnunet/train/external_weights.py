"""Decides what a training's checkpoints leave out: nothing, or the frozen weights that a file holds."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from nnvit.errors import WeightsError
from nnvit.weights import external, safe_load


class FrozenWeights:
    """The frozen weights of one training, which follow `checkpoint.frozen_weights`.

    wanted: whether checkpoints shall leave them out; spec: model.weights; say: prints a line. The decision is taken once: what
    is frozen does not change in the course of a training.
    """

    def __init__(self, *, wanted: bool, spec: str, say: Callable[[str], None]) -> None:
        self.wanted, self.spec, self.say = wanted, spec, say
        self.reference: external.Reference | None = None
        self.decided = not wanted

    def decide(self, network: nn.Module, origin: Mapping[str, Any]) -> None:
        """Finds out whether checkpoints can leave them out, and says so; does nothing where that is known.

        origin: the report of the weights that were loaded into the network.
        """
        if self.decided:
            return
        try:
            self.reference = external.refer(network, origin.get("base", origin), self.spec)
            words = self.reference.file_words()
            self.say(f"checkpoints leave {len(self.reference.dtypes)} frozen tensors out: {words}")
            self.say("  they are read where that file is; `nnvit export` makes one that needs no other file")
        except WeightsError as error:
            self.say(f"checkpoints hold the frozen weights, against checkpoint.frozen_weights=reference: {error}")
        external.forget()
        self.decided = True

    def left_out(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the network's state dict as a checkpoint holds it, once it is decided."""
        return self.reference.leave_out(state) if self.reference else dict(state)

    def described(self) -> dict[str, Any] | None:
        """Describes the file and the tensors left out, None where checkpoints are whole."""
        return asdict(self.reference) if self.reference else None

    def resume(self, state: Mapping[str, Any], network: nn.Module) -> None:
        """Goes on with what the checkpoint that was loaded left out, if the network holds just these values.

        A training that keeps frozen weights in another precision than the one before may have rounded them.
        """
        held = external.reference_of(state)
        if self.wanted and held and held.describes(network):
            self.reference, self.decided = held, True
        external.forget()

    def origin(self, path: Path) -> dict[str, Any]:
        """Returns which file another checkpoint's backbone came from, as far as it says so."""
        if not self.wanted:
            return {}
        weights = safe_load(path).get("nnvit", {}).get("weights") or {}
        return {"base": weights.get("base", weights)}
