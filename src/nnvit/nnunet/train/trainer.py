"""The one trainer: nnU-Net's, with a timed loop, checkpoints that a kill cannot break, and a record of the run."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
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
from nnvit.nnunet.predict.fast_predictor import FastPredictor
from nnvit.records.model_name import ModelName
from nnvit.records.run_record import RunRecord, split_hash

from .curves import Screen, TensorBoardLogger
from .iterations import Interrupted, Outputs, Signals, iterate
from .meter import Meter
from .randomness import close_batches
from .recipe_trainer import RecipeTrainer
from .run_account import RunAccount, found_facts
from .validation import validate_fast, validation_progress


class nnUNetTrainer_nnvit(RecipeTrainer):
    """Trains, keeps and validates what the `nnvit` block of its plans says.

    validated: file name of the checkpoint that the final validation is of; fast_validation: validate with the predictor of
    `nnvit predict`.
    """

    validated = checkpoint_file.FINAL
    fast_validation = False
    random_states: dict[str, Any] | None = None  # of the checkpoint that is continued
    on_case: Callable[[], None] | None = None  # called as each case of the final validation begins

    def _prepare(self) -> None:
        first = self.local_rank == 0
        self.account = RunAccount(Path(self.output_folder), writes=first)
        self.meter, self.signals = Meter(self.device), Signals(self.say)
        self.screen = Screen(f"{self.recipe.name}  fold {self.fold}", self.classes, visible=first)

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
            close_batches(self.dataloader_train, self.dataloader_val)
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
        block, (training, validation_cases) = self.block, self.do_split()
        return RunRecord(
            schema=block.schema,
            recipe=block.recipe,
            recipe_hash=block.hash,
            base_plans=block.base_plans,
            base_plans_hash=block.base_plans_hash,
            plans=self.plans_manager.plans_name,
            configuration=self.configuration_name,
            fold=self.fold,
            split_hash=split_hash(training, validation_cases),
            cases={"train": len(training), "val": len(validation_cases)},
            batch_size=self.configuration_manager.batch_size,
            patch_size=list(self.configuration_manager.patch_size),
            seed=self.recipe.training.seed,
            precision={"name": self.precision.name, "reason": self.precision.reason},
            weights=self.weights_report,
            flops_per_patch=self._flops(),
            augmentation=self.augmentation,
            mirroring_axes=self.inference_allowed_mirroring_axes,
            oversample_foreground_percent=self.oversample_foreground_percent,
            epochs_done=self.current_epoch,
            **found_facts(self.bare_network, Path(self.preprocessed_dataset_folder), self.device),
        )

    def _flops(self) -> int:
        """Counts the FLOPs of predicting one patch, on a network on the meta device."""
        plans, channels, heads = self.plans_manager, self.num_input_channels, self.label_manager.num_segmentation_heads
        planned = self.configuration_manager
        build = partial(self.build_network_architecture, plans, planned, channels, heads, False)
        return forward_flops(build, (1, channels, *planned.patch_size))

    def _train_epoch(self) -> None:
        """Runs the training iterations that are left of this epoch. Raises Interrupted after a signal."""
        self.on_train_epoch_start()
        self.meter.restart()
        every, total = self.recipe.training.save_every_iterations, self.num_iterations_per_epoch
        advance = self.screen.phase(f"epoch {self.current_epoch + 1}/{self.num_epochs}", total, len(self.outputs))

        def after(done: int) -> None:
            advance(f"loss {self.outputs[-1]['loss']:.3f}")
            if every is not None and done % every == 0:
                self.save_latest()

        batches = self.dataloader_train
        iterate(self.train_step, batches, self.outputs, total, signals=self.signals, meter=self.meter, after=after)
        self.on_train_epoch_end(self.outputs)

    def _validate_epoch(self) -> None:
        """Computes the pseudo Dice of this epoch. Raises Interrupted after a signal."""
        outputs: Outputs = []
        total, batches = self.num_val_iterations_per_epoch, self.dataloader_val
        advance = self.screen.phase("pseudo Dice", total)
        with torch.no_grad(), self.averaged():
            self.on_validation_epoch_start()
            iterate(self.validation_step, batches, outputs, total, signals=self.signals, after=lambda _: advance(""))
            self.on_validation_epoch_end(outputs)

    def on_train_epoch_start(self) -> None:
        """Starts as nnU-Net does; a head that changes in the course of the training is told how far it is."""
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

    def averaged(self) -> AbstractContextManager[None]:
        """Gives the network the running mean of its weights within the context, if the recipe keeps one."""
        return self.average.applied() if self.average is not None else nullcontext()

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
        checkpoint_file.sweep(Path(self.output_folder))

    # --- checkpoints -----------------------------------------------------------------------------------------------

    def save_checkpoint(self, filename: str) -> None:
        """Writes a checkpoint of the epoch that has just ended."""
        if self.local_rank != 0:
            return
        if self.disable_checkpointing:
            self.print_to_log_file("No checkpoint written, checkpointing is disabled")
            return
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
        """Takes the place of a checkpoint; the random streams are restored as training starts."""
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

    # --- final validation ------------------------------------------------------------------------------------------

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Validates as nnU-Net does or, with `fast_validation`, by the fast predictor.

        nnU-Net's own runs in the stock predictor's precision, so that stock prediction gives the same masks.
        """
        if self.fast_validation and (reason := self._why_not_fast()):
            self.say(f"--fast-validation is left out for this training, as {reason}")
            self.fast_validation = False
        cases, precision = len(self.do_split()[1]), None
        mirroring = "with mirroring" if self.inference_allowed_mirroring_axes else "without mirroring"
        whose = "nnvit predict's" if self.fast_validation else "nnU-Net's"
        self.say(f"validating {cases} cases with {whose} sliding window, {mirroring}")
        with validation_progress(cases, self.say, visible=self.local_rank == 0) as self.on_case, self.averaged():
            self.bare_network.float()  # what was frozen was kept in the precision of the training
            if self.fast_validation:
                precision = self._validate_fast(save_probabilities)
            else:
                super().perform_actual_validation(save_probabilities)
        self.on_case = None
        self.account.validated(self.validated, self.inference_allowed_mirroring_axes, precision)
        model = ModelName.parse(Path(self.output_folder_base).name)
        if model is not None and not self.disable_checkpointing:
            dataset = self.plans_manager.dataset_name
            self.say(f"to predict: {model.predict_command(dataset, [self.fold], device=self.device.type)}")

    def _why_not_fast(self) -> str | None:
        if self.is_ddp:
            return "several GPUs share its cases"
        if self.is_cascaded or self.configuration_manager.next_stage_names:
            return "it is a stage of a cascade"
        return None

    def _validate_fast(self, save_probabilities: bool) -> str:
        """Leaves what nnU-Net's own would leave; returns the precision's name."""
        self.set_deep_supervision_enabled(False)
        precision, scores = validate_fast(
            self._fast_predictor,
            self.dataset_class(self.preprocessed_dataset_folder, self.do_split()[1]),
            Path(self.output_folder) / "validation",
            Path(self.preprocessed_dataset_folder_base) / "gt_segmentations",
            begins=lambda name: self.print_to_log_file(f"predicting {name}"),
            say=self.say,
            save_probabilities=save_probabilities,
        )
        for label, mean in scores["mean"].items():
            self.logger.log_summary(f"final_val/class_{label}_dice", mean["Dice"])
        dice = scores["foreground_mean"]["Dice"]
        self.logger.log_summary("final_val/foreground_dice", dice)
        self.print_to_log_file("Validation complete", also_print_to_console=True)
        self.print_to_log_file("Mean Validation Dice: ", dice, also_print_to_console=True)
        self.set_deep_supervision_enabled(True)
        return precision

    def _fast_predictor(self) -> FastPredictor:
        predictor = FastPredictor(device=self.device, allow_tqdm=False)
        predictor.wanted = self.recipe.training.precision
        predictor.manual_initialization(
            self.bare_network,
            self.plans_manager,
            self.configuration_manager,
            None,
            self.dataset_json,
            type(self).__name__,
            self.inference_allowed_mirroring_axes,
        )
        return predictor

    def print_to_log_file(self, *args: Any, also_print_to_console: bool = False, add_timestamp: bool = True) -> None:
        """Writes to nnU-Net's log file; the console shows only what was meant for it explicitly."""
        if self.on_case is not None and str(args[0]).startswith("predicting "):
            self.on_case()
        super().print_to_log_file(*args, also_print_to_console=also_print_to_console, add_timestamp=add_timestamp)
