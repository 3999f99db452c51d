"""Shows the live view of a training on a terminal; elsewhere nothing."""

import sys
from collections.abc import Sequence

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import Progress
from rich.table import Table

from nnvit.nnunet.progress import Advance, columns

BLOCKS = "▁▂▃▄▅▆▇█"


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
        self.progress = Progress(*columns())
        self.task = self.progress.add_task("", total=None, text="")
        self.curves: dict[str, list[float]] = {}
        self.pace = ""
        # Where stdout goes into a file, what is printed belongs there, not on the screen.
        redirect = sys.stdout.isatty()
        self.live = Live(
            get_renderable=self.render,
            console=self.console,
            transient=True,
            redirect_stdout=redirect,
            redirect_stderr=redirect,
        )

    def __enter__(self) -> "Screen":
        if self.visible:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.visible:
            self.live.stop()

    def phase(self, description: str, total: int, done: int = 0) -> Advance:
        """Restarts the bar; returns a function that advances it by one, with a short text."""
        self.progress.reset(self.task, total=total, completed=done, description=description, text="")
        return lambda text: self.progress.update(self.task, advance=1, text=text)

    def epoch(self, train: list[float], val: list[float], dice: list[list[float]], pace: str) -> None:
        """Takes all values so far, one per epoch. dice: per epoch, of each class; pace: a line about speed and time left."""
        per_class = dict(zip(self.classes, zip(*dice, strict=False), strict=False))
        self.curves = {"training loss": train, "validation loss": val}
        self.curves |= {f"Dice {name}": list(values) for name, values in per_class.items()}
        self.pace = pace

    def render(self) -> Panel:
        """Returns the frame as it stands."""
        table = Table.grid(padding=(0, 2))
        width = max(10, min(60, self.console.width - 40))
        for name, values in self.curves.items():
            table.add_row(name, f"{values[-1]:.3f}", sparkline(values, width))
        return Panel(Group(self.progress, table, self.pace), title=self.title, title_align="left")


def sparkline(values: Sequence[float], width: int) -> str:
    """Draws values as one row of block characters; more values than `width` are averaged in groups."""
    groups = np.array_split(np.asarray(values, dtype=float), min(width, len(values)))
    means = np.array([group.mean() for group in groups])
    finite = means[np.isfinite(means)]
    low, span = (finite.min(), np.ptp(finite) or 1.0) if len(finite) else (0.0, 1.0)
    return "".join(
        BLOCKS[round((mean - low) / span * (len(BLOCKS) - 1))] if np.isfinite(mean) else " " for mean in means
    )
