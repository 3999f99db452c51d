"""Draws the curves of a training: live on a terminal, and in TensorBoard files beside nnU-Net's own log."""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import Progress
from rich.table import Table
from torch.utils.tensorboard import SummaryWriter

from nnvit.nnunet.progress import COLUMNS

_BLOCKS = "▁▂▃▄▅▆▇█"
_TAGS = {
    "train_losses": "loss/train",
    "val_losses": "loss/val",
    "lrs": "learning_rate",
    "mean_fg_dice": "pseudo_dice/mean",
    "ema_fg_dice": "pseudo_dice/moving_average",
}
"""Maps nnU-Net's keys to the names of the curves; each class's pseudo Dice is drawn as well."""


class Screen:
    """Shows the bar of the current epoch, and curves of the losses and of each class's pseudo Dice.

    title: of the frame; classes: names in the order of nnU-Net's pseudo Dice. It shows nothing where stderr is no terminal. Lines
    that are printed meanwhile appear above it.
    """

    def __init__(
        self, title: str, classes: Sequence[str], visible: bool = True, console: Console | None = None
    ) -> None:
        self.title, self.classes = title, list(classes)
        self.visible = visible and sys.stderr.isatty()
        self.console = console or Console(stderr=True)
        self.progress = Progress(*COLUMNS)
        self.task = self.progress.add_task("", total=None, text="")
        self.curves: dict[str, list[float]] = {}
        self.pace = ""
        redirect = sys.stdout.isatty()  # what is printed into a file belongs there, not on the screen
        self.live = Live(
            get_renderable=self.render,
            console=self.console,
            transient=True,
            redirect_stdout=redirect,
            redirect_stderr=redirect,
        )

    def shown(self) -> AbstractContextManager[object]:
        """Shows the frame within the context."""
        return self.live if self.visible else nullcontext()

    def phase(self, description: str, total: int, done: int = 0) -> Callable[[str], None]:
        """Restarts the bar; returns a function that advances it by one, with a short text."""
        self.progress.reset(self.task, total=total, completed=done, description=description, text="")
        return lambda text: self.progress.update(self.task, advance=1, text=text)

    def epoch(self, train: list[float], val: list[float], dice: list[list[float]], pace: str) -> None:
        """Takes all values so far, one per epoch. dice: per epoch, of each class; pace: a line about speed and time left."""
        per_class = zip(self.classes, zip(*dice, strict=False), strict=False)
        self.curves = {"training loss": train, "validation loss": val}
        self.curves |= {f"Dice {name}": list(values) for name, values in per_class}
        self.pace = pace

    def render(self) -> Panel:
        """Returns the frame as it stands."""
        table = Table.grid(padding=(0, 2))
        width = max(10, min(60, self.console.width - 40))
        for name, values in self.curves.items():
            table.add_row(name, f"{values[-1]:.3f}", _sparkline(values, width))
        return Panel(Group(self.progress, table, self.pace), title=self.title, title_align="left")


class TensorBoardLogger:
    """Takes the calls of nnU-Net's MetaLogger; the step of all curves is the epoch.

    folder: gets the event files; classes: names in the order of nnU-Net's pseudo Dice; start: the epoch to go on with. What an
    interrupted training wrote beyond its checkpoint is hidden.
    """

    def __init__(self, folder: Path, classes: Sequence[str], start: int) -> None:
        self.writer = SummaryWriter(str(folder), purge_step=start)
        self.tags = _TAGS | {
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


def _sparkline(values: Sequence[float], width: int) -> str:
    """Draws values as one row of block characters; more values than `width` are averaged in groups."""
    groups = np.array_split(np.asarray(values, dtype=float), min(width, len(values)))
    means = np.array([group.mean() for group in groups])
    finite = means[np.isfinite(means)]
    low, span = (finite.min(), np.ptp(finite) or 1.0) if len(finite) else (0.0, 1.0)
    return "".join(
        _BLOCKS[round((mean - low) / span * (len(_BLOCKS) - 1))] if np.isfinite(mean) else " " for mean in means
    )
