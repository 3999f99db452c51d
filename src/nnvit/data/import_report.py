"""Reports an import: as lines for the terminal, and as the block in dataset.json by which it is recognised again."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnvit.errors import DataError
from nnvit.records.json_files import read_json

from .pairing import Pair

BLOCK = "nnvit_import"
"""Key of dataset.json under which the import is described; nnU-Net ignores keys that it does not know."""

NORMALIZATIONS = {
    "rgb01": "values reach the network in 0..1, so the backbone's own statistics (e.g. ImageNet mean and "
    "standard deviation) are applied inside the network",
    "zscore": "each image is z-scored, and the backbone's own statistics are not applied",
    "ct": "values are clipped and scaled by the data set's own statistics, and the backbone's are not applied",
}
"""Name -> what it does."""

_PARTS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """The outcome of `import_dataset`."""

    folder: Path
    dataset_id: int
    num_cases: int
    """Training cases, validation included."""
    num_test: int
    """Cases held out in imagesTs and labelsTs."""
    channels: int
    channel_names: dict[str, str]
    labels: dict[str, int]
    """Name -> label in the data set, background included."""
    label_fractions: dict[str, float]
    """Name -> share of the training pixels, 0..1."""
    normalization: str
    num_groups: int | None
    """Groups among the training cases; None if cases were not grouped."""
    fold_sizes: tuple[tuple[int, int], ...] = ()
    """(training, validation) cases of each fold."""
    splits: Path | None = None
    """The splits_final.json that training will read; None leaves the choice to nnU-Net."""
    warnings: tuple[str, ...] = field(default=())
    unchanged: bool = False
    """True if the same import had been done before and nothing was written."""

    def kept(self) -> dict[str, Any]:
        """Returns what dataset.json keeps of this report, for `of_earlier`."""
        own = ("num_test", "label_fractions", "normalization", "num_groups", "fold_sizes", "warnings")
        return {name: getattr(self, name) for name in own}

    @classmethod
    def of_earlier(cls, folder: Path, dataset_id: int, splits: Path, dataset: dict[str, Any]) -> "ImportReport":
        """Rebuilds the report of an unchanged import from its dataset.json."""
        kept = dataset[BLOCK]["report"]
        sizes = tuple((train, val) for train, val in kept["fold_sizes"])
        return cls(
            folder=folder,
            dataset_id=dataset_id,
            num_cases=dataset["numTraining"],
            channels=len(dataset["channel_names"]),
            channel_names=dataset["channel_names"],
            labels=dataset["labels"],
            splits=splits if sizes else None,
            unchanged=True,
            **kept | {"fold_sizes": sizes, "warnings": tuple(kept["warnings"])},
        )

    def lines(self) -> list[str]:
        """Returns the report for a terminal; the last line is the command to run next."""
        test = f" + {self.num_test} held-out test cases" if self.num_test else ""
        labels = ", ".join(f"{n}={v} ({self.label_fractions[n]:.2%} of pixels)" for n, v in self.labels.items())
        unchanged = ["unchanged: the same files were imported with the same options before; nothing was written"]
        return [
            *(unchanged if self.unchanged else []),
            f"{self.folder}: {self.num_cases} training cases{test}",
            f"channels: {self.channels} ({', '.join(self.channel_names.values())})",
            f"labels: {labels}",
            f"normalization: {self.normalization}: {NORMALIZATIONS[self.normalization]}",
            *self._split_lines(),
            *(f"warning: {warning}" for warning in self.warnings),
            f"next: nnUNetv2_plan_and_preprocess -d {self.dataset_id} -c 2d --verify_dataset_integrity",
        ]

    def _split_lines(self) -> list[str]:
        if self.num_groups is None:
            return ["splits: left to nnU-Net, which deals out cases at random (--group-by keeps patients whole)"]
        sizes = ", ".join(f"fold {k}: {train} train / {val} val" for k, (train, val) in enumerate(self.fold_sizes))
        lines = [f"splits: {self.num_groups} groups, {sizes}; in {self.splits}"]
        if len(self.fold_sizes) == 1:
            lines.append("train fold 0 only: for any other fold nnU-Net would draw a random split")
        return lines


def fingerprint(options: Mapping[str, Any], digests: Mapping[Pair, str]) -> str:
    """Returns a hash of the import's options, and of the names and contents (`Pair.digest`) of its files."""
    files = [f"{p.image.name} {[mask and mask.name for mask in p.masks]} {d}" for p, d in digests.items()]
    return _hash([options, sorted(files)])


def seal(folder: Path, dataset: Mapping[str, Any]) -> str:
    """Returns a hash of what an import wrote: dataset.json without its own block, and names and sizes of the cases' files."""
    files = sorted(
        (f"{part}/{path.name}", path.stat().st_size)
        for part in _PARTS
        if (folder / part).is_dir()
        for path in (folder / part).iterdir()
    )
    return _hash([{key: value for key, value in dataset.items() if key != BLOCK}, files])


def earlier_import(folder: Path) -> dict[str, Any] | None:
    """Returns the dataset.json of an earlier import if the folder still is as it was written, else None."""
    file = folder / "dataset.json"
    if not file.is_file():
        return None
    try:
        dataset: dict[str, Any] = read_json(file)
        whole = dataset[BLOCK]["seal"] == seal(folder, dataset)
    except (DataError, KeyError, TypeError):
        return None
    return dataset if whole else None


def _hash(content: Any) -> str:
    """Returns the sha256 by which earlier releases recorded imports; its JSON is not that of `nnvit.records.hashes`."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
