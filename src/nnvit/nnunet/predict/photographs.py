"""Predicts photographs of any name and size; each mask has its photograph's name and size, and is upright."""

import os
import traceback
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape

from nnvit.data.image_reading import Photo, read_image
from nnvit.data.pairing import IMAGE_SUFFIXES, refuse
from nnvit.errors import ConfigError, DataError, NnvitError
from nnvit.nnunet.model_folder import TrainedModel
from nnvit.nnunet.progress import bar

from .mask_legend import MaskLegend
from .prediction_options import PredictionOptions
from .prediction_record import PredictionOutcome, PredictionRecord
from .predictors import StockPredictor

_Item = TypeVar("_Item")
_Loaded = TypeVar("_Loaded")
_Written = TypeVar("_Written")


@dataclass(frozen=True, kw_only=True)
class _Photograph:
    """A photograph's path, its name relative to the input folder, and its mask's relative to the output folder."""

    path: Path
    name: str
    mask: str


@dataclass(frozen=True, kw_only=True)
class _LoadedPhotograph:
    """A photograph in memory. data: the preprocessed image (C, 1, H, W), later its logits (K, 1, H, W)."""

    file: _Photograph
    photo: Photo
    data: torch.Tensor
    properties: dict[str, Any]
    notes: list[str]


def predict_photographs(
    model: TrainedModel, predictor: StockPredictor, source: Path, out: Path, options: PredictionOptions
) -> PredictionOutcome:
    """Predicts each photograph by itself; one that fails is recorded, and the others go on.

    Args:
        source: a folder of photographs, or one photograph.
        out: gets the masks as png, `overlays/`, `probabilities/<label>/` and nnvit_predict.json.

    Raises:
        ConfigError: the model takes no photographs, or masks to keep were predicted with other settings.
        DataError: nothing to predict, two photographs with one name, or an output folder that holds other files of these names.
    """
    pipeline = _Pipeline(model, predictor, out, options)
    _check_model(model)
    photographs, notes = _find_photographs(source, out, options.recursive)
    pipeline.refuse_twins(photographs)
    mine = photographs[options.part_id :: options.num_parts]
    settings = predictor.settings(model) | {"values": pipeline.legend.by_name()}
    record = PredictionRecord(out, settings, (options.num_parts, options.part_id))
    todo, more = pipeline.claim(record, mine)
    for line in [*notes, *more, *pipeline.legend.lines(options.overlay)]:
        print(line, flush=True)
    outcome = PredictionOutcome(out=out, kept=sorted({p.name for p in mine} - {p.name for p in todo}))
    with bar("predicting", len(todo), options.bar) as step:
        for photograph, result in pipeline.run(todo):
            error = result.exception()
            if error is None:
                outcome.predicted.append(photograph.name)
                said = f"-> {photograph.mask}{''.join(f' ({note})' for note in result.result())}"
            else:
                with suppress(OSError):
                    pipeline.delete(photograph)
                reason = str(error) if isinstance(error, NnvitError) else f"{type(error).__name__}: {error}"
                reason = reason.removeprefix(f"{photograph.path.name} ")  # both lines that show it begin with the name
                outcome.failed[photograph.name] = reason
                said = f"FAILED: {reason}"
                if options.verbose:
                    print("".join(traceback.format_exception(error)))
            done, left = step()
            print(f"{done} {photograph.name} {said}  {left}", flush=True)
    record.end(outcome.failed)
    return outcome


def _check_model(model: TrainedModel) -> None:
    if not model.takes_photographs:
        reader, patch = model.plans.image_reader_writer_class.__name__, list(model.configuration.patch_size)
        raise ConfigError(
            f"{model.folder} was trained on {model.ending} files (reader {reader}, patch {patch}), not on photographs; -i must "
            f"be a folder of case_0000{model.ending} files."
        )


