"""The ground truth of each data set: its labels, the reference masks, the second observer's masks, the tolerance of the NSD."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnvit.compare.scores.metrics import Labels
from nnvit.errors import CompareError, did_you_mean
from nnvit.records.json_files import read_json

from .mask_files import masks_in, read_mask, some, spacing_of
from .training_records import Run

UNSCORED = ("background", "ignore")
"""Names in dataset.json that are no labels to score."""


@dataclass(frozen=True, kw_only=True)
class GroundTruth:
    """The ground truth that the masks of one data set are scored against.

    references: case -> reference mask, of the cases that all arms have. tolerance: of the NSD, in mm. notes: for the report.
    """

    references: dict[str, Path]
    labels: Labels
    tolerance: float
    notes: list[str]

    @classmethod
    def of(
        cls, runs: Sequence[Run], *, given: Path | None, tubular: Sequence[str], tolerance: float | None
    ) -> "GroundTruth":
        """Finds the references and labels of the data set of all these runs.

        given: a folder of reference masks. tolerance: mm, None means the longest edge of a voxel. Raises CompareError where a
        reference is missing, where the arms share no case or no label, and for a tubular label or a tolerance that does not
        fit.
        """
        dataset = runs[0].dataset
        found = _references(runs, given)
        shared = set.intersection(*(set(run.predictions) for run in runs))
        if not shared:
            raise CompareError(f"{dataset}: there is no case that all arms have.")
        references = {case: path for case, path in found.items() if case in shared}
        labels = _labels(_described(runs, references), dataset, tubular)
        millimetres, notes = _tolerance(list(references.values()), tolerance)
        return cls(references=references, labels=labels, tolerance=millimetres, notes=notes)

    def second_observer(self, folder: Path) -> dict[str, Path]:
        """Returns case -> the second observer's mask, whose name is or begins with the case's (`Image_01L_2ndHO.png`).

        Cases without such a mask are left out. Raises CompareError where there is none at all.
        """
        if not folder.is_dir():
            raise CompareError(f"--human {folder} is not a folder; give the folder of the second observer's masks.")
        masks = masks_in(folder)
        found = {}
        for case in self.references:
            longer = [name for name in masks if name.startswith(case) and not name[len(case) :][:1].isalnum()]
            names = [case] if case in masks else longer
            if len(names) > 1:
                raise CompareError(
                    f"--human {folder} holds several masks of '{case}': {', '.join(sorted(names))}; keep only one of them."
                )
            if names:
                found[case] = masks[names[0]]
        if not found:
            raise CompareError(
                f"--human {folder} holds no mask whose name is or begins with a case's, such as "
                f"{next(iter(self.references))}.png; it holds {some(sorted(masks)) or 'no masks'}."
            )
        return found


def _references(runs: Sequence[Run], given: Path | None) -> dict[str, Path]:
    """Case -> reference mask, of every case that an arm has.

    Places: `given`, or else those from which nnU-Net took the references of summary.json, nnUNet_preprocessed, nnUNet_raw.
    """
    wanted = sorted({case for run in runs for case in run.predictions})
    if given and not given.is_dir():
        raise CompareError(f"--reference {given} is not a folder; give the folder of the reference masks.")
    places = [given] if given else _places(runs)
    best = wanted
    for place in places:
        masks = masks_in(place)
        missing = [case for case in wanted if case not in masks]
        if not missing:
            return {case: masks[case] for case in wanted}
        best = min(best, missing, key=len)
    looked = ", ".join(map(str, places)) or "nowhere: neither nnUNet_preprocessed nor nnUNet_raw is set"
    raise CompareError(
        f"{runs[0].dataset}: no reference mask of {some(best)}; looked in {looked}. Give the folder of the reference masks with "
        f"--reference; a mask has the name of its case, such as {wanted[0]}.png."
    )


def _places(runs: Sequence[Run]) -> list[Path]:
    """The folders in which nnU-Net keeps references, the one that summary.json names first."""
    entries = [next(iter(fold.evaluated.values()), {}) for run in runs for fold in run.trained]
    places = [Path(entry["reference_file"]).parent for entry in entries if entry.get("reference_file")]
    folders = [("nnUNet_preprocessed", "gt_segmentations"), ("nnUNet_raw", "labelsTr"), ("nnUNet_raw", "labelsTs")]
    known = [(os.environ[variable], folder) for variable, folder in folders if os.environ.get(variable)]
    places += [Path(base) / runs[0].dataset / folder for base, folder in known]
    return [place for place in dict.fromkeys(places) if place.is_dir()]


def _described(runs: Sequence[Run], references: dict[str, Path]) -> list[dict[str, Any]]:
    """The labels in the dataset.json of every run, else in the one beside the references, else the values in these."""
    contents = [run.dataset_json for run in runs]
    first = next(iter(references.values()))
    if not any(contents):
        files = [first.parent / "dataset.json", first.parent.parent / "dataset.json"]
        contents = [read_json(path, CompareError) for path in files if path.is_file()]
    described = [content["labels"] for content in contents if content.get("labels")]
    if described:
        return described
    found = {int(value) for path in references.values() for value in np.unique(read_mask(path).labels)}
    return [{str(value): value for value in sorted(found - {0})}]


def _labels(described: list[dict[str, Any]], dataset: str, tubular: Sequence[str]) -> Labels:
    """The labels or regions that all arms define, without the background."""
    tables = [
        {name: _numbers(value) for name, value in labels.items() if name not in UNSCORED and _numbers(value) != (0,)}
        for labels in described
    ]
    shared = {name: values for name, values in tables[0].items() if all(table.get(name) == values for table in tables)}
    if not shared:
        raise CompareError(
            f"{dataset}: there is no label to compare; the arms define "
            f"{'; '.join(', '.join(table) or 'none' for table in tables)}."
        )
    for name in tubular:
        if name not in shared:
            raise CompareError(
                f"--tubular {name} is no label of {dataset}, which has {', '.join(shared)}.{did_you_mean(name, shared)}"
            )
    every = {value for table in tables for values in table.values() for value in values}
    others = every - {value for values in shared.values() for value in values}
    ignore = _numbers(described[0]["ignore"])[0] if described[0].get("ignore") is not None else None
    return Labels(values=shared, ignore=ignore, tubular=tuple(tubular), others=tuple(sorted(others)))


def _numbers(value: Any) -> tuple[int, ...]:
    return tuple(map(int, value)) if isinstance(value, list | tuple) else (int(value),)


def _tolerance(references: Sequence[Path], given: float | None) -> tuple[float, list[str]]:
    """The tolerance of the NSD in mm, and notes on it.

    A tolerance below the shortest edge of a voxel is refused: only equal masks would meet it.
    """
    edges = [edge for path in references for edge in spacing_of(path)]
    shortest, longest = min(edges), max(edges)
    if given is None:
        return longest, []
    if not given > 0 or given < shortest * (1 - 1e-6):
        raise CompareError(
            f"--nsd-tolerance {given:g} is below the voxels' shortest edge of {shortest:g} mm, where a tolerance means nothing: "
            f"surfaces are at least that far apart, or equal. Give {shortest:g} mm or more."
        )
    if given < longest * (1 - 1e-6):
        return given, [
            f"the NSD's tolerance of {given:g} mm is below the longest edge of the voxels ({longest:g} mm): along that axis "
            "it allows no difference."
        ]
    return given, []
