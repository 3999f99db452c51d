"""A folder of nnU-Net's naming, `case_0000.png`: predicted with nnU-Net's own processes and files."""

import io
import re
import sys
import time
from collections import defaultdict
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from nnvit.data import mask_drawing
from nnvit.data.image_reading import read_image
from nnvit.data.pairing import IMAGE_SUFFIXES, refuse
from nnvit.errors import ConfigError, DataError
from nnvit.nnunet import progress
from nnvit.nnunet.model_folder import TrainedModel

from .mask_legend import MaskLegend, MaskValues
from .photograph_pipeline import write_png
from .prediction_record import PredictionOutcome, notes_on_existing
from .stock_predictor import StockPredictor


@dataclass(frozen=True, kw_only=True)
class StockFlags:
    """Flags of nnUNetv2_predict, under nnU-Net's names."""

    save_probabilities: bool = False
    continue_prediction: bool = False
    npp: int = 3
    nps: int = 3
    prev_stage_predictions: Path | None = None
    num_parts: int = 1
    part_id: int = 0


def is_case_folder(source: Path, model: TrainedModel) -> bool:
    """True if every picture in a folder is named case_XXXX, numbered from 0000 for each case.

    A camera's IMG_0001.png, IMG_0002.png, … are photographs. A model of volumes takes nothing but nnU-Net's naming.
    """
    if not model.takes_photographs:
        return True
    if not source.is_dir():
        return False
    pictures = [p for p in source.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
    cases = _case_files(source, model.ending)
    counts = [len(paths) for paths in cases.values()]
    numbered = all(_numbers(case, paths) == [f"{i:04d}" for i in range(len(paths))] for case, paths in cases.items())
    return numbered and 0 < len(pictures) == sum(counts) and max(counts) <= model.channels


def predict_cases(
    model: TrainedModel,
    predictor: StockPredictor,
    source: Path,
    out: Path,
    flags: StockFlags,
    *,
    overlays: bool = False,
    verbose: bool = False,
    bar: bool = True,
) -> PredictionOutcome:
    """Predicts cases as nnUNetv2_predict does with the same flags. overlays: draw them too, for flat pictures.

    Raises DataError for cases that lack a channel file, and ConfigError for flags that exclude each other.
    """
    _check(model, flags, overlays)
    cases = _case_files(source, model.ending)
    _refuse_incomplete(cases, source, model.ending)
    names = sorted(cases)[flags.part_id :: flags.num_parts]
    endings = [model.ending, *([".npz"] if flags.save_probabilities else [])]
    existing = [name for name in names if all((out / f"{name}{ending}").is_file() for ending in endings)]
    kept = existing if flags.continue_prediction else []
    todo = [name for name in names if name not in kept]
    for line in notes_on_existing(len(existing), f"{len(names)} cases", keep=flags.continue_prediction):
        print(line, flush=True)
    if todo:
        out.mkdir(parents=True, exist_ok=True)
        inputs, outputs = [list(map(str, cases[name])) for name in todo], [str(out / name) for name in todo]
        with progress.bar("predicting", len(todo), bar) as advance:
            predictor.on_case = _CaseLines(len(todo), advance)
            _run(predictor, inputs, outputs, flags, verbose)
    for name in names if overlays else []:
        write_png(out / "overlays" / f"{name}.png", _drawn(model, cases[name][0], out / f"{name}{model.ending}"))
    return PredictionOutcome(out=out, predicted=todo, kept=kept)


class _CaseLines:
    """Prints a line per case with the time left. Writing is a little behind predicting."""

    def __init__(self, total: int, advance: progress.Advance) -> None:
        self.total, self.advance = total, advance
        self.start, self.done = time.perf_counter(), 0
        self.console = sys.stdout  # nnU-Net's own printing is caught while it predicts

    def __call__(self) -> None:
        self.done += 1
        left = (time.perf_counter() - self.start) / self.done * (self.total - self.done)
        print(f"{self.done}/{self.total} predicted, ETA {progress.duration(left)}", file=self.console, flush=True)
        self.advance("")


def _case_files(folder: Path, ending: str) -> dict[str, list[Path]]:
    """Returns case -> its files, sorted, one per channel file."""
    cases = defaultdict(list)
    for path in sorted(folder.glob(f"*{ending}")):
        if match := re.fullmatch(r"(.+)_\d{4}", path.name.removesuffix(ending)):
            cases[match[1]].append(path)
    return dict(cases)


def _numbers(case: str, paths: list[Path]) -> list[str]:
    return [path.name[len(case) + 1 :][:4] for path in paths]


def _run(
    predictor: StockPredictor, inputs: list[list[str]], outputs: list[str], flags: StockFlags, verbose: bool
) -> None:
    previous = str(flags.prev_stage_predictions) if flags.prev_stage_predictions else None
    with redirect_stdout(sys.stdout if verbose else io.StringIO()):
        if flags.npp == flags.nps == 0:
            predictor.predict_from_files_sequential(inputs, outputs, flags.save_probabilities, True, previous)
            return
        try:
            predictor.predict_from_files(
                inputs, outputs, flags.save_probabilities, True, flags.npp, flags.nps, previous
            )
        except RuntimeError as error:
            if "worker" not in str(error):
                raise
            raise DataError(
                f"a background process of nnU-Net stopped; the error above names the file or the reason ({error}). Correct it "
                "and continue with --continue_prediction; if memory was short, give -npp 1 -nps 1."
            ) from error


def _check(model: TrainedModel, flags: StockFlags, overlays: bool) -> None:
    if (flags.npp == 0) != (flags.nps == 0):
        raise ConfigError("-npp 0 and -nps 0 go together: they mean one process for everything.")
    if overlays and not model.takes_photographs:
        raise ConfigError(f"--overlay is for flat pictures; this model was trained on {model.ending} files, patch "
                          f"{list(model.configuration.patch_size)}.")  # fmt: skip
    previous = model.configuration.previous_stage_name
    if previous and flags.prev_stage_predictions is None:
        raise ConfigError(
            f"this is the second stage of a cascade; predict with the model of {previous} first, and give its masks with "
            "-prev_stage_predictions."
        )


def _refuse_incomplete(cases: dict[str, list[Path]], source: Path, ending: str) -> None:
    """Raises DataError at once for missing channel files, which nnU-Net would only meet in the network."""
    if not cases:
        raise DataError(f"{source} holds no files of nnU-Net's naming with the model's ending, case_0000{ending}.")
    numbers = {name: set(_numbers(name, paths)) for name, paths in cases.items()}
    complete = set.union(*numbers.values())
    lacking = [f"{name} lacks {', '.join(sorted(complete - has))}" for name, has in numbers.items() if has != complete]
    refuse("the cases differ in their channel files", lacking, "Each case needs a file for every channel.")


def _drawn(model: TrainedModel, picture: Path, mask: Path) -> Image.Image:
    labels = list(MaskLegend.of(model, MaskValues.LABELS).names)
    return mask_drawing.draw(read_image(picture, model.declared_channels).pixels, np.asarray(Image.open(mask)), labels)
