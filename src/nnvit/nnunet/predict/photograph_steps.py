"""One photograph: read, predicted and written, in three steps that can run beside each other for different photographs."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from PIL import Image

from nnvit.data import mask_drawing
from nnvit.data.image_reading import Photo, read_image
from nnvit.errors import DataError

from .mask_values import Meaning, channel_names
from .model_folder import Model, Predictor

PNG_EFFORT = 1


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is written for each photograph beside its mask, and how."""

    meaning: Meaning
    overlay: bool = False
    probabilities: bool = False
    keep: bool = False
    """Keep what is there (`--continue_prediction`) rather than predict it again."""
    recursive: bool = False
    num_parts: int = 1
    part_id: int = 0


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """path: of the file; name: relative to the folder of photographs; mask: the mask's, relative to the output folder."""

    path: Path
    name: str
    mask: str


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A photograph on its way. data: (C, 1, H, W), preprocessed, then the logits (K, 1, H, W); notes: for the user."""

    photograph: Photograph
    photo: Photo
    data: torch.Tensor
    properties: dict[str, Any]
    notes: list[str]


class Steps:
    """The three steps, as nnU-Net's `predict_single_npy_array` takes them one after the other."""

    def __init__(self, model: Model, predictor: Predictor, out: Path, wanted: Wanted) -> None:
        self.model, self.predictor, self.out, self.wanted = model, predictor, out, wanted

    def read(self, photograph: Photograph) -> Pending:
        """Reads the file and preprocesses it. Raises DataError for what the model does not take."""
        model = self.model
        photo = read_image(photograph.path, model.declared_channels)
        shown, notes = fitted(model, photo)
        image, properties = shown.as_nnunet()
        preprocessor = model.configuration.preprocessor_class(verbose=self.predictor.verbose_preprocessing)
        data, _, properties = preprocessor.run_case_npy(
            image, None, properties, model.plans, model.configuration, model.dataset_json
        )
        turned = ["turned upright, as its EXIF entry says"] if photo.turned else []
        return Pending(
            photograph=photograph,
            photo=photo,
            data=torch.from_numpy(data),
            properties=properties,
            notes=[*notes, *turned],
        )

    def predict(self, pending: Pending) -> Pending:
        """Runs the network."""
        return replace(pending, data=self.predictor.predict_logits_from_preprocessed_data(pending.data))

    def write(self, pending: Pending) -> list[str]:
        """Writes the mask, at last, and what else is wanted; returns the notes."""
        wanted, out, mask = self.wanted, self.out, pending.photograph.mask
        labels, probabilities = self._converted(pending)
        if probabilities is not None:
            for channel, name in channel_names(self.model).items():
                scaled = (probabilities[channel, 0] * 65535).round().astype(np.uint16)
                write_image(out / "probabilities" / safe(name) / mask, Image.fromarray(scaled))
        if wanted.overlay:
            drawn = mask_drawing.draw(pending.photo.pixels, labels[0], list(wanted.meaning.names))
            write_image(out / "overlays" / mask, drawn)
        write_image(out / mask, Image.fromarray(wanted.meaning.translate(labels[0])))
        return pending.notes

    def _converted(self, pending: Pending) -> tuple[np.ndarray, np.ndarray | None]:
        """(1, H, W) labels and, if wanted, (K, 1, H, W) probabilities; by one thread, as the network has the others."""
        model, wanted = self.model, self.wanted.probabilities
        converted = convert_predicted_logits_to_segmentation_with_correct_shape(
            pending.data, model.plans, model.configuration, model.labels, pending.properties, wanted, 1
        )
        return converted if wanted else (converted, None)


def fitted(model: Model, photo: Photo) -> tuple[Photo, list[str]]:
    """The picture with the model's channels, and what was done to fit.

    Raises DataError where the channels or the bits are not the model's.
    """
    pixels, notes = photo.pixels, []
    if photo.channels == 1 and model.channels == 3:
        pixels, notes = np.stack(photo.planes() * 3, axis=-1), ["grey, taken as three equal channels"]
    elif photo.channels == 3 and model.channels == 1:
        pixels, notes = _one_of_three(pixels), ["three equal channels, taken as grey"]
    elif photo.channels != model.channels:
        raise DataError(f"it has {photo.channels} channels, the model takes {model.channels}")
    schemes = model.configuration.normalization_schemes
    if pixels.max() > 255 and "RGBTo01Normalization" in schemes:
        raise DataError(f"it has 16 bits (up to {pixels.max()}), the model was trained on 8; save it with 8 bits")
    return replace(photo, pixels=pixels), notes


def write_image(path: Path, image: Image.Image) -> None:
    """Writes beside and renames, so that a file that is there is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    image.save(partial, format="PNG", compress_level=PNG_EFFORT)
    partial.replace(path)


def safe(name: str) -> str:
    """A label's name as a folder's."""
    return "".join(c if c.isalnum() or c in " -_.()" else "_" for c in name).strip(". ") or "_"


def _one_of_three(pixels: np.ndarray) -> np.ndarray:
    differ = int((pixels != pixels[..., :1]).any(axis=-1).sum())
    if differ:
        raise DataError(
            f"it is in colour (its channels differ in {differ} pixels), the model was trained on grey; save it as grey"
        )
    return pixels[..., 0]
