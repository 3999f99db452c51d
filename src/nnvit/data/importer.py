"""A folder of images and one or more folders of masks -> a raw nnU-Net data set."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnvit.errors import DataError

from . import label_values as lb
from .case_files import READERS, write_cases
from .import_report import MEANING, ImportReport
from .mask_reading import OVERLAPS, Reading
from .pairing import (
    IMAGE_SUFFIXES,
    VOLUME_SUFFIXES,
    MaskFolder,
    Pair,
    find_pairs,
    list_files,
    list_masks,
    mask_folders,
    without_masks,
)
from .parallel import default_workers, each
from .preview import draw_preview
from .raw_folder import SPLITS_FILE, check_splits, claim, folder_name, recover, replacing, write_json
from .reimport import BLOCK, earlier_import, fingerprint, seal
from .splits import Division, divide
from .survey import Meaning, Survey, Wish, digest, label_fractions, survey_all, understand, warnings_of


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
    labels: Mapping[str, lb.Stored] | None = None,
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
    """Write `raw/DatasetXXX_Name` for nnU-Net 2.8; what is wrong is refused before anything is written.

    The same import a second time changes nothing, and its report says so.

    Args:
        images: folder of pictures (jpg, png, bmp, tif) or of volumes (nii.gz, nii), all with the same channels.
        masks: folder of masks (png, bmp, gif, tif; nii.gz for volumes), each called like its image plus `mask_suffix`.
        dataset_id: 1 to 999.
        name: letters, digits, '-' and '_'.
        raw: nnU-Net's folder of raw data sets.
        preprocessed: nnU-Net's folder of preprocessed ones, where training looks for the splits. None: they
            are written beside the raw data alone, from where nnU-Net's planning copies them.
        masks_by_label: instead of `masks`, label -> folder of its masks, or folder and pattern (`masks/*_MA`).
        mask_suffix: what the masks' names have after the images'.
        labels: name -> value stored in the masks, e.g. {"vessel": 255}, or name -> colour, e.g.
            {"vessel": (255, 0, 0)}. None: 0/1 and 0/255 are background and foreground, 0..n are n labels.
        overlap: where masks of several labels overlap: `refuse`, or let the `first` label's mask win.
        allow_missing_masks: take a mask that an image lacks as empty, if it has one for another label.
        channel_names: one for each channel. Settles what files leave open: pages of a TIFF, a fourth dimension
            of a volume and an alpha channel are channels only if that makes as many.
        group_by: expression searched in each image's stem; its first group, else the match, is the patient.
        num_folds: cross-validation folds; no patient is in two of them.
        validate_on: expression for whole group names: one split instead, which validates on these groups.
        hold_out: expression for whole group names (whole stems when not grouped): the test cases.
        normalization: `rgb01` (divide by 255), `zscore` (by each image's own mean and standard deviation) or
            `ct` (by the data set's). None: `rgb01` for pictures, `zscore` for volumes.
        workers: files to read or write at a time, each held in memory. None: one for each core, eight at most.
        preview: cases to show in `preview.png`, beside dataset.json; 0 for none.
        overwrite: replace a data set of this id, and its splits, once the new one is complete.
        progress: show bars if standard error is a terminal.

    Raises:
        DataError: with the names of the files, what was found in them, and what to do.
    """
    target = raw / folder_name(dataset_id, name)
    wish = _wish(labels, masks_by_label, overlap, channel_names, normalization)
    if validate_on is not None and group_by is None:
        raise DataError("--validate-on chooses among groups, and there are none; give --group-by as well")
    where = mask_folders(images, masks, masks_by_label, mask_suffix)
    recover(target)
    earlier = None if overwrite else earlier_import(target)
    old = [] if earlier else claim(target, preprocessed, overwrite)
    image_files, other_images = list_files(images, IMAGE_SUFFIXES | VOLUME_SUFFIXES, "image")
    image_files = without_masks(image_files, images, where)
    where = [list_masks(folder, image_files) for folder in where]
    pairs = find_pairs(image_files, where, allow_missing_masks)
    job = _Job(
        target=target,
        where=where,
        division=divide(pairs, group_by, num_folds, validate_on, hold_out),
        splits_file=preprocessed / target.name / SPLITS_FILE if preprocessed else None,
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
        workers=workers or default_workers(),
        progress=progress,
    )
    if earlier:
        if not _is_same(job, pairs, earlier):
            claim(target, preprocessed, overwrite)
        return _confirm(job, dataset_id, earlier)
    check_splits(job.splits_file, job.division.splits, overwrite)
    surveys, problems = survey_all(pairs, wish.reading, job.workers, progress)
    meaning = understand(surveys, problems, wish)
    passed_over = [(images, other_images), *((folder.folder, list(folder.others)) for folder in where)]
    warnings = [line for folder, others in passed_over for line in _ignored(folder, others)]
    report = _report(job, dataset_id, surveys, meaning, warnings)
    with replacing(target, old) as folder:
        _fill(folder, job, name, surveys, meaning, report)
        if preview:
            training = [pair.case for pair in job.division.training]
            draw_preview(folder, training, meaning.ending, meaning.labels, preview)
    _write_splits(job.splits_file, job.division)
    return report


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What is settled before a pixel is read."""

    target: Path
    where: list[MaskFolder]
    division: Division
    splits_file: Path | None
    """Where training looks for the splits."""
    wish: Wish
    options: dict[str, Any]
    """What was asked for, as the data set will remember it."""
    workers: int
    progress: bool


def _is_same(job: _Job, pairs: list[Pair], earlier: Mapping[str, Any]) -> bool:
    """Whether the import that stands there was of the same files with the same options."""
    digests = list(each(digest, pairs, "comparing", workers=job.workers, progress=job.progress))
    return bool(earlier[BLOCK]["fingerprint"] == fingerprint(job.options, _named(pairs, digests)))


def _confirm(job: _Job, dataset_id: int, earlier: dict[str, Any]) -> ImportReport:
    """Nothing is written but splits that an interruption kept from their place."""
    check_splits(job.splits_file, job.division.splits, overwrite=False)
    if job.splits_file and not job.splits_file.is_file():
        _write_splits(job.splits_file, job.division)
    return ImportReport.of_earlier(job.target, dataset_id, job.splits_file or job.target / SPLITS_FILE, earlier)


def _report(job: _Job, dataset_id: int, surveys: list[Survey], meaning: Meaning, warnings: list[str]) -> ImportReport:
    division = job.division
    return ImportReport(
        folder=job.target,
        dataset_id=dataset_id,
        num_cases=len(division.training),
        num_test=len(division.test),
        channels=len(meaning.channel_names),
        channel_names=meaning.channel_names,
        labels=meaning.labels,
        label_fractions=label_fractions([s for s in surveys if s.pair not in division.test], meaning),
        normalization=meaning.normalization,
        num_groups=division.num_groups,
        fold_sizes=tuple((len(split["train"]), len(split["val"])) for split in division.splits),
        splits=(job.splits_file or job.target / SPLITS_FILE) if division.splits else None,
        warnings=(*warnings, *warnings_of(surveys, meaning), *_stale(job.splits_file, division)),
    )


def _fill(folder: Path, job: _Job, name: str, surveys: list[Survey], meaning: Meaning, report: ImportReport) -> None:
    """Write all that nnU-Net reads, and what tells this import from another."""
    for part, cases in (("Tr", job.division.training), ("Ts", job.division.test)):
        write_cases(folder, part, cases, meaning, job.wish.reading, job.workers, job.progress)
    _write_splits(folder / SPLITS_FILE, job.division)
    dataset = _dataset_json(name, job.division, meaning)
    block = _origin(job, meaning) | {
        "report": report.kept(),
        "fingerprint": fingerprint(job.options, _named([s.pair for s in surveys], [s.digest for s in surveys])),
        "seal": seal(folder, dataset),
    }
    write_json(folder / "dataset.json", dataset | {BLOCK: block})


def _wish(
    labels: Mapping[str, lb.Stored] | None,
    masks_by_label: Mapping[str, Path] | None,
    overlap: str,
    channel_names: tuple[str, ...] | None,
    normalization: str | None,
) -> Wish:
    if normalization is not None and normalization not in MEANING:
        raise DataError(f"normalization is '{normalization}'; expected one of {', '.join(MEANING)}")
    if overlap not in OVERLAPS:
        raise DataError(f"overlap is '{overlap}'; expected one of {', '.join(OVERLAPS)}")
    if channel_names is not None and (len(set(channel_names)) < len(channel_names) or "" in channel_names):
        raise DataError(f"--channel-names gives {', '.join(channel_names)}; expected a different name for each channel")
    if labels is not None and masks_by_label is not None:
        raise DataError(
            "--label says what values in one mask mean, --mask names a mask for each label; give one of them"
        )
    declared, colours = (None, False) if labels is None else lb.as_values(labels)
    if masks_by_label is not None:
        if "background" in masks_by_label:
            raise DataError("--mask background: the background is what no other mask covers; leave it out")
        declared = {label: value for value, label in enumerate(masks_by_label, start=1)}
    if declared is not None:
        lb.check_declared(declared, colours)
    reading = Reading(
        channels=len(channel_names) if channel_names else None,
        colours=colours,
        several=masks_by_label is not None,
        overlap=overlap,
    )
    return Wish(labels=declared, reading=reading, channel_names=channel_names, normalization=normalization)


def _dataset_json(name: str, division: Division, meaning: Meaning) -> dict[str, Any]:
    return {
        "name": name,
        "channel_names": meaning.channel_names,
        "labels": meaning.labels,
        "numTraining": len(division.training),
        "file_ending": meaning.ending,
        "overwrite_image_reader_writer": READERS[meaning.ending],
    }


def _origin(job: _Job, meaning: Meaning) -> dict[str, Any]:
    """Where the data set came from."""
    sources = {pair.case: _source(pair, job.where) for pair in job.division.training + job.division.test}
    origin = {**job.options, "normalization": meaning.normalization, "sources": sources}
    if job.wish.reading.several:
        return origin
    colours = job.wish.reading.colours
    stored = {label: lb.show(value, True) if colours else value for label, value in meaning.stored.items()}
    return origin | {"stored_values": stored}


def _source(pair: Pair, where: list[MaskFolder]) -> dict[str, Any]:
    names = {w.label: mask.name for w, mask in zip(where, pair.masks, strict=True) if mask}
    return {"image": pair.image.name} | ({"mask": names[""]} if "" in names else {"masks": names})


def _named(pairs: list[Pair], digests: list[str]) -> list[str]:
    return [
        f"{pair.image.name} {[mask and mask.name for mask in pair.masks]} {d}"
        for pair, d in zip(pairs, digests, strict=True)
    ]


def _write_splits(file: Path | None, division: Division) -> None:
    if file and division.splits:
        write_json(file, division.splits)


def _ignored(folder: Path, others: list[Path]) -> list[str]:
    return [f"{len(others)} other files in '{folder}' were ignored, e.g. {others[0].name}"] if others else []


def _stale(splits_file: Path | None, division: Division) -> list[str]:
    """Warnings about what earlier data of this name left in nnU-Net's preprocessed folder."""
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
