"""`nnvit predict`: photographs as they are, or a folder of nnU-Net's naming, by a fast predictor or by stock nnU-Net's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nnvit.errors import ConfigError
from nnvit.nnunet.checkpoint_file import FINAL
from nnvit.nnunet.model_folder import FoldId, TrainedModel, open_model

from .cases import StockFlags, is_case_folder, predict_cases
from .fast_predictor import FastPredictor
from .mask_legend import MaskLegend, MaskValues
from .photograph_pipeline import PhotographOptions
from .photographs import predict_photographs
from .prediction_record import PredictionOutcome
from .stock_predictor import StockPredictor

__all__ = ["MaskValues", "PredictionOutcome", "StockFlags", "predict"]


def predict(
    source: Path,
    out: Path,
    folder: Path,
    device: torch.device,
    *,
    folds: Sequence[FoldId] | None = None,
    checkpoint: str = FINAL,
    kind: str | None = None,
    flags: StockFlags | None = None,
    values: MaskValues | None = None,
    overlay: bool = False,
    probabilities: bool = False,
    recursive: bool = False,
    step_size: float = 0.5,
    mirroring: bool = True,
    on_device: bool = True,
    exact: bool = False,
    tile_batch: int | None = None,
    verbose: bool = False,
    bar: bool = True,
) -> PredictionOutcome:
    """Predicts photographs or cases in `source` with a trained model folder, and prints what it does.

    kind: "photographs" or "nnunet", None to decide by the file names; exact: use stock nnU-Net's predictor, whose masks are
    nnUNetv2_predict's to the last pixel; tile_batch: see `FastPredictor.set_tile_batch`; bar: show progress bars on a terminal;
    the others: see `open_model`, `StockPredictor.of`, `PhotographOptions` and `MaskLegend`. Raises NnvitError for arguments
    that do not fit together.
    """
    flags = flags or StockFlags()
    _check_numbers(step_size, flags)
    model = open_model(folder, folds, checkpoint)
    cases = kind == "nnunet" if kind else is_case_folder(source, model)
    _check_kind(cases, values, probabilities, recursive, flags)
    for line in _lines(model, source, cases, device, mirroring):
        print(line, flush=True)
    if exact and tile_batch:
        raise ConfigError("--tile-batch is for the fast predictor; --exact takes one tile at a time, as nnU-Net does.")
    settings: dict[str, Any] = {
        "step_size": step_size,
        "mirroring": mirroring,
        "on_device": on_device,
        "verbose": verbose,
    }
    predictor = StockPredictor.of(model, device, **settings) if exact else _fast(model, device, settings, tile_batch)
    if cases:
        return predict_cases(model, predictor, source, out, flags, overlays=overlay, verbose=verbose, bar=bar)
    options = PhotographOptions(
        legend=MaskLegend.of(model, values),
        overlay=overlay,
        probabilities=probabilities,
        keep=flags.continue_prediction,
        recursive=recursive,
        num_parts=flags.num_parts,
        part_id=flags.part_id,
    )
    return predict_photographs(model, predictor, source, out, options, verbose=verbose, bar=bar)


def _fast(model: TrainedModel, device: torch.device, settings: dict[str, Any], tile_batch: int | None) -> FastPredictor:
    predictor = FastPredictor.of(model, device, **settings)
    model.parameters.clear()  # the predictor holds its own
    predictor.set_tile_batch(tile_batch)
    for line in predictor.lines:
        print(line, flush=True)
    print("undecided pixels may differ from nnUNetv2_predict's; --exact gives its masks", flush=True)
    return predictor


def _lines(model: TrainedModel, source: Path, cases: bool, device: torch.device, mirroring: bool) -> list[str]:
    folds = ", ".join(map(str, model.folds))
    mirrored = "with mirroring" if mirroring and model.mirroring_axes else "without mirroring"
    what = "a folder of nnU-Net's naming" if cases else "photographs"
    return [
        f"model {model.folder}",
        f"fold{'s' * (len(model.folds) > 1)} {folds}, {model.checkpoint}, on {device.type}, {mirrored}",
        f"{source} is taken as {what} (--as changes that)",
    ]


def _check_numbers(step_size: float, flags: StockFlags) -> None:
    if not 0 < step_size <= 1:
        raise ConfigError(f"-step_size {step_size} must be above 0 and at most 1; nnU-Net's own is 0.5.")
    if not 0 <= flags.part_id < flags.num_parts:
        raise ConfigError(
            f"-part_id {flags.part_id} must be from 0 to {flags.num_parts - 1} with -num_parts {flags.num_parts}."
        )


def _check_kind(
    cases: bool, values: MaskValues | None, probabilities: bool, recursive: bool, flags: StockFlags
) -> None:
    if cases and probabilities:
        raise ConfigError("--probabilities is for photographs; a folder of nnU-Net's naming has --save_probabilities.")
    if cases and (recursive or values not in (None, MaskValues.LABELS)):
        raise ConfigError(
            "--recursive and --values are for photographs; masks of a folder of nnU-Net's naming are nnU-Net's own. "
            "If the files are photographs, give --as photographs."
        )
    if not cases and flags.save_probabilities:
        raise ConfigError(
            "--save_probabilities (nnU-Net's npz) is for a folder of nnU-Net's naming; for photographs --probabilities "
            "writes one 16-bit picture per label."
        )
