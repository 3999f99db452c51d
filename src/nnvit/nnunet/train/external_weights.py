"""What a trainer's checkpoints leave out: nothing, or the frozen weights that a file holds (`checkpoint.frozen_weights`)."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnvit.errors import WeightsError
from nnvit.weights import external, safe_load

if TYPE_CHECKING:
    from .trainer import nnUNetTrainer_nnvit


class FrozenWeights:
    """Decides as a training starts, and stays with it: what is frozen does not change."""

    def __init__(self, trainer: "nnUNetTrainer_nnvit") -> None:
        self.trainer = trainer
        self.reference: external.Reference | None = None
        self.decided = False

    @property
    def wanted(self) -> bool:
        """Whether the recipe asks for checkpoints without them."""
        return self.trainer.recipe.checkpoint.frozen_weights == "reference"

    def left_out(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The network's state dict as a checkpoint holds it."""
        self.decide()
        return external.leave_out(state, self.reference) if self.reference else dict(state)

    def described(self) -> dict[str, Any] | None:
        """For the checkpoint's `nnvit` block: the file and the tensors left out, None where it is whole."""
        return asdict(self.reference) if self.reference else None

    def resume(self, state: Mapping[str, Any]) -> None:
        """Goes on with the reference of the checkpoint that was loaded, as long as the network holds just these values.

        One that keeps frozen weights in another precision than the training before may have rounded them.
        """
        held = external.reference_of(state)
        if self.wanted and held and external.describes(held, self.trainer.bare_network):
            self.reference, self.decided = held, True
        external.forget()

    def origin(self, path: Path) -> dict[str, Any]:
        """Which file the backbone of another checkpoint came from, as far as it says so, for the account of this one."""
        if not self.wanted:
            return {}
        weights = safe_load(path).get("nnvit", {}).get("weights") or {}
        return {"base": weights.get("base", weights)}

    def decide(self) -> None:
        """Whether checkpoints can leave them out, said once. Does nothing where that is known, or not wanted."""
        if self.decided or not self.wanted:
            return
        trainer = self.trainer
        weights = trainer.manifest.weights
        spec = str(getattr(trainer.recipe.model, "weights", ""))
        try:
            self.reference = external.refer(trainer.bare_network, weights.get("base", weights), spec)
            trainer.say(
                f"checkpoints leave {len(self.reference.dtypes)} frozen tensors out: {self.reference.file_words()}"
            )
            trainer.say("  they are read where that file is; `nnvit export` makes one that needs no other file")
        except WeightsError as error:
            trainer.say(f"checkpoints hold the frozen weights, against checkpoint.frozen_weights=reference: {error}")
        external.forget()
        self.decided = True
