"""Imports a folder of images and one or more folders of masks as a raw nnU-Net data set."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnvit.errors import DataError
from nnvit.records.json_files import write_json

from .import_report import BLOCK, NORMALIZATIONS, ImportReport, earlier_import, fingerprint, seal
from .label_values import LabelValues, Stored
from .mask_drawing import draw_preview
from .mask_reading import OVERLAPS, Reading
from .pairing import Pair, Pairing, find_pairs
from .parallel import each
from .raw_folder import READERS, SPLITS_FILE, RawFolder, replacing, write_cases
from .splits import Division, divide
from .survey import Meaning, Wish, survey

_MOST_WORKERS = 8


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

    Raises:
        DataError: the options or the files are wrong; names the files, what was found in them, and what to do.
    """
    target = RawFolder(raw, preprocessed, dataset_id, name)
    wish = _wish(labels, masks_by_label, overlap, channel_names, normalization)
    if validate_on is not None and group_by is None:
        raise DataError("--validate-on chooses among groups, and there are none; give --group-by as well")
    if (masks is None) == (masks_by_label is None):
        raise DataError("masks come in one folder, or with --mask NAME=FOLDER for each label; give one of the two")
    target.recover()
    earlier = None if overwrite else earlier_import(target.path)
    old = [] if earlier else target.claim(overwrite)
    pairing = find_pairs(images, masks, masks_by_label, mask_suffix, allow_missing_masks)
    job = _Job(
        target=target,
        pairing=pairing,
        division=divide(pairing.pairs, group_by, num_folds, validate_on, hold_out),
        wish=wish,
        options={
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
        },
        workers=workers or min(_MOST_WORKERS, os.cpu_count() or 1),
        progress=progress,
    )
    if earlier:
        if not _is_same(job, earlier):
            target.claim(overwrite)
        return _confirm(job, earlier)
    target.check_splits(job.division.splits, overwrite)
    meaning = survey(pairing.pairs, wish, job.workers, progress)
    report = _report(job, meaning)
    with replacing(target.path, old) as folder:
        _fill(folder, job, meaning, report)
        if preview:
            training = [pair.case for pair in job.division.training]
            draw_preview(folder, training, meaning.ending, meaning.values.numbers, preview)
    _write_splits(target.splits, job.division)
    return report


@dataclass(frozen=True, kw_only=True)
class _Job:
    """The settings that are known before a pixel is read."""

    target: RawFolder
    pairing: Pairing
    division: Division
    wish: Wish
    options: dict[str, Any]
    """The user's options, as dataset.json keeps them."""
    workers: int
    progress: bool


def _is_same(job: _Job, earlier: Mapping[str, Any]) -> bool:
    """Returns True if the earlier import was of the same files with the same options."""
    pairs = job.pairing.pairs
    digests = each(Pair.digest, pairs, "comparing", workers=job.workers, progress=job.progress)
    return bool(earlier[BLOCK]["fingerprint"] == fingerprint(job.options, dict(zip(pairs, digests, strict=True))))


def _confirm(job: _Job, earlier: dict[str, Any]) -> ImportReport:
    """Reports an unchanged import; writes only the splits, if an interruption had prevented that."""
    target, splits = job.target, job.target.splits
    target.check_splits(job.division.splits, overwrite=False)
    if splits and not splits.is_file():
        _write_splits(splits, job.division)
    return ImportReport.of_earlier(target.path, target.dataset_id, splits or target.path / SPLITS_FILE, earlier)


def _report(job: _Job, meaning: Meaning) -> ImportReport:
    division, target = job.division, job.target
    ignored = [line for folder, files in job.pairing.ignored for line in _ignored(folder, files)]
    return ImportReport(
        folder=target.path,
        dataset_id=target.dataset_id,
        num_cases=len(division.training),
        num_test=len(division.test),
        channels=len(meaning.channel_names),
        channel_names=meaning.channel_names,
        labels=meaning.values.numbers,
        label_fractions=meaning.fractions(division.training),
        normalization=meaning.normalization,
        num_groups=division.num_groups,
        fold_sizes=tuple((len(split["train"]), len(split["val"])) for split in division.splits),
        splits=(target.splits or target.path / SPLITS_FILE) if division.splits else None,
        warnings=(*ignored, *meaning.warnings(), *_stale(target.splits, division)),
    )


