"""Writes one case as stock nnU-Net's readers want it."""

from functools import partial
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from . import label_values as lb
from .image_reading import read_image
from .mask_reading import Reading, read_masks
from .pairing import Pair
from .parallel import each
from .photo import Array, Geometry
from .survey import Meaning
from .volumes import copy_volume, read_header, write_volume

READERS = {".png": "NaturalImage2DIO", ".tif": "NaturalImage2DIO", ".nii.gz": "SimpleITKIO"}
"""nnU-Net's class for the files that are written, which it could not tell by the ending alone."""

PNG_LEVEL, PNG_STRATEGY = 1, 3
"""zlib's fastest level, since writing takes most of the time of an import; run lengths, a fifth smaller on CHASE_DB1."""


def write_cases(
    folder: Path, part: str, pairs: list[Pair], meaning: Meaning, reading: Reading, workers: int, progress: bool
) -> None:
    """Fill `images{part}` and `labels{part}` (part: Tr or Ts)."""
    if not pairs:
        return
    images, masks = folder / f"images{part}", folder / f"labels{part}"
    images.mkdir()
    masks.mkdir()
    write = partial(_write_case, images, masks, meaning, reading)
    for _ in each(write, pairs, f"writing {images.name}", workers=workers, progress=progress):
        pass


def _write_case(images: Path, masks: Path, meaning: Meaning, reading: Reading, pair: Pair) -> None:
    geometry, plain = read_header(pair.image) if meaning.ending == ".nii.gz" else (None, False)
    if plain:
        copy_volume(pair.image, images / f"{pair.case}_0000.nii.gz")
    else:
        photo = read_image(pair.image, reading.channels)
        for index, plane in enumerate(photo.planes() if meaning.split else [photo.pixels]):
            _write(images / f"{pair.case}_{index:04d}{meaning.ending}", plane, geometry)
    stored = read_masks(pair, reading).stored.pixels
    labels = lb.relabel(stored, meaning.stored, meaning.labels, meaning.background)
    # with the image's geometry, since nnU-Net wants equal ones and rounding may have parted them
    _write(masks / f"{pair.case}{meaning.ending}", labels, geometry)


def _write(path: Path, pixels: Array, geometry: Geometry | None) -> None:
    if geometry:
        write_volume(path, pixels, geometry)
    elif path.suffix == ".tif":
        kept = pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)
        tifffile.imwrite(path, kept, photometric="minisblack", compression="zlib", metadata=None)
    else:
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        picture.save(path, compress_level=PNG_LEVEL, compress_type=PNG_STRATEGY)