def _find_photographs(source: Path, out: Path, recursive: bool) -> tuple[list[_Photograph], list[str]]:
    """Returns the photographs, sorted, and notes for the user about other files. Raises DataError if there is none."""
    if source.is_file():
        return [_photograph(source, Path(source.name))], []
    if not source.is_dir():
        raise DataError(f"-i {source} does not exist; give a folder of photographs, or one photograph.")
    if source.resolve() == out.resolve():
        raise DataError(f"-i and -o are both {source}; the masks need a folder of their own.")
    below = _folders_below(source, out)
    files = [
        path
        for folder in [source, *(below if recursive else [])]
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.startswith(".")
    ]
    chosen = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    others = [path.name for path in files if path.suffix.lower() not in IMAGE_SUFFIXES]
    notes = [f"other files are left out: {_few(others)}"] if others else []
    if below and not recursive:
        names = _few([folder.relative_to(source).as_posix() for folder in below])
        notes.append(f"folders inside are left out, --recursive takes them in: {names}")
    if not chosen:
        endings = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError("; ".join([f"{source} holds no photograph ({endings})", *notes]) + ".")
    return [_photograph(path, path.relative_to(source)) for path in chosen], notes


def _photograph(path: Path, name: Path) -> _Photograph:
    return _Photograph(path=path, name=name.as_posix(), mask=name.with_name(f"{name.stem}.png").as_posix())


def _folders_below(source: Path, out: Path) -> list[Path]:
    """Returns all visible folders inside `source` except the output folder."""
    found = []
    for place, names, _ in os.walk(source):
        names[:] = sorted(n for n in names if not n.startswith(".") and (Path(place) / n).resolve() != out.resolve())
        found += [Path(place) / name for name in names]
    return found


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


