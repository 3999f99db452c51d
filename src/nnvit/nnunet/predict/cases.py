"""A folder of nnU-Net's naming, `case_0000.png`: predicted with nnU-Net's own processes and files."""

import io
import re
import sys
from collections import defaultdict
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from PIL import Image

from nnvit.data.image_reading import read_image
from nnvit.data.pairing import IMAGE_SUFFIXES, refuse
from nnvit.errors import ConfigError, DataError
from nnvit.nnunet.model_folder import TrainedModel
from nnvit.nnunet.progress import bar

from .mask_legend import MaskLegend, MaskValues
from .prediction_options import PredictionOptions
from .prediction_record import PredictionOutcome
from .predictors import StockPredictor


class CaseFolder:
    """A folder of pictures or volumes, with the model that predicts them.

    cases: case -> its files, sorted, one per channel; numbers: case -> the numbers in their names. Files without nnU-Net's
    naming are left out.
    """

    def __init__(self, source: Path, model: TrainedModel) -> None:
        self.source, self.model = source, model
        self.cases, self.numbers = defaultdict[str, list[Path]](list), defaultdict[str, list[str]](list)
        for path in sorted(source.glob(f"*{model.ending}")):
            if match := re.fullmatch(r"(.+)_(\d{4})", path.name.removesuffix(model.ending)):
                self.cases[match[1]].append(path)
                self.numbers[match[1]].append(match[2])

    def has_nnunets_naming(self) -> bool:
        """True if every picture is named case_XXXX, numbered from 0000 for each case.

        A camera's IMG_0001.png, IMG_0002.png, … are photographs. A model of volumes takes nothing but nnU-Net's naming.
        """
        if not self.model.takes_photographs:
            return True
        if not self.source.is_dir():
            return False
        files = [path for path in self.source.iterdir() if not path.name.startswith(".")]
        pictures = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
        counts = [len(numbers) for numbers in self.numbers.values()]
        numbered = all(numbers == [f"{i:04d}" for i in range(len(numbers))] for numbers in self.numbers.values())
        return numbered and 0 < len(pictures) == sum(counts) and max(counts) <= self.model.channels

    def predict(self, predictor: StockPredictor, out: Path, options: PredictionOptions) -> PredictionOutcome:
        """Predicts the cases as nnUNetv2_predict does with the same flags; overlays are for flat pictures.

        Raises DataError for cases that lack a channel file, and ConfigError for flags that exclude each other.
        """
        self._check(options)
        self._refuse_incomplete()
        names = sorted(self.cases)[options.part_id :: options.num_parts]
        endings = [self.model.ending, *([".npz"] if options.save_probabilities else [])]
        existing = [name for name in names if all((out / f"{name}{ending}").is_file() for ending in endings)]
        kept = existing if options.continue_prediction else []
        todo = [name for name in names if name not in kept]
        for line in options.notes_on_existing(len(existing), f"{len(names)} cases"):
            print(line, flush=True)
        if todo:
            out.mkdir(parents=True, exist_ok=True)
            with bar("predicting", len(todo), options.bar) as step:
                console = sys.stdout  # nnU-Net's own printing is caught while it predicts
                predictor.on_case = lambda: print("{} predicted, {}".format(*step()), file=console, flush=True)
                self._run(predictor, todo, out, options)
        if options.overlay:
            self._draw(names, out)
        return PredictionOutcome(out=out, predicted=todo, kept=kept)

    def _check(self, options: PredictionOptions) -> None:
        model = self.model
        if (options.npp == 0) != (options.nps == 0):
            raise ConfigError("-npp 0 and -nps 0 go together: they mean one process for everything.")
        if options.overlay and not model.takes_photographs:
            raise ConfigError(
                f"--overlay is for flat pictures; this model was trained on {model.ending} files, patch "
                f"{list(model.configuration.patch_size)}."
            )
        previous = model.configuration.previous_stage_name
        if previous and options.prev_stage_predictions is None:
            raise ConfigError(
                f"this is the second stage of a cascade; predict with the model of {previous} first, and give its masks "
                "with -prev_stage_predictions."
            )

    def _refuse_incomplete(self) -> None:
        """Raises DataError at once for missing channel files, which nnU-Net would only meet in the network."""
        if not self.cases:
            ending = self.model.ending
            raise DataError(
                f"{self.source} holds no files of nnU-Net's naming with the model's ending, case_0000{ending}."
            )
        complete = set().union(*self.numbers.values())
        absent = {case: sorted(complete.difference(has)) for case, has in self.numbers.items()}
        lacking = [f"{case} lacks {', '.join(files)}" for case, files in absent.items() if files]
        refuse("the cases differ in their channel files", lacking, "Each case needs a file for every channel.")

    def _run(self, predictor: StockPredictor, names: list[str], out: Path, options: PredictionOptions) -> None:
        inputs, outputs = [list(map(str, self.cases[name])) for name in names], [str(out / name) for name in names]
        previous = str(options.prev_stage_predictions) if options.prev_stage_predictions else None
        with redirect_stdout(sys.stdout if options.verbose else io.StringIO()):
            if options.npp == options.nps == 0:
                predictor.predict_from_files_sequential(inputs, outputs, options.save_probabilities, True, previous)
                return
            try:
                predictor.predict_from_files(
                    inputs, outputs, options.save_probabilities, True, options.npp, options.nps, previous
                )
            except RuntimeError as error:
                if "worker" not in str(error):
                    raise
                raise DataError(
                    f"a background process of nnU-Net stopped; the error above names the file or the reason ({error}). "
                    "Correct it and continue with --continue_prediction; if memory was short, give -npp 1 -nps 1."
                ) from error

    def _draw(self, names: list[str], out: Path) -> None:
        legend = MaskLegend.of(self.model, MaskValues.LABELS)
        for name in names:
            pixels = read_image(self.cases[name][0], self.model.declared_channels).pixels
            mask = np.asarray(Image.open(out / f"{name}{self.model.ending}"))
            legend.write_overlay(out / "overlays" / f"{name}.png", pixels, mask)
