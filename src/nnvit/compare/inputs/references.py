"""What the arms are scored against: the data set's labels, the references, the second observer."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnvit.compare.scores.metrics import Labels
from nnvit.errors import CompareError, did_you_mean

from .arms import Arm, Run, read_json
from .mask_files import masks_in, read_mask, some, spacing_of
from .training_records import records_of


def labels_of(arms: Sequence[Arm], dataset: str, references: dict[str, Path], tubular: Sequence[str]) -> Labels:
    """The labels or regions that all arms know; the values that the references hold where no dataset.json is at hand.

    Raises CompareError for a name of `tubular` that is none of them.
    """
    described = _described(arms, dataset, references)
    if not described:
        found = sorted({int(value) for path in references.values() for value in np.unique(read_mask(path)[0])} - {0})
        described = [{"labels": {str(value): value for value in found}}]
    tables = [_table(content) for content in described]
    shared = {name: values for name, values in tables[0].items() if all(table.get(name) == values for table in tables)}
    ignore = described[0]["labels"].get("ignore")
    if not shared:
        raise CompareError(
            f"{dataset}: there is no label to compare; the arms know {'; '.join(', '.join(table) or 'none' for table in tables)}."
        )
    for name in tubular:
        if name not in shared:
            raise CompareError(
                f"--tubular {name} is no label of {dataset}, which has {', '.join(shared)}.{did_you_mean(name, shared)}"
            )
    every = {value for table in tables for values in table.values() for value in values}
    return Labels(
        values=shared,
        ignore=None if ignore is None else _numbers(ignore)[0],
        tubular=tuple(tubular),
        others=tuple(sorted(every - {value for values in shared.values() for value in values})),
    )


def references_of(arms: Sequence[Arm], dataset: str, given: Path | None, *, several: bool) -> dict[str, Path]:
    """Case -> reference mask, of every case that an arm has.

    Looked for in `given` (its folder DATASET, where there are several), where nnU-Net took them for summary.json, in
    nnUNet_preprocessed and in nnUNet_raw. Raises CompareError where one is missing.
    """
    wanted = sorted({case for arm in arms for run in arm.runs if run.dataset == dataset for case in run.predictions()})
    places = [given / dataset if several and (given / dataset).is_dir() else given] if given else _places(arms, dataset)
    if given and not given.is_dir():
        raise CompareError(f"--reference {given} is not a folder; give the folder of the reference masks.")
    best: list[str] = wanted
    for place in places:
        masks = masks_in(place)
        missing = [case for case in wanted if case not in masks]
        if not missing:
            return {case: masks[case] for case in wanted}
        best = min(best, missing, key=len)
    looked = ", ".join(str(place) for place in places) or "nowhere: neither nnUNet_preprocessed nor nnUNet_raw is set"
    raise CompareError(
        f"{dataset}: no reference mask of {some(best)}; looked in {looked}. Give the folder of the reference masks with "
        f"--reference; a mask is called as its case, such as {wanted[0]}.png."
    )


def human_masks(folder: Path, references: dict[str, Path]) -> dict[str, Path]:
    """Case -> the second observer's mask; its name is the case's, or begins with it (`Image_01L_2ndHO.png`).

    Cases that the observer has not drawn are left out. Raises CompareError where there is none at all.
    """
    if not folder.is_dir():
        raise CompareError(f"--human {folder} is not a folder; give the folder of the second observer's masks.")
    masks = masks_in(folder)
    found = {}
    for case in references:
        names = [name for name in masks if name == case] or [
            name for name in masks if name.startswith(case) and not name[len(case)].isalnum()
        ]
        if len(names) > 1:
            raise CompareError(
                f"--human {folder} holds several masks of '{case}': {', '.join(sorted(names))}; leave one of them."
            )
        if names:
            found[case] = masks[names[0]]
    if not found:
        raise CompareError(
            f"--human {folder} holds no mask whose name is or begins with a case's, such as {next(iter(references))}.png; "
            f"it holds {some(sorted(masks)) or 'no masks'}."
        )
    return found


def tolerance_for(references: Sequence[Path], given: float | None) -> tuple[float, list[str]]:
    """The NSD's tolerance in mm, and what there is to say about it.

    By default the longest edge of any voxel. Raises CompareError for one below the shortest, which no mask can meet
    but by being equal.
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


def _described(arms: Sequence[Arm], dataset: str, references: dict[str, Path]) -> list[dict[str, Any]]:
    """dataset.json of all arms that have one; else the one beside the references."""
    runs = [run for arm in arms for run in arm.runs if run.dataset == dataset and run.model]
    files = [run.model / "dataset.json" for run in runs if run.model]
    first = next(iter(references.values()), None)
    if first is not None and not any(path.is_file() for path in files):
        files = [first.parent / "dataset.json", first.parent.parent / "dataset.json"]
    contents = [read_json(path) for path in files if path.is_file()]
    return [content for content in contents if content.get("labels")]


def _table(content: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name -> values, without the background and what is to be ignored."""
    table = {
        name: tuple(_numbers(value))
        for name, value in content["labels"].items()
        if name not in ("background", "ignore")
    }
    return {name: values for name, values in table.items() if values != (0,)}


def _numbers(value: Any) -> list[int]:
    return [int(number) for number in value] if isinstance(value, list | tuple) else [int(value)]


def _places(arms: Sequence[Arm], dataset: str) -> list[Path]:
    """Where nnU-Net keeps references, the place that it took them from first."""
    places: list[Path] = []
    runs = [run for arm in arms for run in arm.runs if run.dataset == dataset]
    places += [place for run in runs for place in _of_summary(run)]
    for variable, folder in (
        ("nnUNet_preprocessed", "gt_segmentations"),
        ("nnUNet_raw", "labelsTr"),
        ("nnUNet_raw", "labelsTs"),
    ):
        if os.environ.get(variable):
            places.append(Path(os.environ[variable]) / dataset / folder)
    return [place for place in dict.fromkeys(places) if place.is_dir()]


def _of_summary(run: Run) -> list[Path]:
    found = []
    for record in records_of(run):
        entries = record.summary.get("metric_per_case", ())
        found += [Path(entry["reference_file"]).parent for entry in entries[:1] if entry.get("reference_file")]
    return found


def without_home(text: str) -> str:
    """Absolute paths by their last two parts: a page or a file that is mailed need not say whose machine it was."""
    return re.sub(r"(?<![\w.…])/(?:[^/\s=]+/)+(?=[^/\s]+/[^/\s]+)", "…/", text)


def write_json(path: Path, content: Any) -> None:
    """Writes beside and renames, so that nobody ever reads half a file."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)
