"""A folder of images and a folder of masks -> a raw nnU-Net data set."""

from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import DataError
from .labels import check_declared, relabel
from .pairing import IMAGE_SUFFIXES, MASK_SUFFIXES, find_pairs, list_files
from .pixels import read_image, read_mask
from .rawfolder import SPLITS_FILE, check_splits, claim, folder_name, replacing, write_json
from .report import MEANING, ImportReport
from .splits import Division, divide
from .survey import Meaning, follow, label_fractions, survey_all, understand, warnings_of

PNG_EFFORT = 1
"""zlib's fastest level: writing takes most of the time of an import."""


def import_dataset(
    images: Path,
    masks: Path,
    dataset_id: int,
    name: str,
    *,
    raw: Path,
    preprocessed: Path | None,
    mask_suffix: str = "",
    labels: dict[str, int] | None = None,
    group_by: str | None = None,
    num_folds: int = 5,
    validate_on: str | None = None,
    hold_out: str | None = None,
    normalization: str = "rgb01",
    overwrite: bool = False,
    progress: bool = True,
) -> ImportReport:
    """Write `raw/DatasetXXX_Name` for nnU-Net 2.8; what is wrong is refused before anything is written.

    Args:
        images: folder of RGB or grey images (jpg, png, tif), all with the same number of channels.
        masks: folder of masks (png, gif, tif), each called like its image plus `mask_suffix`.
        dataset_id: 1 to 999.
        name: letters, digits, '-' and '_'.
        raw: nnU-Net's folder of raw data sets.
        preprocessed: nnU-Net's folder of preprocessed ones, where training looks for the splits. None: they
            are written beside the raw data alone, from where nnU-Net's planning copies them.
        mask_suffix: what the masks' names have after the images'.
        labels: name -> value stored in the masks, e.g. {"vessel": 255}. None: 0/1 and 0/255 are background
            and foreground, 0..n are n labels.
        group_by: expression searched in each image's stem; its first group, else the match, is the patient.
        num_folds: cross-validation folds; no patient is in two of them.
        validate_on: expression for whole group names: one split instead, which validates on these groups.
        hold_out: expression for whole group names (whole stems when not grouped): the test cases.
        normalization: `rgb01` (divide by 255) or `zscore` (by each image's own mean and standard deviation).
        overwrite: replace a data set of this id, and its splits, once the new one is complete.
        progress: show bars if standard error is a terminal.

    Raises:
        DataError: with the names of the files, what was found in them, and what to do.
    """
    target = raw / folder_name(dataset_id, name)
    _check_options(labels, group_by, validate_on, normalization)
    old = claim(target, preprocessed, overwrite)
    image_files, other_images = list_files(images, IMAGE_SUFFIXES, "image")
    mask_files, other_masks = list_files(masks, MASK_SUFFIXES, "mask")
    pairs = find_pairs(image_files, mask_files, mask_suffix)
    division = divide(pairs, group_by, num_folds, validate_on, hold_out)
    splits_file = preprocessed / target.name / SPLITS_FILE if preprocessed else None
    check_splits(splits_file, division.splits, overwrite)
    surveys, problems = survey_all(pairs, progress)
    meaning = understand(surveys, problems, labels, normalization)
    warnings = [
        *_ignored(images, other_images),
        *_ignored(masks, other_masks),
        *warnings_of(surveys, meaning),
        *_stale(splits_file, division),
    ]
    options = {
        "mask_suffix": mask_suffix,
        "group_by": group_by,
        "validate_on": validate_on,
        "hold_out": hold_out,
        "normalization": normalization,
    }
    with replacing(target, old) as folder:
        _write_cases(folder, division, meaning, progress)
        write_json(folder / "dataset.json", _dataset_json(name, division, meaning, options))
        _write_splits(folder / SPLITS_FILE, division)
    _write_splits(splits_file, division)
    return ImportReport(
        folder=target,
        dataset_id=dataset_id,
        num_cases=len(division.training),
        num_test=len(division.test),
        channels=len(meaning.channel_names),
        channel_names=meaning.channel_names,
        labels=meaning.labels,
        label_fractions=label_fractions([s for s in surveys if s.pair not in division.test], meaning),
        normalization=normalization,
        num_groups=division.num_groups,
        fold_sizes=tuple((len(split["train"]), len(split["val"])) for split in division.splits),
        splits=(splits_file or target / SPLITS_FILE) if division.splits else None,
        warnings=tuple(warnings),
    )


def _check_options(
    labels: dict[str, int] | None, group_by: str | None, validate_on: str | None, normalization: str
) -> None:
    if normalization not in MEANING:
        raise DataError(f"normalization is '{normalization}'; expected one of {', '.join(MEANING)}")
    if validate_on is not None and group_by is None:
        raise DataError("--validate-on chooses among groups, and there are none; give --group-by as well")
    if labels is not None:
        check_declared(labels)


def _write_cases(folder: Path, division: Division, meaning: Meaning, progress: bool) -> None:
    for part, pairs in (("Tr", division.training), ("Ts", division.test)):
        if not pairs:
            continue
        images, masks = folder / f"images{part}", folder / f"labels{part}"
        images.mkdir()
        masks.mkdir()
        for pair in follow(pairs, f"writing {images.name}", progress):
            image = Image.fromarray(read_image(pair.image).pixels)
            image.save(images / f"{pair.case}_0000.png", compress_level=PNG_EFFORT)
            mask = Image.fromarray(relabel(read_mask(pair.mask), meaning.stored, meaning.labels))
            mask.save(masks / f"{pair.case}.png", compress_level=PNG_EFFORT)


def _dataset_json(name: str, division: Division, meaning: Meaning, options: dict[str, Any]) -> dict[str, Any]:
    """nnU-Net passes over keys it does not know, so where the cases came from can travel along."""
    pairs = division.training + division.test
    sources = {pair.case: {"image": pair.image.name, "mask": pair.mask.name} for pair in pairs}
    return {
        "name": name,
        "channel_names": meaning.channel_names,
        "labels": meaning.labels,
        "numTraining": len(division.training),
        "file_ending": ".png",
        "overwrite_image_reader_writer": "NaturalImage2DIO",
        "nnvit_import": {**options, "stored_values": meaning.stored, "sources": sources},
    }


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
