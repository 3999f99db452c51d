"""`fold_k/nnvit_run.json`: recipe, data, software and device of a training, and how it ended."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from nnvit.errors import PlansError

from .hashes import digest
from .json_files import read_json, write_json

FILE = "nnvit_run.json"
KNOWN_LATER = ("seconds_per_iteration", "peak_memory_bytes", "end", "validation")
"""Entries that a training fills in as it goes on, and after it."""


@dataclass(kw_only=True)
class RunRecord:
    """The record of one fold's training.

    split_hash: hash of the fold's cases; cases: numbers of training and validation cases; preprocessed_hash: hash of names and
    sizes of the preprocessed files. weights: the report on the loaded weights. parameters: total and trainable.
    flops_per_patch: of one prediction. start, resumed, end: UTC in ISO 8601. exit: "running", "finished", or the error that
    ended the training. seconds_per_iteration: by part of the iteration. validation: the validated checkpoint and settings.
    DONE: trained and validated.
    """

    schema: int = 1
    recipe: dict[str, Any] = field(default_factory=dict)
    recipe_hash: str = ""
    base_plans: str = ""
    base_plans_hash: str = ""
    plans: str = ""
    configuration: str = ""
    fold: int | str = 0
    split_hash: str = ""
    cases: dict[str, int] = field(default_factory=dict)
    preprocessed_hash: str = ""
    batch_size: int = 0
    patch_size: list[int] = field(default_factory=list)
    seed: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    device: str = ""
    device_type: str = ""
    threads: int = 0
    precision: dict[str, str] = field(default_factory=dict)
    weights: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    flops_per_patch: int = 0
    augmentation: str = ""
    mirroring_axes: Sequence[int] | None = None
    oversample_foreground_percent: float = 0.0
    start: str = ""
    resumed: list[str] = field(default_factory=list)
    epochs_done: int = 0
    exit: str = "running"
    DONE: bool = False
    seconds_per_iteration: dict[str, float] | None = None
    peak_memory_bytes: int | None = None
    end: str | None = None
    validation: dict[str, Any] | None = None

    @classmethod
    def read(cls, fold: Path) -> "RunRecord | None":
        """Reads the record in a fold's folder, None if it has none. Leaves out keys that only a newer nnvit knows."""
        path = fold / FILE
        if not path.is_file():
            return None
        held = read_json(path)
        return cls(**{key.name: held[key.name] for key in fields(cls) if key.name in held})

    def write(self, fold: Path) -> None:
        """Writes the record without the entries that are not known yet."""
        content = {key: value for key, value in asdict(self).items() if value is not None or key not in KNOWN_LATER}
        write_json(fold / FILE, content)

    @staticmethod
    def hash_of_split(split: Mapping[str, Sequence[str]]) -> str:
        """Returns the hash of the cases that a fold trains (`train`) and validates on (`val`)."""
        return digest({part: sorted(split[part]) for part in ("train", "val")})

    def refuse_other_data(self, where: Path, *, split_hash: str, base_plans_hash: str | None = None) -> None:
        """Raises PlansError if the fold `where` was trained on another split or other base plans than those given now."""
        for what, held, now in (
            ("split", self.split_hash, split_hash),
            ("base plans", self.base_plans_hash, base_plans_hash),
        ):
            if held and now and held != now:
                raise PlansError(
                    f"{where} was trained with another {what} ({held[:8]}, now {now[:8]}); continuing would mix the two. "
                    "Restore what it was trained with, move the folder away, or start in another folder."
                )
