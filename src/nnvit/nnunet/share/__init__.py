"""Trained models passed on: exported, installed from a zip, or converted from other projects' checkpoints."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

KEPT = ("logging", "_best_ema", "current_epoch", "inference_allowed_mirroring_axes")
"""Entries of a checkpoint kept beside the network. A finished model needs no optimiser, scaler or random states."""


@dataclass(frozen=True, kw_only=True)
class ShareResult:
    """Files that a command of this room wrote, with notes on them.

    paths: files or model folders; notes: what a user should know; then: how to go on; done: the verb for the terminal.
    """

    paths: Sequence[Path]
    notes: Sequence[str]
    then: Sequence[str]
    done: str = "wrote"

    def lines(self) -> list[str]:
        """Returns the outcome for a terminal."""
        written = [f"{self.done} {path} ({_size(path) / 2**20:,.1f} MiB)" for path in self.paths]
        return [*self.notes, *written, *self.then]


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
