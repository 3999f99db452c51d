"""The names of the labels in the masks of photographs, the value of each in a mask, and the pictures that show them."""

from dataclasses import dataclass
from enum import StrEnum
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nnvit.data import mask_drawing
from nnvit.errors import DataError
from nnvit.nnunet.model_folder import TrainedModel

_DARK = 32
"""Grey values below this look black to the eye."""


class MaskValues(StrEnum):
    """The values of labels in masks. stored: those of the imported mask files; labels: nnU-Net's 0..n; visible: 0..255."""

    STORED = "stored"
    LABELS = "labels"
    VISIBLE = "visible"


_DESCRIBED = {
    MaskValues.STORED: "as in the masks of the import",
    MaskValues.LABELS: "nnU-Net's labels",
    MaskValues.VISIBLE: "spread over 0..255",
}


@dataclass(frozen=True, kw_only=True)
class MaskLegend:
    """Label -> name (without the background) and label -> value in a mask, and the channel -> name of probabilities.

    Regions overlap, so each has the label that nnU-Net draws it with. The background has a channel only if there are no regions.
    """

    names: dict[int, str]
    values: dict[int, int]
    channels: dict[int, str]
    kind: MaskValues

    @classmethod
    def of(cls, model: TrainedModel, kind: MaskValues | None) -> "MaskLegend":
        """Returns a model's legend. kind: None for the stored values if the model knows them, else labels.

        Raises DataError if stored values are wanted and not known.
        """
        names, channels = _names(model)
        stored = _stored(model.dataset_json, names)
        kind = kind or (MaskValues.STORED if stored else MaskValues.LABELS)
        if kind is MaskValues.STORED and not stored:
            raise DataError(
                f"--values stored: {model.folder / 'dataset.json'} does not give the values in the original mask files, because "
                "the data set was not made by `nnvit dataset import`; give --values labels or visible."
            )
        labels = {label: label for label in (0, *names)}
        spread = {label: round(255 * i / max(len(names), 1)) for i, label in enumerate(labels)}
        values = {MaskValues.STORED: stored, MaskValues.LABELS: labels, MaskValues.VISIBLE: spread}[kind] or labels
        return cls(names=names, values=values, channels=channels, kind=kind)

    def by_name(self) -> dict[str, int]:
        """Returns name -> value in a mask, with the background."""
        return {"background": 0} | {name: self.values[label] for label, name in self.names.items()}

    def translate(self, labels: np.ndarray) -> np.ndarray:
        """(H, W) labels -> (H, W) values, uint8, or uint16 if one is above 255."""
        table = np.zeros(max(self.values) + 1, np.uint8 if max(self.values.values()) < 256 else np.uint16)
        for label, value in self.values.items():
            table[label] = value
        return table[labels]

    def lines(self, overlay: bool = False) -> list[str]:
        """Returns lines for the user that say what the masks hold, and the colours of the labels in overlays."""
        pairs = ", ".join(f"{name}={value}" for name, value in self.by_name().items())
        lines = [f"values in the masks: {pairs} ({_DESCRIBED[self.kind]})"]
        if max(self.values.values()) < _DARK:
            lines.append(
                "  they look black in a viewer; --values visible spreads them over 0..255, --overlay shows them"
            )
        if overlay:
            named = zip(self.names.values(), cycle(mask_drawing.COLOURS), strict=False)
            lines.append(f"colours in the overlays: {', '.join(f'{name} {colour}' for name, colour in named)}")
        return lines

    def probability_folders(self) -> dict[int, str]:
        """Returns channel of the probabilities -> the folder of its pictures, `probabilities/<label>`."""
        return {channel: f"probabilities/{_safe(name)}" for channel, name in self.channels.items()}

    def write_mask(self, path: Path, labels: np.ndarray) -> None:
        """Writes the values of (H, W) labels."""
        _write_png(path, Image.fromarray(self.translate(labels)))

    def write_overlay(self, path: Path, pixels: np.ndarray, labels: np.ndarray) -> None:
        """Draws (H, W) labels on a photograph, (H, W) or (H, W, C)."""
        _write_png(path, mask_drawing.draw(pixels, labels, list(self.names)))

    def write_probabilities(self, out: Path, name: str, probabilities: np.ndarray) -> None:
        """Writes a 16-bit picture `name` of each label's probabilities into its folder in `out`. probabilities: (K, H, W)."""
        for channel, folder in self.probability_folders().items():
            scaled = (probabilities[channel] * 65535).round().astype(np.uint16)
            _write_png(out / folder / name, Image.fromarray(scaled))


def _safe(label: str) -> str:
    """Returns a label's name as the name of a folder."""
    return "".join(c if c.isalnum() or c in " -_.()" else "_" for c in label).strip(". ") or "_"


def _write_png(path: Path, image: Image.Image) -> None:
    """Writes a picture atomically (temporary file, rename), weakly compressed for speed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    image.save(partial, format="PNG", compress_level=1)
    partial.replace(path)


def _names(model: TrainedModel) -> tuple[dict[int, str], dict[int, str]]:
    """Returns label in a mask -> name, and channel of the probabilities -> name, both without the background."""
    listed = model.dataset_json["labels"].items()
    foreground = {name: label for name, label in listed if name != "ignore" and label not in (0, "0", [0])}
    labels = model.labels
    if labels.has_regions:
        return dict(zip(labels.regions_class_order, foreground, strict=True)), dict(enumerate(foreground))
    named = {int(label[0] if isinstance(label, list) else label): name for name, label in foreground.items()}
    names = dict(sorted(named.items()))
    return names, {labels.all_labels.index(label): name for label, name in names.items()}


def _stored(dataset_json: dict[str, Any], names: dict[int, str]) -> dict[int, int] | None:
    """Returns label -> value in the imported mask files; None unless every label has one."""
    stored = dataset_json.get("nnvit_import", {}).get("stored_values", {})
    values = {label: stored.get(name) for label, name in names.items()}
    if not values or not all(isinstance(value, int) and 0 < value < 65536 for value in values.values()):
        return None
    return {0: 0} | values
