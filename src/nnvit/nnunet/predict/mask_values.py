"""Which value each label has in the masks of photographs."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from nnvit.errors import DataError

from .model_folder import Model

DARK = 32
"""Grey values below this cannot be told from black by eye."""


class Values(StrEnum):
    """stored: as in the mask files of the import; labels: nnU-Net's 0..n; visible: spread over 0..255."""

    STORED = "stored"
    LABELS = "labels"
    VISIBLE = "visible"


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """names: label -> its name (of a region: the name of the region that is drawn with it); values: label -> value in a mask."""

    names: dict[int, str]
    values: dict[int, int]
    kind: Values

    def translate(self, labels: np.ndarray) -> np.ndarray:
        """(H, W) labels -> (H, W) values, uint8 or, where one is above 255, uint16."""
        table = np.zeros(max(self.values) + 1, np.uint8 if max(self.values.values()) < 256 else np.uint16)
        for label, value in self.values.items():
            table[label] = value
        return table[labels]

    def lines(self) -> list[str]:
        """For the user: what the masks hold."""
        said = {
            Values.STORED: "as in the masks of the import",
            Values.LABELS: "nnU-Net's labels",
            Values.VISIBLE: "spread over 0..255",
        }[self.kind]
        pairs = ", ".join(f"{name}={self.values[label]}" for label, name in self.names.items())
        lines = [f"values in the masks: background=0, {pairs} ({said})"]
        if max(self.values.values()) < DARK:
            lines.append(
                "  they look black in a viewer; --values visible spreads them over 0..255, --overlay shows them"
            )
        return lines


def meaning_of(model: Model, kind: Values | None) -> Meaning:
    """kind: None takes the stored values where the model knows them, else labels.

    Raises DataError for STORED where it does not.
    """
    names = _names(model)
    stored = _stored(model.dataset_json, names)
    if kind is None:
        kind = Values.STORED if stored else Values.LABELS
    if kind is Values.STORED and not stored:
        raise DataError(
            f"--values stored: {model.folder / 'dataset.json'} does not say which values the mask files had, as its data set "
            "was not made by `nnvit dataset import`; give --values labels or visible."
        )
    labels = {label: label for label in (0, *names)}
    spread = {label: round(255 * i / max(len(names), 1)) for i, label in enumerate(labels)}
    return Meaning(
        names=names,
        values={Values.STORED: stored, Values.LABELS: labels, Values.VISIBLE: spread}[kind] or labels,
        kind=kind,
    )


def channel_names(model: Model) -> dict[int, str]:
    """Channel of the probabilities -> name; without the background, which has one only where there are no regions."""
    labels = model.labels
    if labels.has_regions:
        return dict(enumerate(_foreground(model.dataset_json)))
    return {labels.all_labels.index(label): name for label, name in _names(model).items()}


def _names(model: Model) -> dict[int, str]:
    """Label in a predicted mask -> name, without the background."""
    foreground, order = _foreground(model.dataset_json), model.labels.regions_class_order
    if model.labels.has_regions:
        return dict(zip(order, foreground, strict=True))
    named = {int(label[0] if isinstance(label, list) else label): name for name, label in foreground.items()}
    return dict(sorted(named.items()))


def _foreground(dataset_json: dict[str, Any]) -> dict[str, Any]:
    """Name -> label or labels, in the order of dataset.json."""
    labels = dataset_json["labels"].items()
    return {name: label for name, label in labels if name != "ignore" and label not in (0, "0", [0])}


def _stored(dataset_json: dict[str, Any], names: dict[int, str]) -> dict[int, int] | None:
    """Label -> value in the imported mask files; None where not every label has one."""
    stored = dataset_json.get("nnvit_import", {}).get("stored_values", {})
    values = {label: stored.get(name) for label, name in names.items()}
    if not values or not all(isinstance(value, int) and 0 < value < 65536 for value in values.values()):
        return None
    return {0: 0} | values
