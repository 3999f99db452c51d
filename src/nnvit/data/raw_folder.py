"""Writes a data set's folder in nnUNet_raw: checks that its place is free, fills it, and puts it there whole or not at all."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from nnvit.errors import DataError

from .image_reading import read_image
from .mask_reading import Reading, read_masks
from .pairing import Pair
from .parallel import each
from .survey import Meaning
from .volumes import Geometry, copy_volume, read_header, write_volume

READERS = {".png": "NaturalImage2DIO", ".tif": "NaturalImage2DIO", ".nii.gz": "SimpleITKIO"}
"""Suffix of the written files -> nnU-Net's class that reads them; the suffix alone would leave it open."""
SPLITS_FILE = "splits_final.json"

_PNG_LEVEL, _PNG_STRATEGY = 1, 3
"""zlib's fastest level, since writing takes most of the time of an import; run lengths, a fifth smaller on CHASE_DB1."""


@dataclass(frozen=True)
class RawFolder:
    """The folders that belong to a data set of this name.

    Raises:
        DataError: an id outside 1..999 or a name that nnU-Net could not take apart again.
    """

    raw: Path
    preprocessed: Path | None
    """nnU-Net's folder of preprocessed data; None if splits are written beside the raw data alone."""
    dataset_id: int
    name: str

    def __post_init__(self) -> None:
        if not 1 <= self.dataset_id <= 999:
            raise DataError(f"the data set id is {self.dataset_id}; expected 1 to 999, nnU-Net reads three digits")
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.name) or "__" in self.name:
            raise DataError(
                f"the data set name is '{self.name}'; expected letters, digits, '-' and single '_' "
                "(nnU-Net splits folder names at '__')"
            )

    @property
    def path(self) -> Path:
        """`raw/DatasetXXX_Name`."""
        return self.raw / f"{self._prefix}{self.name}"

    @property
    def splits(self) -> Path | None:
        """The file in which training looks for the splits."""
        return self.preprocessed / self.path.name / SPLITS_FILE if self.preprocessed else None

    @property
    def _prefix(self) -> str:
        return f"Dataset{self.dataset_id:03d}_"

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

        Raises:
            DataError: there are some and `overwrite` is off, or preprocessed data use the id under another name.
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


@contextmanager
def replacing(target: Path, old: list[Path]) -> Iterator[Path]:
    """Yields an empty folder to fill, which takes the place of `target` and of `old` once the block succeeds."""
    partial_folder = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial_folder, ignore_errors=True)
    partial_folder.mkdir(parents=True)
    try:
        yield partial_folder
        _swap(partial_folder, target, old)
    except BaseException:  # Ctrl-C too
        shutil.rmtree(partial_folder, ignore_errors=True)
        raise


def write_cases(
    folder: Path, part: str, pairs: list[Pair], meaning: Meaning, reading: Reading, workers: int, progress: bool
) -> None:
    """Fills `images{part}` and `labels{part}` of a data set's folder; part: Tr or Ts."""
    if not pairs:
        return
    images, masks = folder / f"images{part}", folder / f"labels{part}"
    images.mkdir()
    masks.mkdir()
    write = partial(_write_case, images, masks, meaning, reading)
    for _ in each(write, pairs, f"writing {images.name}", workers=workers, progress=progress):
        pass


def _swap(partial_folder: Path, target: Path, old: list[Path]) -> None:
    aside = {folder: folder.with_name(f".{folder.name}.old") for folder in old}
    moved = []
    try:
        for folder, away in aside.items():
            shutil.rmtree(away, ignore_errors=True)
            folder.rename(away)
            moved.append(folder)
        partial_folder.rename(target)
    except OSError:
        for folder in moved:
            aside[folder].rename(folder)
        raise
    for away in aside.values():
        shutil.rmtree(away)


def _write_case(images: Path, masks: Path, meaning: Meaning, reading: Reading, pair: Pair) -> None:
    geometry, plain = read_header(pair.image) if meaning.ending == ".nii.gz" else (None, False)
    if plain:
        copy_volume(pair.image, images / f"{pair.case}_0000.nii.gz")
    else:
        photo = read_image(pair.image, reading.channels)
        for index, plane in enumerate(photo.planes() if meaning.split else [photo.pixels]):
            _write(images / f"{pair.case}_{index:04d}{meaning.ending}", plane, geometry)
    stored, _ = read_masks(pair, reading)
    # in the image's geometry: nnU-Net wants the two equal, and they may differ by rounding
    _write(masks / f"{pair.case}{meaning.ending}", meaning.values.relabel(stored.pixels), geometry)


def _write(path: Path, pixels: np.ndarray, geometry: Geometry | None) -> None:
    if geometry:
        write_volume(path, pixels, geometry)
    elif path.suffix == ".tif":
        kept = pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)
        tifffile.imwrite(path, kept, photometric="minisblack", compression="zlib", metadata=None)
    else:
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        picture.save(path, compress_level=_PNG_LEVEL, compress_type=_PNG_STRATEGY)
