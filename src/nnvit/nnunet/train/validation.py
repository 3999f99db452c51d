"""The final validation of a training, by nnU-Net's predictor or by the fast one, which leaves the same files and scores."""

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from itertools import count
from pathlib import Path
from typing import Any

import torch
from nnunetv2.configuration import default_num_processes
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset

from nnvit.nnunet import checkpoint_file
from nnvit.nnunet.predict.predictors import FastPredictor
from nnvit.nnunet.progress import bar
from nnvit.records.model_name import ModelName

from .recipe_trainer import RecipeTrainer
from .run_account import RunAccount


class ValidatingTrainer(RecipeTrainer):
    """Validates the trained network, shows how far it is, and notes the result in the run record.

    validated: file name of the checkpoint that the final validation is of; fast_validation: validate with the predictor of
    `nnvit predict`.
    """

    validated = checkpoint_file.FINAL
    fast_validation = False
    on_case: Callable[[], None] | None = None  # called as each case of the final validation begins

    def _prepare(self) -> None:
        self.account = RunAccount(Path(self.output_folder), writes=self.local_rank == 0)

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
        with self._shown_cases(cases) as self.on_case, self.averaged():
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

    @contextmanager
    def _shown_cases(self, total: int) -> Iterator[Callable[[], None]]:
        """Shows a line and a step of the bar for every case; yields what is called as each of `total` cases begins."""
        with bar("  validation", total, self.local_rank == 0) as step:
            begun = count()

            def begins() -> None:
                if next(begun):
                    self.say("  {} predicted, {}".format(*step()))

            yield begins

    def print_to_log_file(self, *args: Any, also_print_to_console: bool = False, add_timestamp: bool = True) -> None:
        """Writes to nnU-Net's log file; the console shows only what was meant for it explicitly."""
        if self.on_case is not None and str(args[0]).startswith("predicting "):
            self.on_case()
        super().print_to_log_file(*args, also_print_to_console=also_print_to_console, add_timestamp=add_timestamp)

    def _validate_fast(self, save_probabilities: bool) -> str:
        """Predicts and scores the cases, and leaves what nnU-Net's own would leave; returns the precision's name."""
        self.set_deep_supervision_enabled(False)
        dataset = self.dataset_class(self.preprocessed_dataset_folder, self.do_split()[1])
        folder, console = Path(self.output_folder) / "validation", sys.stdout
        folder.mkdir(exist_ok=True)
        with redirect_stdout(io.StringIO()):  # nnU-Net prints five lines per case
            predictor = self._fast_predictor()
            with redirect_stdout(console):
                for line in predictor.lines:
                    self.say(f"  {line}")
            cases = self._preprocessed(dataset, folder, console)
            predictor.predict_from_data_iterator(cases, save_probabilities, default_num_processes)
        labels = predictor.label_manager
        scores = compute_metrics_on_folder(
            str(Path(self.preprocessed_dataset_folder_base) / "gt_segmentations"),
            str(folder),
            str(folder / "summary.json"),
            predictor.plans_manager.image_reader_writer_class(),
            predictor.dataset_json["file_ending"],
            labels.foreground_regions if labels.has_regions else labels.foreground_labels,
            labels.ignore_label,
            num_processes=default_num_processes,
            chill=True,
        )
        for label, mean in scores["mean"].items():
            self.logger.log_summary(f"final_val/class_{label}_dice", mean["Dice"])
        dice = scores["foreground_mean"]["Dice"]
        self.logger.log_summary("final_val/foreground_dice", dice)
        self.print_to_log_file("Validation complete", also_print_to_console=True)
        self.print_to_log_file("Mean Validation Dice: ", dice, also_print_to_console=True)
        self.set_deep_supervision_enabled(True)
        return predictor.precision.name

    def _fast_predictor(self) -> FastPredictor:
        predictor = FastPredictor(device=self.device, allow_tqdm=False)
        predictor.wanted = self.recipe.training.precision
        described = self.plans_manager, self.configuration_manager, None, self.dataset_json, type(self).__name__
        predictor.manual_initialization(self.bare_network, *described, self.inference_allowed_mirroring_axes)
        return predictor

    def _preprocessed(self, dataset: nnUNetBaseDataset, folder: Path, console: Any) -> Iterator[dict[str, Any]]:
        """Yields the cases as nnU-Net's predictor takes them; each is named in the log before it is predicted."""
        for name in dataset.identifiers:
            with redirect_stdout(console):
                self.print_to_log_file(f"predicting {name}")
            data, _, _, properties = dataset.load_case(name)
            yield {"data": torch.from_numpy(data[:].copy()), "data_properties": properties, "ofile": str(folder / name)}
