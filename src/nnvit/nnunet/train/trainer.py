"""The one trainer: nnU-Net's, with a timed loop, checkpoints that a kill cannot break, and a record of the run."""

import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch.utils._pytree import tree_map

from nnvit.estimate import forward_flops
from nnvit.model import Segmenter
from nnvit.model.training import training_step
from nnvit.nnunet import checkpoint_file
from nnvit.records.run_record import RunRecord

from .curves import Screen, TensorBoardLogger
from .iterations import Interrupted, Meter, Signals
from .recipe_trainer import Outputs
from .run_account import found_facts
from .validation import ValidatingTrainer


class nnUNetTrainer_nnvit(ValidatingTrainer):
    """Trains, keeps and validates what the `nnvit` block of its plans says."""

    random_states: dict[str, Any] | None = None  # of the checkpoint that is continued

    def _prepare(self) -> None:
        super()._prepare()
        self.meter, self.signals = Meter(self.device), Signals(self.say)
        self.screen = Screen(f"{self.recipe.name}  fold {self.fold}", self.classes, visible=self.local_rank == 0)

    # --- training --------------------------------------------------------------------------------------------------

    def run_training(self) -> None:
        """Runs nnU-Net's loop, timed and shown; whatever ends it is written to `nnvit_run.json`."""
        try:
            self.on_train_start()
            with nullcontext() if self.is_ddp else self.signals, self.screen.shown():
                self._train_epochs()
            self.on_train_end()
            self.signals.obey()
        except BaseException as error:
            self.account.end(f"{type(error).__name__}: {error}".strip(": "))
            raise
        finally:
            self.close_batches()
        self.account.end("finished")

    def _train_epochs(self) -> None:
        """Trains until the last epoch, or until a signal, after which the training's place is kept."""
        try:
            for _ in range(self.current_epoch, self.num_epochs):
                self.on_epoch_start()
                self._train_epoch()
                self._validate_epoch()
                self.on_epoch_end()
        except Interrupted:
            self.save_latest()
            raise

    def on_train_start(self) -> None:
        """Refuses a fold that holds another training, then starts as nnU-Net does."""
        self.account.refuse_taken_fold(self.block, self.configuration_name, resumed=self.resumed)
        super().on_train_start()
        self.meter.forget_peak()
        self.account.begin(self._run_record(), resumed=self.resumed)
        if self.local_rank == 0:
            board = TensorBoardLogger(Path(self.output_folder) / "tensorboard", self.classes, self.current_epoch)
            self.logger.loggers.append(board)
        if self.random_states is not None and self.local_rank == 0:
            self.random_streams.restore(self.random_states)
        else:
            self.random_streams.start(self.current_epoch, self.local_rank)
        for line in self.account.opening_lines(self.recipe.tuning):
            self.say(line)
        if self.local_rank == 0 and not self.disable_checkpointing:
            self.frozen.decide(self.bare_network, self.weights_report)

    def _run_record(self) -> RunRecord:
        """Gathers the facts of this training."""
        block, planned, channels = self.block, self.configuration_manager, self.num_input_channels
        split = dict(zip(("train", "val"), self.do_split(), strict=True))
        described = self.plans_manager, planned, channels, self.label_manager.num_segmentation_heads, False
        build = partial(self.build_network_architecture, *described)
        return RunRecord(
            schema=block.schema,
            recipe=block.recipe,
            recipe_hash=block.hash,
            base_plans=block.base_plans,
            base_plans_hash=block.base_plans_hash,
            plans=self.plans_manager.plans_name,
            configuration=self.configuration_name,
            fold=self.fold,
            split_hash=RunRecord.hash_of_split(split),
            cases={part: len(names) for part, names in split.items()},
            batch_size=planned.batch_size,
            patch_size=list(planned.patch_size),
            seed=self.recipe.training.seed,
            precision={"name": self.precision.name, "reason": self.precision.reason},
            weights=self.weights_report,
            flops_per_patch=forward_flops(build, (1, channels, *planned.patch_size)),
            augmentation=self.augmentation,
            mirroring_axes=self.inference_allowed_mirroring_axes,
            oversample_foreground_percent=self.oversample_foreground_percent,
            epochs_done=self.current_epoch,
            **found_facts(self.bare_network, Path(self.preprocessed_dataset_folder), self.device),
        )

    def _train_epoch(self) -> None:
        """Runs the training iterations that are left of this epoch. Raises Interrupted after a signal."""
        self.on_train_epoch_start()
        self.meter.restart()
        every, total = self.recipe.training.save_every_iterations, self.num_iterations_per_epoch
        advance = self.screen.phase(f"epoch {self.current_epoch + 1}/{self.num_epochs}", total, len(self.outputs))
        while len(self.outputs) < total:
            start = time.perf_counter()
            batch = self.signals.next_batch(self.dataloader_train)
            self.meter.begin(time.perf_counter() - start)
            self.outputs.append(self.train_step(batch))
            self.meter.end()
            advance(f"loss {self.outputs[-1]['loss']:.3f}")
            if every is not None and len(self.outputs) % every == 0:
                self.save_latest()
        self.on_train_epoch_end(self.outputs)

    def _validate_epoch(self) -> None:
        """Computes the pseudo Dice of this epoch. Raises Interrupted after a signal."""
        outputs: Outputs = []
        advance = self.screen.phase("pseudo Dice", self.num_val_iterations_per_epoch)
        with torch.no_grad(), self.averaged():
            self.on_validation_epoch_start()
            for _ in range(self.num_val_iterations_per_epoch):
                outputs.append(self.validation_step(self.signals.next_batch(self.dataloader_val)))
                advance("")
            self.on_validation_epoch_end(outputs)

    def on_train_epoch_start(self) -> None:
        """Starts as nnU-Net does; tells the network how far the training is, for heads that change during it."""
        super().on_train_epoch_start()
        if isinstance(self.bare_network, Segmenter):
            self.bare_network.set_progress(self.current_epoch / self.num_epochs)

    def train_step(self, batch: dict) -> dict:
        """Makes one step as nnU-Net does, in the recipe's precision and with its gradient clipping."""
        parts = tree_map(
            partial(torch.Tensor.to, device=self.device, non_blocking=True), (batch["data"], batch["target"])
        )
        loss = training_step(
            self.network,
            self.loss,
            self.optimizer,
            *parts,
            autocast=self.precision.autocast(self.device),
            grad_clip=self.recipe.training.grad_clip,
            scaler=self.grad_scaler,
            average=self.average,
            mark=self.meter.mark,
        )
        return {"loss": loss.cpu().numpy()}

    def validation_step(self, batch: dict) -> dict:
        """Validates on one batch as nnU-Net does, which sets the precision itself if the device is a GPU."""
        with self.precision.autocast(self.device):
            return super().validation_step(batch)

    def on_epoch_end(self) -> None:
        """Ends the epoch as nnU-Net does (log, best checkpoint, plot), writes the latest checkpoint and a line."""
        super().on_epoch_end()
        self.outputs = []
        self.account.epoch(self.current_epoch, self.meter.medians(), self.meter.peak())
        self._show_epoch()
        if self.current_epoch < self.num_epochs and self.current_epoch % self.recipe.training.save_every == 0:
            self.save_latest()

    def _show_epoch(self) -> None:
        """Prints one line for every reader, and updates the curves for those at a terminal."""
        value = self.logger.get_value
        dice = value("dice_per_class_or_region", None)
        starts, ends = (value(f"epoch_{moment}_timestamps", None) for moment in ("start", "end"))
        pace = self.meter.pace(starts, ends, self.num_epochs - self.current_epoch)
        self.say(
            f"epoch {self.current_epoch}/{self.num_epochs}  loss {value('train_losses', -1):.4f}  "
            f"val {value('val_losses', -1):.4f}  pseudo Dice {value('mean_fg_dice', -1):.3f} "
            f"[{' '.join(f'{d:.3f}' for d in dice[-1])}]  {pace}"
        )
        self.screen.epoch(value("train_losses", None), value("val_losses", None), dice, pace)

    def on_train_end(self) -> None:
        """Ends as nnU-Net does; the workers end, and what a killed process left half written is removed."""
        super().on_train_end()
        self.dataloader_train = self.dataloader_val = None
        for unfinished in Path(self.output_folder).glob(".*.partial"):  # of checkpoints and of JSON files
            unfinished.unlink(missing_ok=True)

    # --- checkpoints -----------------------------------------------------------------------------------------------

    def save_checkpoint(self, filename: str) -> None:
        """Writes a checkpoint of the epoch that has just ended."""
        if self.local_rank == 0 and self.disable_checkpointing:
            self.print_to_log_file("No checkpoint written, checkpointing is disabled")
        elif self.local_rank == 0:
            checkpoint_file.write(Path(filename), self._checkpoint(self.current_epoch + 1, []))

    def save_latest(self) -> None:
        """Writes checkpoint_latest, wherever the training stands."""
        if self.local_rank == 0 and not self.disable_checkpointing:
            content = self._checkpoint(self.current_epoch, self.outputs)
            checkpoint_file.write(Path(self.output_folder) / "checkpoint_latest.pth", content)

    def _checkpoint(self, epoch: int, outputs: Outputs) -> dict[str, Any]:
        """Returns nnU-Net's content, under the name of the stock trainer, which builds the same network from the plans.

        epoch: the one to go on with; outputs: of the iterations that are done in it. With a running mean of the weights,
        `network_weights` holds the mean, because it is what is predicted with; the trained values stand beside it, to go on from.
        """
        self.frozen.decide(self.bare_network, self.weights_report)
        weights, scaler, average = self.bare_network.state_dict(), self.grad_scaler, self.average
        losses = torch.from_numpy(np.stack([output["loss"] for output in outputs])) if outputs else None
        return {
            "network_weights": self.frozen.left_out(weights if average is None else weights | average.mean),
            "optimizer_state": self.optimizer.state_dict(),
            "grad_scaler_state": scaler.state_dict() if scaler is not None else None,
            "logging": {key: values[:epoch] for key, values in self.logger.get_checkpoint().items()},
            "_best_ema": self._best_ema,
            "current_epoch": epoch,
            "init_args": self.my_init_kwargs,
            "trainer_name": nnUNetTrainer.__name__,
            "inference_allowed_mirroring_axes": self.inference_allowed_mirroring_axes,
            "nnvit": {
                "hash": self.block.hash,
                "trainer": type(self).__name__,
                "weights": self.weights_report,
                "reference": self.frozen.described(),
                "trained": average.trained() if average is not None else None,
                "losses": losses,
                "random": self.random_streams.states(),
            },
        }

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        """Continues from a checkpoint of the same recipe. Raises PlansError for another one's."""
        given = filename_or_checkpoint
        content = given if isinstance(given, dict) else checkpoint_file.read(Path(given))
        self.block.refuse_other_recipe(
            f"the checkpoint in {self.output_folder}",
            [str(content.get("nnvit", {}).get("hash"))],
            "Restore the plans that it was trained with, or start in another folder.",
        )
        self.resumed = True
        if not self.was_initialized:
            self.initialize()
        self._restore(content)
        inside = f" and {len(self.outputs)} iterations" if self.outputs else ""
        self.say(
            f"continuing after {self.current_epoch} of {self.num_epochs} epochs{inside}, from the checkpoint in "
            f"{self.output_folder}"
        )

    def _restore(self, content: dict[str, Any]) -> None:
        """Restores the state in a checkpoint, except the random streams, which `on_train_start` restores."""
        ours = content["nnvit"]
        losses = ours.get("losses")  # older checkpoints were written between epochs, and without random streams
        self.outputs = [] if losses is None else [{"loss": np.asarray(loss)} for loss in losses.numpy()]
        self.random_states = ours.get("random")
        self.bare_network.load_state_dict(content["network_weights"])
        self.frozen.resume(content["network_weights"], self.bare_network)
        if self.average is not None:
            updates = content["current_epoch"] * self.num_iterations_per_epoch + len(self.outputs)
            self.average.restore(ours["trained"], updates)
        self.optimizer.load_state_dict(content["optimizer_state"])
        if self.grad_scaler is not None and content["grad_scaler_state"] is not None:
            self.grad_scaler.load_state_dict(content["grad_scaler_state"])
        self.my_init_kwargs = content["init_args"]
        self.current_epoch = content["current_epoch"]
        self.logger.load_checkpoint(content["logging"])
        self._best_ema = content["_best_ema"]
        self.inference_allowed_mirroring_axes = content["inference_allowed_mirroring_axes"]
        self.weights_report = ours["weights"]
