"""The name of a results folder, `Trainer__Plans__configuration`, and the commands that predict with it."""

import shlex
from collections.abc import Iterable
from typing import NamedTuple


class ModelName(NamedTuple):
    """The three parts of the name of an nnU-Net results folder."""

    trainer: str
    plans: str
    configuration: str

    @classmethod
    def parse(cls, folder: str) -> "ModelName | None":
        """Splits a folder's name into its parts; None if it has another form."""
        parts = folder.split("__")
        return cls(*parts) if len(parts) == 3 else None

    def __str__(self) -> str:
        return "__".join(self)

    def predict_command(
        self, dataset: str, folds: Iterable[int | str], *, checkpoint: str | None = None, device: str | None = None
    ) -> str:
        """Returns the stock command that predicts with this model, quoted for a shell; None leaves out a flag."""
        words = ["-d", dataset, "-tr", self.trainer, "-p", self.plans, "-c", self.configuration, "-f", *map(str, folds)]
        words += [] if checkpoint is None else ["-chk", checkpoint]
        words += [] if device in (None, "cuda") else ["-device", device]
        return f"nnUNetv2_predict -i IMAGES -o OUT {shlex.join(words)}"
