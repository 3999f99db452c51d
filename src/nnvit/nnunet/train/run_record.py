"""`fold_k/nnvit_run.json`: what was trained, on what, with what, and how it ended (design.md, section 5)."""

import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nnvit.errors import PlansError
from nnvit.estimate.flops import forward_flops
from nnvit.records.hashes import digest
from nnvit.records.json_files import read_json, write_json

from . import peak_memory

if TYPE_CHECKING:
    from .trainer import nnUNetTrainer_nnvit

NAME = "nnvit_run.json"
PACKAGES = ("nnvit", "nnunetv2", "torch", "timm", "transformers", "peft", "numpy")


class Manifest:
    """The account of one fold. Written at the start, after every epoch and at the end, each time as a whole."""

    def __init__(self, trainer: "nnUNetTrainer_nnvit") -> None:
        self.trainer = trainer
        self.weights: dict[str, Any] = {}
        self.content: dict[str, Any] = {}

    @property
    def path(self) -> Path:
        """Where it lies."""
        return Path(self.trainer.output_folder) / NAME

    def held_hash(self) -> str | None:
        """The recipe hash of the run that the fold holds already, None where it holds none."""
        return self._earlier().get("recipe_hash")

    def start(self) -> None:
        """Describes the run; one that continues another keeps what that noted.

        Raises PlansError where the other one was trained on another split or other base plans.
        """
        peak_memory.forget_peak(self.trainer.device)
        trainer, block = self.trainer, self.trainer.block
        earlier = self._earlier() if trainer.resumed else {}
        training, validation = trainer.do_split()
        total, trained = _parameters(trainer.bare_network)
        content = earlier | {
            "schema": block["schema"],
            "recipe": block["recipe"],
            "recipe_hash": block["hash"],
            "base_plans": block["base_plans"],
            "base_plans_hash": block["base_plans_hash"],
            "plans": trainer.plans_manager.plans_name,
            "configuration": trainer.configuration_name,
            "fold": trainer.fold,
            "split_hash": digest({"train": sorted(training), "val": sorted(validation)}),
            "cases": {"train": len(training), "val": len(validation)},
            "preprocessed_hash": _preprocessed_hash(Path(trainer.preprocessed_dataset_folder)),
            "batch_size": trainer.configuration_manager.batch_size,
            "patch_size": list(trainer.configuration_manager.patch_size),
            "seed": trainer.recipe.training.seed,
            "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
            "device": _device(trainer.device),
            "device_type": trainer.device.type,
            "threads": torch.get_num_threads(),
            "precision": {"name": trainer.precision.name, "reason": trainer.precision.reason},
            "weights": self.weights,
            "parameters": {"total": total, "trainable": trained},
            "flops_per_patch": _flops(trainer),
            "augmentation": trainer.augmentation,
            "mirroring_axes": trainer.inference_allowed_mirroring_axes,
            "oversample_foreground_percent": trainer.oversample_foreground_percent,
            "start": earlier.get("start") or _now(),
            "resumed": [*earlier.get("resumed", []), _now()] if trainer.resumed else [],
            "epochs_done": trainer.current_epoch,
            "exit": "running",
            "DONE": False,
        }
        for key in ("split_hash", "base_plans_hash"):
            if key in earlier and earlier[key] != content[key]:
                raise PlansError(
                    f"{self.path.parent} was trained with another {key.removesuffix('_hash').replace('_', ' ')} "
                    f"({earlier[key][:8]}, now {content[key][:8]}); going on would mix the two. Restore what it was "
                    "trained with, or start in another folder."
                )
        self.content = content
        self._write()

    def update(self, seconds: dict[str, float]) -> None:
        """After an epoch; seconds: of an iteration, by what it spent them on (`stopwatch.PARTS`)."""
        self.content["epochs_done"] = self.trainer.current_epoch
        if seconds:
            self.content["seconds_per_iteration"] = {part: round(value, 5) for part, value in seconds.items()}
        self.content["peak_memory_bytes"] = peak_memory.peak(self.trainer.device)
        self._write()

    def end(self, reason: str) -> None:
        """How the training ended; a run that never started leaves no account."""
        if self.content:
            self.content |= {"end": _now(), "exit": reason}
            self._write()

    def done(self, checkpoint: str, fast: str | None = None) -> None:
        """After the final validation of a checkpoint: nothing is left to do in this fold.

        fast: the precision of the fast predictor, None where it was nnU-Net's own.
        """
        self.content = self.content or self._earlier()
        if self.content:
            axes = self.trainer.inference_allowed_mirroring_axes
            self.content["validation"] = {"checkpoint": checkpoint, "mirroring_axes": axes}
            if fast is not None:
                self.content["validation"]["fast"] = fast
            self.content["DONE"] = self.content["exit"] == "finished"
            self._write()

    def lines(self) -> list[str]:
        """What a user wants to see before the first epoch."""
        content, trainer = self.content, self.trainer
        total, trained = content["parameters"]["total"], content["parameters"]["trainable"]
        patch = " x ".join(map(str, content["patch_size"]))
        return [
            f"recipe {trainer.recipe.name} ({content['recipe_hash'][:8]}), tuning {trainer.recipe.tuning}: "
            f"{trained:,} of {total:,} parameters are trained",
            f"fold {trainer.fold}: {content['cases']['train']} training and {content['cases']['val']} validation cases; "
            f"patch {patch}, batch {content['batch_size']}, {trainer.num_epochs} epochs of "
            f"{trainer.num_iterations_per_epoch} iterations",
            f"device {content['device']}, {content['precision']['name']} ({content['precision']['reason']})",
            f"results go to {trainer.output_folder}",
        ]

    def _earlier(self) -> dict[str, Any]:
        return read_json(self.path) if self.path.is_file() else {}

    def _write(self) -> None:
        if self.trainer.local_rank == 0:
            write_json(self.path, self.content)


def _parameters(network: torch.nn.Module) -> tuple[int, int]:
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in network.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


def _flops(trainer: "nnUNetTrainer_nnvit") -> int:
    """Of predicting one patch; counted on a twin of the network that holds no numbers."""

    def build() -> torch.nn.Module:
        heads, plans = trainer.label_manager.num_segmentation_heads, trainer.plans_manager
        return trainer.build_network_architecture(plans, trainer.configuration_manager, channels, heads, False)

    channels: int = trainer.num_input_channels  # nnU-Net's initialize has set it
    return forward_flops(build, (1, channels, *trainer.configuration_manager.patch_size))


def _preprocessed_hash(folder: Path) -> str:
    """Of the names and sizes of all preprocessed files: cheap, and it changes whenever a case comes, goes or differs."""
    files = sorted((path.name, path.stat().st_size) for path in folder.iterdir() if path.is_file())
    return digest(files)


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.processor() or platform.machine()}, {torch.backends.cpu.get_cpu_capability()})"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
