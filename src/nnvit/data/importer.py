"""Imports a folder of images and one or more folders of masks as a raw nnU-Net data set."""

import os
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnvit.errors import DataError
from nnvit.records.json_files import write_json

from .mask_drawing import draw_preview
from .mask_reading import Declared, Stored
from .pairing import Pair, find_pairs, refuse
from .raw_folder import BLOCK, SPLITS_FILE, RawFolder, replacing, write_dataset
from .survey import Survey, Workers

_NORMALIZATIONS = {
    "rgb01": "values reach the network in 0..1, so the backbone's own statistics (e.g. ImageNet mean and "
    "standard deviation) are applied inside the network",
    "zscore": "each image is z-scored, and the backbone's own statistics are not applied",
    "ct": "values are clipped and scaled by the data set's own statistics, and the backbone's are not applied",
}
"""Name -> what it does."""
_READERS = {".png": "NaturalImage2DIO", ".tif": "NaturalImage2DIO", ".nii.gz": "SimpleITKIO"}
"""Suffix of the written files -> nnU-Net's class that reads them; the suffix alone would leave it open."""
_MOST_WORKERS = 8


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """The outcome of `import_dataset`."""

    folder: Path
    dataset_id: int
    num_cases: int
    """Training cases, validation included."""
    num_test: int
    """Cases held out in imagesTs and labelsTs."""
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
    warnings: tuple[str, ...] = ()
    unchanged: bool = False
    """True if the same import had been done before and nothing was written."""

    @classmethod
    def of(cls, target: RawFolder, dataset: dict[str, Any], *, unchanged: bool) -> "ImportReport":
        """Takes what the content of dataset.json says."""
        kept = dataset[BLOCK]["report"]
        sizes = tuple((train, val) for train, val in kept["fold_sizes"])
        return cls(
            folder=target.path,
            dataset_id=target.dataset_id,
            num_cases=dataset["numTraining"],
            channel_names=dataset["channel_names"],
            labels=dataset["labels"],
            splits=(target.splits or target.path / SPLITS_FILE) if sizes else None,
            unchanged=unchanged,
            **kept | {"fold_sizes": sizes, "warnings": tuple(kept["warnings"])},
        )

    @property
    def channels(self) -> int:
        """Their number."""
        return len(self.channel_names)

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
            f"normalization: {self.normalization}: {_NORMALIZATIONS[self.normalization]}",
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


@dataclass(frozen=True, kw_only=True)
class _Division:
    """The cases to train, validate and test on; no group (such as a patient) is on both sides."""

    training: list[Pair]
    """Validation cases included."""
    test: list[Pair]
    splits: list[dict[str, list[str]]]
    """{"train": cases, "val": cases} for each fold; empty if cases were not grouped: nnU-Net then splits at random."""
    num_groups: int | None
    """Number of groups among the training cases; None if cases were not grouped."""

    @classmethod
    def of(
        cls, pairs: list[Pair], group_by: str | None, num_folds: int, validate_on: str | None, hold_out: str | None
    ) -> "_Division":
        """Divides the cases; arguments as in `import_dataset`.

        Raises DataError for a bad expression, images without a group, an expression that matches no group or every one,
        and more folds than groups.
        """
        groups = {pair.case: pair.stem for pair in pairs} if group_by is None else _group_cases(pairs, group_by)
        test = set() if hold_out is None else _matching(groups, hold_out, "--hold-out")
        training = {case: group for case, group in groups.items() if case not in test}
        if group_by is None:
            folds = []
        elif validate_on is not None:
            folds = [_matching(training, validate_on, "--validate-on")]
        else:
            folds = _balanced(training, num_folds)
        return cls(
            training=[pair for pair in pairs if pair.case not in test],
            test=[pair for pair in pairs if pair.case in test],
            splits=[{"train": sorted(set(training) - fold), "val": sorted(fold)} for fold in folds],
            num_groups=None if group_by is None else len(set(training.values())),
        )


