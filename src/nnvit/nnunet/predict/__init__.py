"""`nnvit predict`: photographs as they are, or a folder of nnU-Net's naming, by a fast predictor or by stock nnU-Net's."""

from collections.abc import Sequence
from pathlib import Path

import torch

from nnvit.errors import ConfigError
from nnvit.nnunet.checkpoint_file import FINAL
from nnvit.nnunet.model_folder import FoldId, ModelFolder, TrainedModel

from .cases import CaseFolder
from .mask_legend import MaskValues
from .photographs import predict_photographs
from .prediction_options import PredictionOptions
from .prediction_record import PredictionOutcome
from .predictors import FastPredictor, StockPredictor

__all__ = ["MaskValues", "PredictionOptions", "PredictionOutcome", "predict"]


def predict(
    source: Path,
    out: Path,
    folder: Path,
    device: torch.device,
    options: PredictionOptions,
    *,
    folds: Sequence[FoldId] | None = None,
    checkpoint: str = FINAL,
    kind: str | None = None,
) -> PredictionOutcome:
    """Predicts photographs or cases in `source` with a trained model folder, and prints what it does.

    folds, checkpoint: see `ModelFolder.open`; kind: "photographs" or "nnunet", None to decide by the file names. Raises
    NnvitError for arguments that do not fit together.
    """
    options.check_numbers()
    model = ModelFolder.read(folder).open(folds, checkpoint)
    case_folder = CaseFolder(source, model)
    cases = kind == "nnunet" if kind else case_folder.has_nnunets_naming()
    options.check_kind(cases)
    for line in _lines(model, source, cases, device, options.mirroring):
        print(line, flush=True)
    if options.exact and options.tile_batch:
        raise ConfigError("--tile-batch is for the fast predictor; --exact takes one tile at a time, as nnU-Net does.")
    predictor = StockPredictor.of(model, device, options) if options.exact else _fast(model, device, options)
    if cases:
        return case_folder.predict(predictor, out, options)
    return predict_photographs(model, predictor, source, out, options)


def _fast(model: TrainedModel, device: torch.device, options: PredictionOptions) -> FastPredictor:
    predictor = FastPredictor.of(model, device, options)
    model.parameters.clear()  # the predictor holds its own
    predictor.batches.size = options.tile_batch
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
