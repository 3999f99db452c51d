"""Reading, predicting and writing photographs, the three steps overlapped for consecutive photographs."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from PIL import Image

from nnvit.data import mask_drawing
from nnvit.data.image_reading import Photo, read_image
from nnvit.errors import DataError
from nnvit.nnunet.model_folder import TrainedModel

from .mask_legend import MaskLegend
from .stock_predictor import StockPredictor

_Item = TypeVar("_Item")
_Loaded = TypeVar("_Loaded")
_Computed = TypeVar("_Computed")
_Written = TypeVar("_Written")


@dataclass(frozen=True, kw_only=True)
class PhotographOptions:
    """The choice of photographs, and of the files written for each beside its mask.

    keep: keep masks that exist (`--continue_prediction`) instead of predicting them again; num_parts, part_id: of the sorted
    photographs take every num_parts-th, starting with number part_id.
    """

    legend: MaskLegend
    overlay: bool = False
    probabilities: bool = False
    keep: bool = False
    recursive: bool = False
    num_parts: int = 1
    part_id: int = 0


@dataclass(frozen=True, kw_only=True)
class PhotographFile:
    """A photograph's path, its name relative to the input folder, and its mask's relative to the output folder."""

    path: Path
    name: str
    mask: str


@dataclass(frozen=True, kw_only=True)
class _LoadedPhotograph:
    """A photograph in memory. data: the preprocessed image (C, 1, H, W), later its logits (K, 1, H, W)."""

    file: PhotographFile
    photo: Photo
    data: torch.Tensor
    properties: dict[str, Any]
    notes: list[str]


class PhotographPipeline:
    """The steps of nnU-Net's `predict_single_npy_array` for many photographs."""

    def __init__(self, model: TrainedModel, predictor: StockPredictor, out: Path, options: PhotographOptions) -> None:
        self.model, self.predictor, self.out, self.options = model, predictor, out, options

    def run(self, files: Sequence[PhotographFile]) -> "Iterator[tuple[PhotographFile, Future[list[str]]]]":
        """Yields each photograph when it is done, with notes for the user or with the exception of the step that failed."""
        return _overlapped(files, self._read, self._predict, self._write)

    def outputs(self, file: PhotographFile) -> list[str]:
        """Returns all files that are written for a photograph, relative to the output folder, the mask last."""
        parts = ["overlays"] if self.options.overlay else []
        if self.options.probabilities:
            parts += [_probability_folder(name) for name in self.options.legend.channels.values()]
        return [*(f"{part}/{file.mask}" for part in parts), file.mask]

    def _read(self, file: PhotographFile) -> _LoadedPhotograph:
        model = self.model
        photo = read_image(file.path, model.declared_channels)
        shown, notes = _fitted(model, photo)
        image, properties = shown.as_nnunet()
        preprocessor = model.configuration.preprocessor_class(verbose=self.predictor.verbose_preprocessing)
        data, _, properties = preprocessor.run_case_npy(
            image, None, properties, model.plans, model.configuration, model.dataset_json
        )
        if photo.turned:
            notes.append("turned upright, as its EXIF entry says")
        return _LoadedPhotograph(
            file=file, photo=photo, data=torch.from_numpy(data), properties=properties, notes=notes
        )

    def _predict(self, loaded: _LoadedPhotograph) -> _LoadedPhotograph:
        return replace(loaded, data=self.predictor.predict_logits_from_preprocessed_data(loaded.data))

    def _write(self, loaded: _LoadedPhotograph) -> list[str]:
        """Writes everything, the mask last; returns the notes."""
        legend, out, mask = self.options.legend, self.out, loaded.file.mask
        labels, probabilities = self._converted(loaded)
        if probabilities is not None:
            for channel, name in legend.channels.items():
                scaled = (probabilities[channel, 0] * 65535).round().astype(np.uint16)
                write_png(out / _probability_folder(name) / mask, Image.fromarray(scaled))
        if self.options.overlay:
            drawn = mask_drawing.draw(loaded.photo.pixels, labels[0], list(legend.names))
            write_png(out / "overlays" / mask, drawn)
        write_png(out / mask, Image.fromarray(legend.translate(labels[0])))
        return loaded.notes

    def _converted(self, loaded: _LoadedPhotograph) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns labels (1, H, W) and, if wanted, probabilities (K, 1, H, W). One thread: the network uses the others."""
        model, wanted = self.model, self.options.probabilities
        converted = convert_predicted_logits_to_segmentation_with_correct_shape(
            loaded.data, model.plans, model.configuration, model.labels, loaded.properties, wanted, 1
        )
        return converted if wanted else (converted, None)


def write_png(path: Path, image: Image.Image) -> None:
    """Writes a picture atomically (temporary file, rename), weakly compressed for speed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    image.save(partial, format="PNG", compress_level=1)
    partial.replace(path)


def _probability_folder(label: str) -> str:
    safe = "".join(c if c.isalnum() or c in " -_.()" else "_" for c in label).strip(". ") or "_"
    return f"probabilities/{safe}"


def _fitted(model: TrainedModel, photo: Photo) -> tuple[Photo, list[str]]:
    """Returns the photograph with the model's channels, and notes on what was changed.

    Raises DataError if the channels or the bits per channel do not fit the model.
    """
    pixels, notes = photo.pixels, []
    if photo.channels == 1 and model.channels == 3:
        pixels, notes = np.stack(photo.planes() * 3, axis=-1), ["grey, taken as three equal channels"]
    elif photo.channels == 3 and model.channels == 1:
        pixels, notes = _one_of_three(pixels), ["three equal channels, taken as grey"]
    elif photo.channels != model.channels:
        raise DataError(f"it has {photo.channels} channels, the model takes {model.channels}")
    if pixels.max() > 255 and "RGBTo01Normalization" in model.configuration.normalization_schemes:
        raise DataError(f"it has 16 bits (up to {pixels.max()}), the model was trained on 8; save it with 8 bits")
    return replace(photo, pixels=pixels), notes


def _one_of_three(pixels: np.ndarray) -> np.ndarray:
    differ = int((pixels != pixels[..., :1]).any(axis=-1).sum())
    if differ:
        raise DataError(
            f"it is in colour (its channels differ in {differ} pixels), the model was trained on grey; save it as grey"
        )
    return pixels[..., 0]


def _overlapped(
    items: Sequence[_Item],
    read: Callable[[_Item], _Loaded],
    compute: Callable[[_Loaded], _Computed],
    write: Callable[[_Computed], _Written],
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