def import_dataset(
    images: Path,
    masks: Path | None,
    dataset_id: int,
    name: str,
    *,
    raw: Path,
    preprocessed: Path | None,
    masks_by_label: Mapping[str, Path] | None = None,
    mask_suffix: str = "",
    labels: Mapping[str, Stored] | None = None,
    overlap: str = "refuse",
    allow_missing_masks: bool = False,
    channel_names: tuple[str, ...] | None = None,
    group_by: str | None = None,
    num_folds: int = 5,
    validate_on: str | None = None,
    hold_out: str | None = None,
    normalization: str | None = None,
    workers: int | None = None,
    preview: int = 4,
    overwrite: bool = False,
    progress: bool = True,
) -> ImportReport:
    """Writes `raw/DatasetXXX_Name` for nnU-Net 2.8; refuses what is wrong before anything is written.

    The same import done again changes nothing, and its report says so.

    Args:
        images: folder of pictures (jpg, png, bmp, tif) or of volumes (nii.gz, nii), all with the same channels.
        masks: folder of masks (png, bmp, gif, tif; nii.gz for volumes), each named like its image plus `mask_suffix`.
        dataset_id: 1 to 999.
        name: letters, digits, '-' and '_'.
        raw: nnU-Net's folder of raw data sets.
        preprocessed: nnU-Net's folder of preprocessed ones, where training looks for the splits. None: the splits
            are written beside the raw data alone, from where nnU-Net's planning copies them.
        masks_by_label: instead of `masks`, label -> folder of its masks, or folder and pattern (`masks/*_MA`).
        mask_suffix: follows the image's name in the name of its mask.
        labels: name -> value stored in the masks, e.g. {"vessel": 255}, or name -> colour, e.g.
            {"vessel": (255, 0, 0)}. None: 0/1 and 0/255 are background and foreground, 0..n are n labels.
        overlap: `refuse` masks of several labels that overlap, or let the `first` label's mask win.
        allow_missing_masks: treat a mask that an image lacks as empty, if the image has one for another label.
        channel_names: one for each channel. Their number decides what files leave open: pages of a TIFF, a fourth
            dimension of a volume and an alpha channel are channels only if that makes this number.
        group_by: expression searched in each image's stem; its first group, else the match, is the patient.
        num_folds: cross-validation folds; no patient is in two of them.
        validate_on: expression for whole group names: one split instead, which validates on these groups.
        hold_out: expression for whole group names (whole stems when not grouped): the test cases.
        normalization: `rgb01` (divide by 255), `zscore` (by each image's own mean and standard deviation) or
            `ct` (by the data set's). None: `rgb01` for pictures, `zscore` for volumes.
        workers: files to read or write at a time, each held in memory. None: one per core, at most eight.
        preview: cases to show in `preview.png`, beside dataset.json; 0 for none.
        overwrite: replace a data set of this id, and its splits, once the new one is complete.
        progress: show bars if standard error is a terminal.

    Raises DataError if the options or the files are wrong; it names the files, what was found in them, and what to do.
    """
    target = RawFolder(raw, preprocessed, dataset_id, name)
    if normalization is not None and normalization not in _NORMALIZATIONS:
        raise DataError(f"normalization is '{normalization}'; expected one of {', '.join(_NORMALIZATIONS)}")
    declared = Declared(labels, masks_by_label, overlap, channel_names, normalization)
    if validate_on is not None and group_by is None:
        raise DataError("--validate-on chooses among groups, and there are none; give --group-by as well")
    if (masks is None) == (masks_by_label is None):
        raise DataError("masks come in one folder, or with --mask NAME=FOLDER for each label; give one of the two")
    target.recover()
    earlier = None if overwrite else target.earlier_import()
    old = [] if earlier else target.claim(overwrite)
    places = {"": masks} if masks is not None else masks_by_label or {}
    pairs, warnings = find_pairs(images, places, mask_suffix, allow_missing_masks)
    division = _Division.of(pairs, group_by, num_folds, validate_on, hold_out)
    crew = Workers(workers or min(_MOST_WORKERS, os.cpu_count() or 1), progress)
    options = {
        "mask_suffix": mask_suffix,
        "masks_by_label": {label: folder.name for label, folder in (masks_by_label or {}).items()},
        "label_stored_as": {label: str(stored) for label, stored in (labels or {}).items()},
        "overlap": overlap,
        "allow_missing_masks": allow_missing_masks,
        "channel_names": channel_names,
        "group_by": group_by,
        "num_folds": num_folds,
        "validate_on": validate_on,
        "hold_out": hold_out,
        "normalization": normalization,
    }
    if earlier:
        digests = dict(zip(pairs, crew.each(Pair.digest, pairs, "comparing"), strict=True))
        if earlier[BLOCK]["fingerprint"] != target.fingerprint(options, digests):
            target.claim(overwrite)
        target.check_splits(division.splits, overwrite)
        if target.splits and not target.splits.is_file():  # an interruption had prevented that
            _write_splits(target.splits, division)
        return ImportReport.of(target, earlier, unchanged=True)
    target.check_splits(division.splits, overwrite)
    survey = Survey.of(pairs, declared, crew)
    dataset = _describe(target, warnings, division, survey, options)
    report = ImportReport.of(target, dataset, unchanged=False)
    with replacing(target.path, old) as folder:
        write_dataset(folder, {"Tr": division.training, "Ts": division.test}, survey, dataset, crew)
        _write_splits(folder / SPLITS_FILE, division)
        if preview:
            draw_preview(folder, [pair.case for pair in division.training], survey.ending, report.labels, preview)
    _write_splits(target.splits, division)
    return report


