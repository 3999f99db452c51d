"""The final validation by the fast predictor: the same cases, files and scores as nnU-Net's own, in less time."""

import io
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from nnunetv2.configuration import default_num_processes
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnvit.nnunet.predict.fast_predictor import FastPredictor
from nnvit.nnunet.progress import bar, duration

Say = Callable[[str], None]


@contextmanager
def progress(total: int, say: Say, *, visible: bool) -> Iterator[Callable[[], None]]:
    """Shows a line and a step of the bar for every case; yields what is called as each of `total` cases begins."""
    start, done = time.perf_counter(), 0
    with bar("  validation", total, visible) as advance:

        def begins() -> None:
            nonlocal done
            if done:
                left = (time.perf_counter() - start) / done * (total - done)
                say(f"  {done}/{total} predicted, ETA {duration(left)}")
                advance("")
            done += 1

        yield begins


def predict(
    load_predictor: Callable[[], FastPredictor],
    dataset: nnUNetBaseDataset,
    folder: Path,
    *,
    begins: Say,
    say: Say,
    save_probabilities: bool,
) -> str:
    """Predicts preprocessed cases into a folder; returns the precision's name.

    load_predictor: makes the predictor; begins: is told each case's name before it is predicted.
    """
    folder.mkdir(exist_ok=True)
    console = sys.stdout
    with redirect_stdout(io.StringIO()):  # nnU-Net prints five lines per case
        predictor = load_predictor()
        with redirect_stdout(console):
            for line in predictor.lines:
                say(f"  {line}")
        cases = _cases(dataset, folder, begins, console)
        predictor.predict_from_data_iterator(cases, save_probabilities, default_num_processes)
    return predictor.precision.name


def _cases(dataset: nnUNetBaseDataset, folder: Path, begins: Say, console: Any) -> Iterator[dict[str, Any]]:
    """Reads each preprocessed case when it is wanted."""
    for name in dataset.identifiers:
        with redirect_stdout(console):
            begins(name)
        data, _, _, properties = dataset.load_case(name)
        yield {"data": torch.from_numpy(data[:].copy()), "data_properties": properties, "ofile": str(folder / name)}


def score(folder: Path, ground_truth: Path, plans: PlansManager, dataset_json: dict[str, Any]) -> dict[str, Any]:
    """Writes summary.json as nnU-Net does; returns what it holds."""
    labels = plans.get_label_manager(dataset_json)
    return compute_metrics_on_folder(
        str(ground_truth),
        str(folder),
        str(folder / "summary.json"),
        plans.image_reader_writer_class(),
        dataset_json["file_ending"],
        labels.foreground_regions if labels.has_regions else labels.foreground_labels,
        labels.ignore_label,
        num_processes=default_num_processes,
        chill=True,
    )
