"""Keeps `fold_k/nnvit_run.json` up to date while a fold is trained, and refuses a fold that holds another training."""

import platform
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch

from nnvit.errors import PlansError
from nnvit.nnunet import checkpoint_file
from nnvit.records.hashes import digest
from nnvit.records.json_files import read_json
from nnvit.records.plans_block import PlansBlock
from nnvit.records.run_record import KNOWN_LATER, RunRecord

_PACKAGES = ("nnvit", "nnunetv2", "torch", "timm", "transformers", "peft", "numpy")


class RunAccount:
    """The run record of one fold, written as a whole at the start, after every epoch and at the end.

    fold: the fold's folder; writes: False on all ranks but the first.
    """

    def __init__(self, fold: Path, *, writes: bool) -> None:
        self.fold, self.writes = fold, writes
        self.record: RunRecord | None = None

    def refuse_taken_fold(self, block: PlansBlock, configuration: str, *, resumed: bool) -> None:
        """Raises PlansError where another recipe lies in the results folder, or a training in the fold that is not continued.

        All folds of a results folder are predicted with its one plans.json, which starting to train overwrites.
        """
        held = []
        if (plans := self.fold.parent / "plans.json").is_file():
            other = PlansBlock.of(read_json(plans), configuration)
            held.append(other.hash if other else "none")
        if record := RunRecord.read(self.fold):
            held.append(record.recipe_hash)
        block.refuse_other_recipe(self.fold.parent, held)
        found = checkpoint_file.find(self.fold)
        if found is not None and not resumed:
            raise PlansError(
                f"{self.fold} holds a training already ({found.name}) and is left as it is. Continue it with --c, validate it "
                "with --val, or move the folder away to start afresh."
            )

    def begin(self, record: RunRecord, *, resumed: bool) -> None:
        """Takes the facts of a training that starts; one that goes on keeps what its record noted before.

        Raises PlansError where that was trained on another split or other base plans.
        """
        if resumed and (earlier := RunRecord.read(self.fold)):
            earlier.refuse_other_data(self.fold, split_hash=record.split_hash, base_plans_hash=record.base_plans_hash)
            record = replace(record, **{key: getattr(earlier, key) for key in KNOWN_LATER})
            record = replace(record, start=earlier.start or _now(), resumed=[*earlier.resumed, _now()])
        else:
            record = replace(record, start=_now(), resumed=[_now()] if resumed else [])
        self.record = record
        self._write()

    def opening_lines(self, tuning: str) -> list[str]:
        """Returns what a user wants to know before the first epoch."""
        record = cast(RunRecord, self.record)
        training, parameters = record.recipe["training"], record.parameters
        patch = " x ".join(map(str, record.patch_size))
        return [
            f"recipe {record.recipe['name']} ({record.recipe_hash[:8]}), tuning {tuning}: "
            f"{parameters['trainable']:,} of {parameters['total']:,} parameters are trained",
            f"fold {record.fold}: {record.cases['train']} training and {record.cases['val']} validation cases; "
            f"patch {patch}, batch {record.batch_size}, {training['num_epochs']} epochs of "
            f"{training['num_iterations_per_epoch']} iterations",
            f"device {record.device}, {record.precision['name']} ({record.precision['reason']})",
            f"results go to {self.fold}",
        ]

    def epoch(self, done: int, seconds: dict[str, float], peak_memory: int) -> None:
        """Notes an epoch. seconds: of an iteration, by what they were spent on; peak_memory: in bytes."""
        assert self.record is not None
        self.record.epochs_done, self.record.peak_memory_bytes = done, peak_memory
        if seconds:
            self.record.seconds_per_iteration = {part: round(value, 5) for part, value in seconds.items()}
        self._write()

    def end(self, reason: str) -> None:
        """Notes how the training ended; a training that never started leaves no record."""
        if self.record is not None:
            self.record.end, self.record.exit = _now(), reason
            self._write()

    def validated(self, checkpoint: str, mirroring_axes: Sequence[int] | None, fast: str | None = None) -> None:
        """Notes the final validation. fast: the precision of the fast predictor, None where it was nnU-Net's own."""
        self.record = self.record or RunRecord.read(self.fold)
        if self.record is None:
            return
        named = {"fast": fast} if fast is not None else {}
        self.record.validation = {"checkpoint": checkpoint, "mirroring_axes": mirroring_axes} | named
        self.record.DONE = self.record.exit == "finished"
        self._write()

    def _write(self) -> None:
        if self.writes and self.record is not None:
            self.record.write(self.fold)


def found_facts(network: torch.nn.Module, preprocessed: Path, device: torch.device) -> dict[str, Any]:
    """Returns a record's facts about the network's parameters, the preprocessed files, versions and device.

    The hash of the names and sizes of all preprocessed files is cheap, and changes when a case comes, goes or differs.
    """
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in network.parameters()]
    chip = f"{device.type} ({platform.processor() or platform.machine()}, {torch.backends.cpu.get_cpu_capability()})"
    files = sorted((path.name, path.stat().st_size) for path in preprocessed.iterdir() if path.is_file())
    return {
        "parameters": {
            "total": sum(size for size, _ in sizes),
            "trainable": sum(size for size, trained in sizes if trained),
        },
        "preprocessed_hash": digest(files),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else chip,
        "device_type": device.type,
        "threads": torch.get_num_threads(),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