class _Pipeline:
    """The steps of nnU-Net's `predict_single_npy_array` for many photographs, and the files that they write."""

    def __init__(self, model: TrainedModel, predictor: StockPredictor, out: Path, options: PredictionOptions) -> None:
        self.model, self.predictor, self.out, self.options = model, predictor, out, options
        self.legend = MaskLegend.of(model, options.values)

    def outputs(self, photograph: _Photograph) -> list[str]:
        """Returns all files that are written for a photograph, relative to the output folder, the mask last."""
        folders = ["overlays"] if self.options.overlay else []
        if self.options.probabilities:
            folders += self.legend.probability_folders().values()
        return [*(f"{folder}/{photograph.mask}" for folder in folders), photograph.mask]

    def delete(self, photograph: _Photograph) -> None:
        """Deletes the files of a photograph that exist."""
        for output in self.outputs(photograph):
            (self.out / output).unlink(missing_ok=True)

    def refuse_twins(self, photographs: list[_Photograph]) -> None:
        """Raises DataError if photographs would share an output file.

        Names that differ only in case or in the encoding of accents count as equal: most file systems cannot hold both.
        """
        by_output = defaultdict(list)
        for photograph in photographs:
            for output in reversed(self.outputs(photograph)):
                by_output[unicodedata.normalize("NFC", output).casefold()].append(photograph.name)
        twins = [
            f"{' and '.join(names)}: both would become {output}"
            for output, names in by_output.items()
            if len(names) > 1
        ]
        refuse("several photographs would share one file", twins, "Rename or remove all but one of each.")

    def claim(self, record: PredictionRecord, photographs: list[_Photograph]) -> tuple[list[_Photograph], list[str]]:
        """Returns the photographs to predict, and notes on the others. Refuses foreign files and masks of other settings."""
        out, keep = self.out, self.options.continue_prediction
        existing = [p for p in photographs if any((out / output).exists() for output in self.outputs(p))]
        record.refuse_foreign([p.mask for p in existing])
        finished = [p for p in existing if all((out / output).is_file() for output in self.outputs(p))]
        kept = finished if keep else []
        record.refuse_made_otherwise([p.mask for p in kept])
        names = {p.name for p in kept}
        todo = [p for p in photographs if p.name not in names]
        for photograph in todo:  # before the record names them, so that no old mask passes for a new one
            self.delete(photograph)
        record.begin({p.mask: p.name for p in todo})
        return todo, self.options.notes_on_existing(len(kept if keep else existing), str(len(photographs)))

    def run(self, photographs: Sequence[_Photograph]) -> "Iterator[tuple[_Photograph, Future[list[str]]]]":
        """Yields each photograph when it is done, with notes for the user or with the exception of the step that failed."""
        return _overlapped(photographs, self._read, self._predict, self._write)

    def _read(self, photograph: _Photograph) -> _LoadedPhotograph:
        model = self.model
        photo = read_image(photograph.path, model.declared_channels)
        shown, notes = _fitted(model, photo)
        image, properties = shown.as_nnunet()
        preprocessor = model.configuration.preprocessor_class(verbose=self.predictor.verbose_preprocessing)
        data, _, properties = preprocessor.run_case_npy(
            image, None, properties, model.plans, model.configuration, model.dataset_json
        )
        if photo.turned:
            notes.append("turned upright, as its EXIF entry says")
        return _LoadedPhotograph(
            file=photograph, photo=photo, data=torch.from_numpy(data), properties=properties, notes=notes
        )

    def _predict(self, loaded: _LoadedPhotograph) -> _LoadedPhotograph:
        return replace(loaded, data=self.predictor.predict_logits_from_preprocessed_data(loaded.data))

    def _write(self, loaded: _LoadedPhotograph) -> list[str]:
        """Writes everything, the mask last; returns the notes."""
        legend, out, mask = self.legend, self.out, loaded.file.mask
        labels, probabilities = self._converted(loaded)
        if probabilities is not None:
            legend.write_probabilities(out, mask, probabilities[:, 0])
        if self.options.overlay:
            legend.write_overlay(out / "overlays" / mask, loaded.photo.pixels, labels[0])
        legend.write_mask(out / mask, labels[0])
        return loaded.notes

    def _converted(self, loaded: _LoadedPhotograph) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns labels (1, H, W) and, if wanted, probabilities (K, 1, H, W). One thread: the network uses the others."""
        model, wanted = self.model, self.options.probabilities
        converted = convert_predicted_logits_to_segmentation_with_correct_shape(
            loaded.data, model.plans, model.configuration, model.labels, loaded.properties, wanted, 1
        )
        return converted if wanted else (converted, None)


def _fitted(model: TrainedModel, photo: Photo) -> tuple[Photo, list[str]]:
    """Returns the photograph with the model's channels, and notes on what was changed.

    Raises DataError if the channels or the bits per channel do not fit the model.
    """
    pixels, notes = photo.pixels, []
    if photo.channels == 1 and model.channels == 3:
        pixels, notes = np.stack(photo.planes() * 3, axis=-1), ["grey, taken as three equal channels"]
    elif photo.channels == 3 and model.channels == 1:
        differ = int((pixels != pixels[..., :1]).any(axis=-1).sum())
        if differ:
            raise DataError(
                f"it is in colour (its channels differ in {differ} pixels), the model was trained on grey; save it as grey"
            )
        pixels, notes = pixels[..., 0], ["three equal channels, taken as grey"]
    elif photo.channels != model.channels:
        raise DataError(f"it has {photo.channels} channels, the model takes {model.channels}")
    if pixels.max() > 255 and "RGBTo01Normalization" in model.configuration.normalization_schemes:
        raise DataError(f"it has 16 bits (up to {pixels.max()}), the model was trained on 8; save it with 8 bits")
    return replace(photo, pixels=pixels), notes


def _overlapped(
    items: Sequence[_Item],
    read: Callable[[_Item], _Loaded],
    compute: Callable[[_Loaded], _Loaded],
    write: Callable[[_Loaded], _Written],
) -> "Iterator[tuple[_Item, Future[_Written]]]":
    """Reads one item ahead and writes one behind, each in its own thread, while `compute` runs in the caller's.

    Yields each item in order with what `write` returned or the exception of the step that failed; the others go on. Holds
    three items in memory at most. When interrupted, it finishes the item that is being written.
    """
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        ahead = [reader.submit(read, item) for item in items[:1]]
        behind: list[tuple[_Item, Future[_Written]]] = []
        for i, item in enumerate(items):
            loaded = ahead.pop()
            loaded.exception()  # waits for it: only then is the next one read
            ahead = [reader.submit(read, following) for following in items[i + 1 : i + 2]]
            written: Future[_Written] = Future()
            try:
                computed = compute(loaded.result())
            except Exception as error:  # one item's failure must not end the others
                written.set_exception(error)
                computed = None
            for earlier, future in behind:
                future.exception()  # waits for it: only one item is written at a time
                yield earlier, future
            behind = [(item, written if written.done() else writer.submit(write, computed))]  # type: ignore[arg-type]
        for earlier, future in behind:
            future.exception()
            yield earlier, future
