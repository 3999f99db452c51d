"""A folder of nnU-Net's naming, `case_0000.png`: predicted by stock nnU-Net, with its own processes and files."""

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
from nnvit.data.pairing import refuse
from nnvit.errors import ConfigError, DataError
from nnvit.nnunet.train import screen

from .mask_values import Values, meaning_of
from .model_folder import Model, Predictor
from .photograph_steps import write_image
from .photographs import Outcome


@dataclass(frozen=True, kw_only=True)
class Flags:
    """nnUNetv2_predict's own, by its names."""

    save_probabilities: bool = False
    continue_prediction: bool = False
    npp: int = 3
    nps: int = 3
    prev_stage_predictions: Path | None = None
    num_parts: int = 1
    part_id: int = 0


def case_files(folder: Path, ending: str) -> dict[str, list[Path]]:
    """Case -> its files, one per channel file, in order."""
    cases = defaultdict(list)
    for path in sorted(folder.glob(f"*{ending}")):
        if match := re.fullmatch(r"(.+)_\d{4}", path.name.removesuffix(ending)):
            cases[match[1]].append(path)
    return dict(cases)


def predict_cases(
    model: Model,
    predictor: Predictor,
    source: Path,
    out: Path,
    flags: Flags,
    *,
    draw: bool = False,
    verbose: bool = False,
    bar: bool = True,
) -> Outcome:
    """The masks of nnUNetv2_predict with the same flags.

    draw: overlays too, of flat pictures. Raises DataError for cases that lack a channel file, and ConfigError for flags that
    exclude each other.
    """
    _check(model, flags, draw)
    cases = case_files(source, model.ending)
    _refuse_incomplete(cases, source, model.ending)
    names = sorted(cases)[flags.part_id :: flags.num_parts]
    there = {name for name in names if _is_there(out, name, model, flags)}
    kept = sorted(there) if flags.continue_prediction else []
    todo = [name for name in names if not (flags.continue_prediction and name in there)]
    if there:
        fate = (
            "kept (--continue_prediction)"
            if flags.continue_prediction
            else "overwritten; --continue_prediction keeps them"
        )
        print(f"{len(there)} of {len(names)} cases are predicted already and {fate}", flush=True)
    if todo:
        out.mkdir(parents=True, exist_ok=True)
        with screen.bar("predicting", len(todo), bar) as advance:
            predictor.on_case = _Progress(len(todo), advance)
            _run(
                predictor,
                [list(map(str, cases[name])) for name in todo],
                [str(out / name) for name in todo],
                flags,
                verbose,
            )
    if draw:
        for name in names:
            drawn = _draw(model, cases[name][0], out / f"{name}{model.ending}")
            write_image(out / "overlays" / f"{name}.png", drawn)
    return Outcome(out=out, predicted=todo, kept=kept)


class _Progress:
    """One line per case, with the time left; what was written runs a little behind what was predicted."""

    def __init__(self, total: int, advance: screen.Advance) -> None:
        self.total, self.advance = total, advance
        self.start, self.done = time.perf_counter(), 0
        self.console = sys.stdout  # while nnU-Net predicts, what it prints is caught

    def __call__(self) -> None:
        self.done += 1
        left = (time.perf_counter() - self.start) / self.done * (self.total - self.done)
        print(f"{self.done}/{self.total} predicted, ETA {screen.duration(left)}", file=self.console, flush=True)
        self.advance("")


def _run(predictor: Predictor, inputs: list[list[str]], outputs: list[str], flags: Flags, verbose: bool) -> None:
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
                f"a background process of nnU-Net stopped; the error above names the file or the reason ({error}). Mend it and "
                "go on with --continue_prediction; with too little memory, -npp 1 -nps 1."
            ) from error


def _check(model: Model, flags: Flags, draw: bool) -> None:
    if (flags.npp == 0) != (flags.nps == 0):
        raise ConfigError("-npp 0 and -nps 0 go together: they mean one process for everything.")
    if draw and not model.takes_photographs:
        raise ConfigError(f"--overlay is for flat pictures; this model was trained on {model.ending} files, patch "
                          f"{list(model.configuration.patch_size)}.")  # fmt: skip
    previous = model.configuration.previous_stage_name
    if previous and flags.prev_stage_predictions is None:
        raise ConfigError(
            f"this is the second stage of a cascade; predict with the model of {previous} first, and give its masks with "
            "-prev_stage_predictions."
        )


def _refuse_incomplete(cases: dict[str, list[Path]], source: Path, ending: str) -> None:
    """nnU-Net would find out in the network, case by case."""
    if not cases:
        raise DataError(f"{source} holds no files of nnU-Net's naming and of the model's ending, case_0000{ending}.")
    numbers = {name: {path.name[len(name) + 1 :][:4] for path in paths} for name, paths in cases.items()}
    all_numbers = set.union(*numbers.values())
    lacking = [
        f"{name} lacks {', '.join(sorted(all_numbers - has))}" for name, has in numbers.items() if has != all_numbers
    ]
    refuse("the cases differ in their channel files", lacking, "Each case needs a file for every channel.")


def _is_there(out: Path, name: str, model: Model, flags: Flags) -> bool:
    endings = [model.ending, *([".npz"] if flags.save_probabilities else [])]
    return all((out / f"{name}{ending}").is_file() for ending in endings)


def _draw(model: Model, picture: Path, mask: Path) -> Image.Image:
    labels = list(meaning_of(model, Values.LABELS).names)
    return mask_drawing.draw(read_image(picture, model.declared_channels).pixels, np.asarray(Image.open(mask)), labels)
