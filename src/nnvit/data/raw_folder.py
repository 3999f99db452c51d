"""Writes a data set's folder in nnUNet_raw: checks that its place is free, fills it, and puts it there whole or not at all."""

import gzip
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
import tifffile
from PIL import Image

from nnvit.errors import DataError
from nnvit.records.json_files import read_json, write_json

from .image_reading import Photo, read_image
from .pairing import Pair
from .survey import Survey, Workers

BLOCK = "nnvit_import"
"""Key of dataset.json under which the import is described; nnU-Net ignores keys that it does not know."""
SPLITS_FILE = "splits_final.json"
_PARTS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")
_PNG_LEVEL, _PNG_STRATEGY = 1, 3
"""zlib's fastest level, since writing takes most of the time of an import; run lengths, a fifth smaller on CHASE_DB1."""


class RawFolder:
    """The folders that belong to a data set of this name.

    path: `raw/DatasetXXX_Name`; splits: the file in which training looks for the splits, or None if they are written
    beside the raw data alone.
    """

    def __init__(self, raw: Path, preprocessed: Path | None, dataset_id: int, name: str) -> None:
        """raw, preprocessed: nnU-Net's folders. Raises DataError for an id or a name that nnU-Net could not read back."""
        if not 1 <= dataset_id <= 999:
            raise DataError(f"the data set id is {dataset_id}; expected 1 to 999, nnU-Net reads three digits")
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or "__" in name:
            raise DataError(
                f"the data set name is '{name}'; expected letters, digits, '-' and single '_' "
                "(nnU-Net splits folder names at '__')"
            )
        self.raw, self.preprocessed, self.dataset_id, self.name = raw, preprocessed, dataset_id, name
        self._prefix = f"Dataset{dataset_id:03d}_"
        self.path = raw / f"{self._prefix}{name}"
        self.splits = preprocessed / self.path.name / SPLITS_FILE if preprocessed else None

    def recover(self) -> None:
        """Undoes what an import of this id left unfinished when it was killed before it could clean up."""
        for aside in self.raw.glob(f".{self._prefix}*.old"):
            if any(self.raw.glob(f"{self._prefix}*")):
                shutil.rmtree(aside)
            else:
                aside.rename(aside.with_name(aside.name[1:].removesuffix(".old")))
        for partial_folder in self.raw.glob(f".{self._prefix}*.partial"):
            shutil.rmtree(partial_folder)

    def claim(self, overwrite: bool) -> list[Path]:
        """Returns the raw folders of this id, which `overwrite` allows to replace.

        Raises DataError if there are some and `overwrite` is off, or if preprocessed data use the id under another name.
        """
        old = sorted(self.raw.glob(f"{self._prefix}*"))
        if old and not overwrite:
            raise DataError(f"'{old[0]}' has this id already; give --overwrite to replace it, or another id")
        known = sorted(self.preprocessed.glob(f"{self._prefix}*")) if self.preprocessed else []
        foreign = [folder for folder in known if folder.name != self.path.name]
        if foreign:
            raise DataError(
                f"preprocessed data '{foreign[0]}' use this id under another name, which nnU-Net refuses; "
                f"give another id, the name '{foreign[0].name[len(self._prefix) :]}', or remove that folder"
            )
        return old

    def check_splits(self, splits: list[dict[str, list[str]]], overwrite: bool) -> None:
        """Raises DataError if there are splits to write and the file holds others, unless `overwrite` is on."""
        file, text = self.splits, json.dumps(splits, indent=1) + "\n"
        if file and splits and file.is_file() and not overwrite and file.read_text() != text:
            raise DataError(f"'{file}' holds other splits; give --overwrite to replace them, or move it away")

    def stale(self, splits: list[dict[str, list[str]]]) -> list[str]:
        """Warns about what earlier data of this name left in nnU-Net's preprocessed folder."""
        file, warnings = self.splits, []
        if file is None or not file.parent.is_dir():
            return []
        if any(path.name != SPLITS_FILE for path in file.parent.iterdir()):
            warnings.append(f"'{file.parent}' was preprocessed from earlier data; re-run nnUNetv2_plan_and_preprocess")
        if file.is_file() and not splits:
            warnings.append(f"nnU-Net will go on using '{file}'; delete it if it is not for these cases")
        return warnings

    def earlier_import(self) -> dict[str, Any] | None:
        """Returns the dataset.json of an earlier import if the folder still is as it was written, else None."""
        try:
            dataset: dict[str, Any] = read_json(self.path / "dataset.json")
            return dataset if dataset[BLOCK]["seal"] == _seal(self.path, dataset) else None
        except (OSError, DataError, KeyError, TypeError):
            return None

    @staticmethod
    def fingerprint(options: Mapping[str, Any], digests: Mapping[Pair, str]) -> str:
        """Returns a hash of the import's options, and of the names and contents (`Pair.digest`) of its files."""
        files = [f"{p.image.name} {[mask and mask.name for mask in p.masks.values()]} {d}" for p, d in digests.items()]
        return _hash([options, sorted(files)])