def _describe(
    target: RawFolder, warnings: list[str], division: _Division, survey: Survey, options: dict[str, Any]
) -> dict[str, Any]:
    """Returns the content of dataset.json, with a block that describes the import."""
    block = options | {
        "normalization": survey.normalization,
        "sources": {pair.case: _source(pair) for pair in division.training + division.test},
    }
    if not survey.declared.several:
        block["stored_values"] = survey.values.as_stored()
    block["report"] = {
        "num_test": len(division.test),
        "label_fractions": survey.fractions(division.training),
        "normalization": survey.normalization,
        "num_groups": division.num_groups,
        "fold_sizes": [(len(split["train"]), len(split["val"])) for split in division.splits],
        "warnings": [*warnings, *survey.warnings(), *target.stale(division.splits)],
    }
    block["fingerprint"] = target.fingerprint(options, {pair: seen.digest for pair, seen in survey.seen.items()})
    return {
        "name": target.name,
        "channel_names": survey.channel_names,
        "labels": survey.values.numbers,
        "numTraining": len(division.training),
        "file_ending": survey.ending,
        "overwrite_image_reader_writer": _READERS[survey.ending],
        BLOCK: block,
    }


def _source(pair: Pair) -> dict[str, Any]:
    names = {label: mask.name for label, mask in pair.masks.items() if mask}
    return {"image": pair.image.name} | ({"mask": names[""]} if "" in names else {"masks": names})


def _write_splits(file: Path | None, division: _Division) -> None:
    if file and division.splits:
        write_json(file, division.splits, indent=1)


# --- the groups of cases ---------------------------------------------------------------------------------------------


def _group_cases(pairs: list[Pair], group_by: str) -> dict[str, str]:
    """Returns case -> group: the first capture group of `group_by` in the image's stem, else the whole match."""
    pattern = _compile(group_by, "--group-by")
    found = {pair.case: pattern.search(pair.stem) for pair in pairs}
    groups = {case: match.group(min(pattern.groups, 1)) for case, match in found.items() if match}
    lost = [pair.image.name for pair in pairs if not groups.get(pair.case)]
    refuse(
        f"--group-by '{group_by}' finds no group in {len(lost)} of {len(pairs)} images",
        lost,
        "Give an expression that finds the patient in every name, e.g. '^(p[0-9]+)'.",
    )
    return groups


def _balanced(groups: Mapping[str, str], num_folds: int) -> list[set[str]]:
    """Returns folds of nearly equal size. Raises DataError for more folds than groups."""
    members = defaultdict(set)
    for case, group in groups.items():
        members[group].add(case)
    if not 2 <= num_folds <= len(members):
        raise DataError(
            f"{num_folds} folds asked for with {len(members)} groups to train on; "
            "expected at least 2, and no more than there are groups: change --num-folds"
        )
    folds: list[set[str]] = [set() for _ in range(num_folds)]
    # The largest first into the emptiest fold: balanced, and the same whenever the names are the same.
    for group in sorted(members, key=lambda name: (-len(members[name]), name)):
        min(folds, key=len).update(members[group])
    return folds


def _matching(groups: Mapping[str, str], expression: str, option: str) -> set[str]:
    pattern = _compile(expression, option)
    cases = {case for case, group in groups.items() if pattern.fullmatch(group)}
    if not cases or len(cases) == len(groups):
        names = sorted(set(groups.values()))
        shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        raise DataError(
            f"{option} '{expression}' matches {'all' if cases else 'none'} of the {len(names)} groups ({shown}); "
            "expected some of them; it must match a group's whole name"
        )
    return cases


def _compile(expression: str, option: str) -> re.Pattern[str]:
    try:
        return re.compile(expression)
    except re.error as error:
        raise DataError(f"{option} '{expression}' is not a regular expression: {error}") from error
