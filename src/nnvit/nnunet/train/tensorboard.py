"""Writes TensorBoard files of a training, beside nnU-Net's own log."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

TAGS = {
    "train_losses": "loss/train",
    "val_losses": "loss/val",
    "lrs": "learning_rate",
    "mean_fg_dice": "pseudo_dice/mean",
    "ema_fg_dice": "pseudo_dice/moving_average",
}
"""Maps nnU-Net's keys to the names of the curves; each class's pseudo Dice is drawn as well."""


class TensorBoardLogger:
    """Takes the calls of nnU-Net's MetaLogger; the step of all curves is the epoch.

    folder: gets the event files; classes: names in the order of nnU-Net's pseudo Dice; start: the epoch to go on with. What an
    interrupted training wrote beyond its checkpoint is hidden.
    """

    def __init__(self, folder: Path, classes: Sequence[str], start: int) -> None:
        self.writer = SummaryWriter(str(folder), purge_step=start)
        self.tags = TAGS | {
            f"dice_per_class_or_region/class_{i}": f"pseudo_dice/{name}" for i, name in enumerate(classes, start=1)
        }

    def log(self, key: str, value: float, step: int) -> None:
        """Writes one value of one epoch."""
        if key in self.tags:
            self.writer.add_scalar(self.tags[key], value, step)
            self.writer.flush()

    def log_summary(self, key: str, value: Any) -> None:
        """Writes what is known once, at the end."""
        self.writer.add_text(key, str(value))
        self.writer.flush()

    def update_config(self, config: dict[str, Any]) -> None:
        """Does nothing: plans and hyperparameters stand in the results folder already."""