@contextmanager
def replacing(target: Path, old: list[Path]) -> Iterator[Path]:
    """Yields an empty folder to fill, which takes the place of `target` and of `old` once the block succeeds."""
    partial_folder = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial_folder, ignore_errors=True)
    partial_folder.mkdir(parents=True)
    moved = {}
    try:
        yield partial_folder
        for folder in old:
            aside = folder.with_name(f".{folder.name}.old")
            shutil.rmtree(aside, ignore_errors=True)
            moved[folder] = folder.rename(aside)
        partial_folder.rename(target)
    except BaseException:  # Ctrl-C too
        if partial_folder.exists():
            for folder, aside in moved.items():
                aside.rename(folder)
            shutil.rmtree(partial_folder, ignore_errors=True)
        raise
    for aside in moved.values():
        shutil.rmtree(aside)


def write_dataset(
    folder: Path, parts: Mapping[str, list[Pair]], survey: Survey, dataset: dict[str, Any], workers: Workers
) -> None:
    """Fills the folder of a data set.

    Args:
        parts: Tr and Ts -> cases of `imagesTr` and `labelsTr`, `imagesTs` and `labelsTs`.
        dataset: content of dataset.json, with a `BLOCK`; this function adds the seal by which `earlier_import`
            finds that nothing was changed.
    """
    for part, pairs in parts.items():
        if pairs:
            images, masks = folder / f"images{part}", folder / f"labels{part}"
            images.mkdir()
            masks.mkdir()
            for _ in workers.each(partial(_write_case, images, masks, survey), pairs, f"writing {images.name}"):
                pass
    block = dataset[BLOCK] | {"seal": _seal(folder, dataset)}
    write_json(folder / "dataset.json", dataset | {BLOCK: block}, indent=1)


def _write_case(images: Path, masks: Path, survey: Survey, pair: Pair) -> None:
    image = survey.seen[pair].image
    if image.pixels.ndim == image.axes:  # a volume of one channel
        _copy_volume(pair.image, images / f"{pair.case}_0000.nii.gz")
    else:
        photo = read_image(pair.image, survey.declared.channels)
        for index, plane in enumerate(photo.planes() if survey.split else [photo.pixels]):
            _write(images / f"{pair.case}_{index:04d}{survey.ending}", plane, image)
    stored, _ = survey.declared.read_masks(pair)
    # in the image's geometry: nnU-Net wants the two equal, and they may differ by rounding
    _write(masks / f"{pair.case}{survey.ending}", survey.values.relabel(stored.pixels), image)


def _copy_volume(source: Path, target: Path) -> None:
    """Copies a NIfTI file of one channel, header included, into a compressed one."""
    if source.name.lower().endswith(".gz"):
        shutil.copyfile(source, target)
        return
    with source.open("rb") as plain, target.open("wb") as out, gzip.GzipFile("", "wb", 6, out, mtime=0) as packed:
        shutil.copyfileobj(plain, packed)


def _write(path: Path, pixels: np.ndarray, photo: Photo) -> None:
    """Writes pixels that lie where the photo's do."""
    if photo.geometry:
        image = SimpleITK.GetImageFromArray(np.ascontiguousarray(pixels))
        image.SetSpacing(photo.geometry.spacing)
        image.SetOrigin(photo.geometry.origin)
        image.SetDirection(photo.geometry.direction)
        SimpleITK.WriteImage(image, str(path), True)
    elif path.suffix == ".tif":
        kept = pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)
        tifffile.imwrite(path, kept, photometric="minisblack", compression="zlib", metadata=None)
    else:
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        picture.save(path, compress_level=_PNG_LEVEL, compress_type=_PNG_STRATEGY)


def _seal(folder: Path, dataset: Mapping[str, Any]) -> str:
    """Returns a hash of what an import wrote: dataset.json without its own block, and names and sizes of the cases' files."""
    paths = [path for part in _PARTS for path in (folder / part).glob("*")]
    files = sorted((f"{path.parent.name}/{path.name}", path.stat().st_size) for path in paths)
    return _hash([{key: value for key, value in dataset.items() if key != BLOCK}, files])


def _hash(content: Any) -> str:
    """Returns the sha256 by which earlier releases recorded imports; its JSON is not that of `nnvit.records.hashes`."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
