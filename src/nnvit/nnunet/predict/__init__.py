"""`nnvit predict`: photographs as they are, or a folder of nnU-Net's naming, by a fast predictor or stock nnU-Net's own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nnvit.data.pairing import IMAGE_SUFFIXES
from nnvit.errors import ConfigError

from .cases import Flags, case_files, predict_cases
from .fast_predictor import FastPredictor
from .mask_values import Values, meaning_of
from .model_folder import FINAL, Fold, Model, Predictor, find_model, open_model, predictor_of
from .photograph_steps import Wanted
from .photographs import Outcome, predict_photographs

__all__ = ["FINAL", "Flags", "Model", "Outcome", "Values", "find_model", "is_case_folder", "open_model", "predict"]


def predict(
    source: Path,
    out: Path,
    folder: Path,
    device: torch.device,
    *,
    folds: Sequence[Fold] | None = None,
    checkpoint: str = FINAL,
    kind: str | None = None,
    flags: Flags | None = None,
    values: Values | None = None,
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
) -> Outcome:
    """Predicts what lies in `source` with a trained model folder, and says what it does.

    kind: "photographs" or "nnunet", None to look at the names; flags: nnU-Net's; exact: by stock nnU-Net's predictor, to the
    last pixel; tile_batch: as in `FastPredictor`; bar: show bars on a terminal; the rest as in `open_model`, `predictor_of`,
    `Wanted` and `meaning_of`. Raises NnvitError for what does not fit together.
    """
    flags = flags or Flags()
    _check_numbers(step_size, flags)
    model = open_model(folder, folds, checkpoint)
    cases = kind == "nnunet" if kind else is_case_folder(source, model)
    _check_kind(cases, values, probabilities, recursive, flags)
    for line in _lines(model, source, cases, device, mirroring):
        print(line, flush=True)
    if exact and tile_batch:
        raise ConfigError("--tile-batch is for the fast way; --exact takes one tile at a time, as nnU-Net does.")
    settings = {"step_size": step_size, "mirroring": mirroring, "on_device": on_device, "verbose": verbose}
    predictor = _predictor(model, device, settings, exact, tile_batch)
    if cases:
        return predict_cases(model, predictor, source, out, flags, draw=overlay, verbose=verbose, bar=bar)
    wanted = Wanted(
        meaning=meaning_of(model, values),
        overlay=overlay,
        probabilities=probabilities,
        keep=flags.continue_prediction,
        recursive=recursive,
        num_parts=flags.num_parts,
        part_id=flags.part_id,
    )
    return predict_photographs(model, predictor, source, out, wanted, verbose=verbose, bar=bar)


def _predictor(
    model: Model, device: torch.device, settings: dict[str, Any], exact: bool, tile_batch: int | None
) -> Predictor:
    if exact:
        return predictor_of(model, device, Predictor, **settings)
    predictor = predictor_of(model, device, FastPredictor, **settings)
    model.parameters.clear()  # the predictor holds its own
    predictor.take(tile_batch)
    for line in predictor.lines:
        print(line, flush=True)
    print("undecided pixels may differ from nnUNetv2_predict's; --exact gives its masks", flush=True)
    return predictor


def is_case_folder(source: Path, model: Model) -> bool:
    """Whether a folder follows nnU-Net's naming: every picture is called case_XXXX, counted from 0000 up for each case.

    A camera's IMG_0001.png, IMG_0002.png and so on are photographs. Models of volumes take nothing but nnU-Net's naming.
    """
    if not model.takes_photographs:
        return True
    if not source.is_dir():
        return False
    pictures = [p for p in source.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
    cases = case_files(source, model.ending)
    numbered = all(
        [path.name[len(case) + 1 :][:4] for path in paths] == [f"{i:04d}" for i in range(len(paths))]
        for case, paths in cases.items()
    )
    return (
        numbered
        and 0 < len(pictures) == sum(map(len, cases.values()))
        and max(map(len, cases.values())) <= model.channels
    )


def _lines(model: Model, source: Path, cases: bool, device: torch.device, mirroring: bool) -> list[str]:
    folds = ", ".join(map(str, model.folds))
    mirrored = "with mirroring" if mirroring and model.mirroring_axes else "without mirroring"
    what = "a folder of nnU-Net's naming" if cases else "photographs"
    return [
        f"model {model.folder}",
        f"fold{'s' * (len(model.folds) > 1)} {folds}, {model.checkpoint}, on {device.type}, {mirrored}",
        f"{source} is taken as {what} (--as says otherwise)",
    ]


def _check_numbers(step_size: float, flags: Flags) -> None:
    if not 0 < step_size <= 1:
        raise ConfigError(f"-step_size {step_size} must be above 0 and at most 1; nnU-Net's own is 0.5.")
    if not 0 <= flags.part_id < flags.num_parts:
        raise ConfigError(
            f"-part_id {flags.part_id} must be from 0 to {flags.num_parts - 1} with -num_parts {flags.num_parts}."
        )


def _check_kind(cases: bool, values: Values | None, probabilities: bool, recursive: bool, flags: Flags) -> None:
    if cases and probabilities:
        raise ConfigError("--probabilities is for photographs; a folder of nnU-Net's naming has --save_probabilities.")
    if cases and (recursive or values not in (None, Values.LABELS)):
        raise ConfigError(
            "--recursive and --values are for photographs; masks of a folder of nnU-Net's naming are nnU-Net's own. "
            "If the files are photographs, say --as photographs."
        )
    if not cases and flags.save_probabilities:
        raise ConfigError(
            "--save_probabilities (nnU-Net's npz) is for a folder of nnU-Net's naming; for photographs --probabilities "
            "writes one 16-bit picture per label."
        )