def _fill(folder: Path, job: _Job, meaning: Meaning, report: ImportReport) -> None:
    """Writes all that nnU-Net reads, and the block that describes the import."""
    for part, cases in (("Tr", job.division.training), ("Ts", job.division.test)):
        write_cases(folder, part, cases, meaning, job.wish.reading, job.workers, job.progress)
    _write_splits(folder / SPLITS_FILE, job.division)
    dataset = {
        "name": job.target.name,
        "channel_names": meaning.channel_names,
        "labels": meaning.values.numbers,
        "numTraining": len(job.division.training),
        "file_ending": meaning.ending,
        "overwrite_image_reader_writer": READERS[meaning.ending],
    }
    block = _origin(job, meaning) | {
        "report": report.kept(),
        "fingerprint": fingerprint(job.options, meaning.digests),
        "seal": seal(folder, dataset),
    }
    write_json(folder / "dataset.json", dataset | {BLOCK: block}, indent=1)


def _wish(
    labels: Mapping[str, Stored] | None,
    masks_by_label: Mapping[str, Path] | None,
    overlap: str,
    channel_names: tuple[str, ...] | None,
    normalization: str | None,
) -> Wish:
    """Raises DataError for options that are not allowed or contradict each other."""
    if normalization is not None and normalization not in NORMALIZATIONS:
        raise DataError(f"normalization is '{normalization}'; expected one of {', '.join(NORMALIZATIONS)}")
    if overlap not in OVERLAPS:
        raise DataError(f"overlap is '{overlap}'; expected one of {', '.join(OVERLAPS)}")
    if channel_names is not None and (len(set(channel_names)) < len(channel_names) or "" in channel_names):
        raise DataError(f"--channel-names gives {', '.join(channel_names)}; expected a different name for each channel")
    if labels is not None and masks_by_label is not None:
        raise DataError(
            "--label says what values in one mask mean, --mask names a mask for each label; give one of them"
        )
    if masks_by_label is not None:
        if "background" in masks_by_label:
            raise DataError("--mask background: the background is what no other mask covers; leave it out")
        labels = {label: value for value, label in enumerate(masks_by_label, start=1)}
    values = None if labels is None else LabelValues.of_names(labels)
    reading = Reading(
        channels=len(channel_names) if channel_names else None,
        colours=values is not None and values.colours,
        several=masks_by_label is not None,
        overlap=overlap,
    )
    return Wish(values=values, reading=reading, channel_names=channel_names, normalization=normalization)


def _origin(job: _Job, meaning: Meaning) -> dict[str, Any]:
    """Describes where the data set came from."""
    cases = job.division.training + job.division.test
    sources = {pair.case: _source(pair, job.pairing.labels) for pair in cases}
    origin = {**job.options, "normalization": meaning.normalization, "sources": sources}
    return origin if job.wish.reading.several else origin | {"stored_values": meaning.values.as_stored()}


def _source(pair: Pair, labels: tuple[str, ...]) -> dict[str, Any]:
    names = {label: mask.name for label, mask in zip(labels, pair.masks, strict=True) if mask}
    return {"image": pair.image.name} | ({"mask": names[""]} if "" in names else {"masks": names})


def _write_splits(file: Path | None, division: Division) -> None:
    if file and division.splits:
        write_json(file, division.splits, indent=1)


def _ignored(folder: Path, others: list[Path]) -> list[str]:
    return [f"{len(others)} other files in '{folder}' were ignored, e.g. {others[0].name}"] if others else []


def _stale(splits_file: Path | None, division: Division) -> list[str]:
    """Warns about what earlier data of this name left in nnU-Net's preprocessed folder."""
    if splits_file is None or not splits_file.parent.is_dir():
        return []
    warnings = []
    if any(path.name != SPLITS_FILE for path in splits_file.parent.iterdir()):
        warnings.append(
            f"'{splits_file.parent}' was preprocessed from earlier data; re-run nnUNetv2_plan_and_preprocess"
        )
    if splits_file.is_file() and not division.splits:
        warnings.append(f"nnU-Net will go on using '{splits_file}'; delete it if it is not for these cases")
    return warnings
