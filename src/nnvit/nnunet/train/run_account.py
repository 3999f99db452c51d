"""Keeps `fold_k/nnvit_run.json` up to date while a fold is trained, and refuses a fold that holds another training."""

import platform
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import cast

import torch

from nnvit.errors import PlansError
from nnvit.estimate.fake_tensors import forward_flops
from nnvit.nnunet import checkpoint_file
from nnvit.records.hashes import digest
from nnvit.records.json_files import read_json
from nnvit.records.plans_block import PlansBlock
from nnvit.records.run_record import KNOWN_LATER, RunRecord

from .recipe_trainer import RecipeTrainer

_PACKAGES = ("nnvit", "nnunetv2", "torch", "timm", "transformers", "peft", "numpy")


class RunAccount:
    """The run record of one fold, written by the first rank as a whole at the start, after every epoch and at the end."""

    def __init__(self, trainer: RecipeTrainer) -> None:
        self.trainer, self.fold = trainer, Path(trainer.output_folder)
        self.record: RunRecord | None = None

    def refuse_taken_fold(self) -> None:
        """Raises PlansError where another recipe lies in the results folder, or a training in the fold that is not continued.

        All folds of a results folder are predicted with its one plans.json, which starting to train overwrites.
        """
        held = []
        if (plans := self.fold.parent / "plans.json").is_file():
            other = PlansBlock.of(read_json(plans), self.trainer.configuration_name)
            held.append(other.hash if other else "none")
        if record := RunRecord.read(self.fold):
            held.append(record.recipe_hash)
        self.trainer.block.refuse_other_recipe(self.fold.parent, held)
        found = checkpoint_file.find(self.fold)
        if found is not None and not self.trainer.resumed:
            raise PlansError(
                f"{self.fold} was trained before ({found.name}) and is left as it is. Continue it with --c, validate it with "
                "--val, or move the folder away to start afresh."
            )

    def begin(self) -> None:
        """Gathers the facts of a training that starts; one that goes on keeps what its record noted before.

        Raises PlansError where that was trained on another split or other base plans.
        """
        record, resumed = self._gathered(), self.trainer.resumed
        if resumed and (earlier := RunRecord.read(self.fold)):
            earlier.refuse_other_data(self.fold, split_hash=record.split_hash, base_plans_hash=record.base_plans_hash)
            record = replace(record, **{key: getattr(earlier, key) for key in KNOWN_LATER})
            record = replace(record, start=earlier.start or _now(), resumed=[*earlier.resumed, _now()])
        else:
            record = replace(record, start=_now(), resumed=[_now()] if resumed else [])
        self.record = record
        self._write()

    def _gathered(self) -> RunRecord:
        """Returns the facts of this training.

        The hash of the names and sizes of all preprocessed files is cheap, and changes when a case comes, goes or differs.
        """
        trainer, block, device = self.trainer, self.trainer.block, self.trainer.device
        split = dict(zip(("train", "val"), trainer.do_split(), strict=True))
        files = (path for path in Path(trainer.preprocessed_dataset_folder).iterdir() if path.is_file())
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in trainer.bare_network.parameters()]
        chip = (
            f"{device.type} ({platform.processor() or platform.machine()}, {torch.backends.cpu.get_cpu_capability()})"
        )
        planned, channels = trainer.configuration_manager, trainer.num_input_channels
        described = trainer.plans_manager, planned, channels, trainer.label_manager.num_segmentation_heads, False
        flops = forward_flops(
            lambda: trainer.build_network_architecture(*described), (1, channels, *planned.patch_size)
        )
        return RunRecord(
            schema=block.schema,
            recipe=block.recipe,
            recipe_hash=block.hash,
            base_plans=block.base_plans,
            base_plans_hash=block.base_plans_hash,
            plans=trainer.plans_manager.plans_name,
            configuration=trainer.configuration_name,
            fold=trainer.fold,
            split_hash=RunRecord.hash_of_split(split),
            cases={part: len(names) for part, names in split.items()},
            preprocessed_hash=digest(sorted((path.name, path.stat().st_size) for path in files)),
            batch_size=planned.batch_size,
            patch_size=list(planned.patch_size),
            seed=trainer.recipe.training.seed,
            versions={"python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else chip,
            device_type=device.type,
            threads=torch.get_num_threads(),
            precision={"name": trainer.precision.name, "reason": trainer.precision.reason},
            weights=trainer.weights_report,
            parameters={
                "total": sum(size for size, _ in sizes),
                "trainable": sum(size for size, trained in sizes if trained),
            },
            flops_per_patch=flops,
            augmentation=trainer.augmentation,
            mirroring_axes=trainer.inference_allowed_mirroring_axes,
            oversample_foreground_percent=trainer.oversample_foreground_percent,
            epochs_done=trainer.current_epoch,
        )

    def opening_lines(self) -> list[str]:
        """Returns what a user wants to know before the first epoch."""
        record = cast(RunRecord, self.record)
        training, parameters = record.recipe["training"], record.parameters
        patch = " x ".join(map(str, record.patch_size))
        return [
            f"recipe {record.recipe['name']} ({record.recipe_hash[:8]}), tuning {self.trainer.recipe.tuning}: "
            f"{parameters['trainable']:,} of {parameters['total']:,} parameters are trained",
            f"fold {record.fold}: {record.cases['train']} training and {record.cases['val']} validation cases; "
            f"patch {patch}, batch {record.batch_size}, {training['num_epochs']} epochs of "
            f"{training['num_iterations_per_epoch']} iterations",
            f"device {record.device}, {record.precision['name']} ({record.precision['reason']})",
            f"results go to {self.fold}",
        ]

    def epoch(self, seconds: dict[str, float], peak_memory: int) -> None:
        """Notes an epoch. seconds: of an iteration, by what they were spent on; peak_memory: in bytes."""
        assert self.record is not None
        self.record.epochs_done, self.record.peak_memory_bytes = self.trainer.current_epoch, peak_memory
        if seconds:
            self.record.seconds_per_iteration = {part: round(value, 5) for part, value in seconds.items()}
        self._write()

    def end(self, reason: str) -> None:
        """Notes how the training ended; a training that never started leaves no record."""
        if self.record is not None:
            self.record.end, self.record.exit = _now(), reason
            self._write()

    def validated(self, checkpoint: str, fast: str | None) -> None:
        """Notes the final validation. fast: the precision of the fast predictor, None where it was nnU-Net's own."""
        self.record = self.record or RunRecord.read(self.fold)
        if self.record is None:
            return
        named = {"fast": fast} if fast is not None else {}
        axes = self.trainer.inference_allowed_mirroring_axes
        self.record.validation = {"checkpoint": checkpoint, "mirroring_axes": axes} | named
        self.record.DONE = self.record.exit == "finished"
        self._write()

    def _write(self) -> None:
        if self.trainer.local_rank == 0 and self.record is not None:
            self.record.write(self.fold)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
