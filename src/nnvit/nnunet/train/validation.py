"""The final validation: its progress, and the fast predictor's, with the cases, files and scores of nnU-Net's own."""

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from nnunetv2.configuration import default_num_processes
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset

from nnvit.nnunet.predict.predictors import FastPredictor
from nnvit.nnunet.progress import bar

_Say = Callable[[str], None]


@contextmanager
def validation_progress(total: int, say: _Say, *, visible: bool) -> Iterator[Callable[[], None]]:
    """Shows a line and a step of the bar for every case; yields what is called as each of `total` cases begins."""
    with bar("  validation", total, visible) as step:
        first = True

        def begins() -> None:
            nonlocal first
            if not first:
                done, left = step()
                say(f"  {done} predicted, {left}")
            first = False

        yield begins


def validate_fast(
    load_predictor: Callable[[], FastPredictor],
    dataset: nnUNetBaseDataset,
    folder: Path,
    references: Path,
    *,
    begins: _Say,
    say: _Say,
    save_probabilities: bool,
) -> tuple[str, dict[str, Any]]:
    """Predicts preprocessed cases into a folder and scores them; returns the precision's name, and what summary.json holds.

    load_predictor: makes the predictor; begins: is told each case's name before it is predicted.
    """
    folder.mkdir(exist_ok=True)
    console = sys.stdout

    def cases() -> Iterator[dict[str, Any]]:
        for name in dataset.identifiers:
            with redirect_stdout(console):
                begins(name)
            data, _, _, properties = dataset.load_case(name)
            yield {"data": torch.from_numpy(data[:].copy()), "data_properties": properties, "ofile": str(folder / name)}

    with redirect_stdout(io.StringIO()):  # nnU-Net prints five lines per case
        predictor = load_predictor()
        with redirect_stdout(console):
            for line in predictor.lines:
                say(f"  {line}")
        predictor.predict_from_data_iterator(cases(), save_probabilities, default_num_processes)
    labels = predictor.label_manager
    scores = compute_metrics_on_folder(
        str(references),
        str(folder),
        str(folder / "summary.json"),
        predictor.plans_manager.image_reader_writer_class(),
        predictor.dataset_json["file_ending"],
        labels.foreground_regions if labels.has_regions else labels.foreground_labels,
        labels.ignore_label,
        num_processes=default_num_processes,
        chill=True,
    )
    return predictor.precision.name, scores
