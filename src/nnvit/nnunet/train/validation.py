"""The final validation, by nnU-Net's predictor or by the fast one: the same cases, files and scores, another sliding window."""

import io
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from nnunetv2.configuration import default_num_processes
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder

from nnvit.nnunet.predict.fast_predictor import FastPredictor

from . import screen

if TYPE_CHECKING:
    from .trainer import nnUNetTrainer_nnvit


def run(trainer: "nnUNetTrainer_nnvit", stock: Callable[[bool], None], save_probabilities: bool = False) -> None:
    """`stock`, nnU-Net's own, in the stock predictor's precision, so that stock prediction gives the same; shown as it goes.

    With `trainer.fast_validation`, where that can be, the fast predictor's.
    """
    if trainer.fast_validation and (reason := why_not(trainer)):
        trainer.say(f"--fast-validation is left out for this training, as {reason}")
        trainer.fast_validation = False
    precision = None
    with _progress(trainer), trainer.averaged():
        trainer.bare_network.float()  # what was frozen was kept in the precision of the training
        if trainer.fast_validation:
            precision = validate_fast(trainer, save_probabilities)
        else:
            stock(save_probabilities)
    trainer.manifest.done(trainer.validated, precision)
    if not trainer.disable_checkpointing:
        trainer.say(f"to predict: {_command(trainer)}")


@contextmanager
def _progress(trainer: "nnUNetTrainer_nnvit") -> Iterator[None]:
    """A line and a step of the bar for every case."""
    total = len(trainer.do_split()[1])
    mirroring = "with mirroring" if trainer.inference_allowed_mirroring_axes else "without mirroring"
    whose = "nnvit predict's" if trainer.fast_validation else "nnU-Net's"
    trainer.say(f"validating {total} cases with {whose} sliding window, {mirroring}")
    start, done = time.perf_counter(), 0
    with screen.bar("  validation", total, trainer.local_rank == 0) as advance:

        def on_case() -> None:
            nonlocal done
            if done:
                left = (time.perf_counter() - start) / done * (total - done)
                trainer.say(f"  {done}/{total} predicted, ETA {screen.duration(left)}")
                advance("")
            done += 1

        trainer.on_case = on_case
        yield
    trainer.on_case = None


def _command(trainer: "nnUNetTrainer_nnvit") -> str:
    """The stock command that predicts with what was trained."""
    name, plans, configuration = Path(trainer.output_folder_base).name.split("__")
    device = "" if trainer.device.type == "cuda" else f" -device {trainer.device.type}"
    return (
        f"nnUNetv2_predict -i IMAGES -o OUT -d {trainer.plans_manager.dataset_name} -tr {name} -p {plans} "
        f"-c {configuration} -f {trainer.fold}{device}"
    )


def why_not(trainer: "nnUNetTrainer_nnvit") -> str | None:
    """What keeps a training from being validated the fast way, None where nothing does."""
    if trainer.is_ddp:
        return "several GPUs share its cases"
    if trainer.is_cascaded or trainer.configuration_manager.next_stage_names:
        return "it is a stage of a cascade"
    return None


def validate_fast(trainer: "nnUNetTrainer_nnvit", save_probabilities: bool = False) -> str:
    """What nnU-Net's `perform_actual_validation` leaves behind, for one GPU and no cascade; returns the precision's name.

    The trainer's own network stays as it is.
    """
    trainer.set_deep_supervision_enabled(False)
    folder = Path(trainer.output_folder) / "validation"
    folder.mkdir(exist_ok=True)
    console = sys.stdout
    with redirect_stdout(io.StringIO()):  # nnU-Net's five lines per case
        predictor = _predictor(trainer)
        with redirect_stdout(console):
            for line in predictor.lines:
                trainer.say(f"  {line}")
        cases = _cases(trainer, folder, console)
        predictor.predict_from_data_iterator(cases, save_probabilities, default_num_processes)
    _score(trainer, folder)
    trainer.set_deep_supervision_enabled(True)
    return predictor.precision.name


def _predictor(trainer: "nnUNetTrainer_nnvit") -> FastPredictor:
    predictor = FastPredictor(device=trainer.device, allow_tqdm=False)
    predictor.wanted = trainer.recipe.training.precision
    predictor.manual_initialization(
        trainer.bare_network,
        trainer.plans_manager,
        trainer.configuration_manager,
        None,
        trainer.dataset_json,
        type(trainer).__name__,
        trainer.inference_allowed_mirroring_axes,
    )
    return predictor


def _cases(trainer: "nnUNetTrainer_nnvit", folder: Path, console: Any) -> Iterator[dict[str, Any]]:
    """The preprocessed validation cases, each read when it is wanted."""
    dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder, trainer.do_split()[1])
    for name in dataset.identifiers:
        with redirect_stdout(console):
            trainer.print_to_log_file(f"predicting {name}")
        data, _, _, properties = dataset.load_case(name)
        yield {"data": torch.from_numpy(data[:].copy()), "data_properties": properties, "ofile": str(folder / name)}


def _score(trainer: "nnUNetTrainer_nnvit", folder: Path) -> None:
    """summary.json, and the log's last lines."""
    labels = trainer.label_manager
    metrics = compute_metrics_on_folder(
        str(Path(trainer.preprocessed_dataset_folder_base) / "gt_segmentations"),
        str(folder),
        str(folder / "summary.json"),
        trainer.plans_manager.image_reader_writer_class(),
        trainer.dataset_json["file_ending"],
        labels.foreground_regions if labels.has_regions else labels.foreground_labels,
        labels.ignore_label,
        num_processes=default_num_processes,
        chill=True,
    )
    for label, mean in metrics["mean"].items():
        trainer.logger.log_summary(f"final_val/class_{label}_dice", mean["Dice"])
    dice = metrics["foreground_mean"]["Dice"]
    trainer.logger.log_summary("final_val/foreground_dice", dice)
    trainer.print_to_log_file("Validation complete", also_print_to_console=True)
    trainer.print_to_log_file("Mean Validation Dice: ", dice, also_print_to_console=True)
