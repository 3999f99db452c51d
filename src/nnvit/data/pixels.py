"""Reads images and masks off disk into plain arrays, and refuses what would be read as something else."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps

from ..errors import DataError

Array = np.ndarray[Any, Any]

_GREY16 = ("I;16", "I;16L", "I;16B")


class Photo(NamedTuple):
    """An image as nnU-Net shall see it."""

    pixels: Array
    """(H, W) or (H, W, 3), uint8 or (grey only) uint16."""
    turned: bool
    """Whether an EXIF orientation was applied."""


def read_image(path: Path) -> Photo:
    """Read an RGB or grey image upright; an alpha channel is dropped if it is opaque throughout.

    Raises:
        DataError: unreadable, several pages, transparent pixels, or neither 8-bit RGB nor 8/16-bit grey.
    """
    picture, turned = _open(path)
    if picture.mode == "P":
        picture = picture.convert("L") if _has_grey_palette(picture) else picture
    if picture.has_transparency_data:
        picture = _without_alpha(path, picture)
    if picture.mode in _GREY16:
        return Photo(np.asarray(picture).astype(np.uint16), turned)
    if picture.mode not in ("1", "L", "P", "RGB"):
        raise DataError(
            f"image {path.name} has pixels of type '{picture.mode}'; convert it to 8-bit RGB or 8/16-bit grey"
        )
    return Photo(np.asarray(picture.convert({"1": "L", "P": "RGB"}.get(picture.mode, picture.mode))), turned)


def read_mask(path: Path) -> Array:
    """Read a mask's stored values, (H, W) integers: 1-bit as 0/1, grey palettes as grey, others as indices.

    Raises:
        DataError: unreadable, several pages, colours, transparent pixels, or values that are not integers.
    """
    picture, _ = _open(path)
    if picture.mode == "P":
        return np.asarray(picture.convert("L") if _has_grey_palette(picture) else picture)
    if picture.mode in ("LA", "RGBA"):
        picture = _without_alpha(path, picture)
    if picture.mode == "RGB":
        return _one_channel(path, np.asarray(picture))
    if picture.mode not in ("1", "L", "I", *_GREY16):
        raise DataError(f"mask {path.name} has pixels of type '{picture.mode}'; convert it to 8-bit grey")
    values = np.asarray(picture)
    return values.astype(np.uint8) if picture.mode == "1" else values


def _open(path: Path) -> tuple[Image.Image, bool]:
    try:
        with Image.open(path) as picture:
            _refuse_what_pillow_bends(path, picture)
            turned = picture.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
            picture.load()
            return ImageOps.exif_transpose(picture), turned
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path.name} cannot be read ({error}); it may be cut short, replace it") from error


def _refuse_what_pillow_bends(path: Path, picture: Image.Image) -> None:
    """Pillow reads 16-bit colour as 8-bit and the first page of many, without a word."""
    tiles = getattr(picture, "tile", None)
    arguments = tiles[0].args if tiles else ""
    raw_mode = arguments if isinstance(arguments, str) else str(arguments[0])
    if ";16" in raw_mode and picture.mode not in _GREY16:
        raise DataError(f"{path.name} has 16 bits per colour channel ({raw_mode}); save it with 8")
    # A phone's MPO file is a JPEG whose further frames are previews of the first.
    pages = getattr(picture, "n_frames", 1)
    if pages > 1 and picture.format != "MPO":
        raise DataError(f"{path.name} holds {pages} pages; expected one picture; save the page that is meant")


def _has_grey_palette(picture: Image.Image) -> bool:
    """Asked of the whole palette, not of the used entries: all files of one palette must be read alike."""
    colours = np.array(picture.getpalette("RGB")).reshape(-1, 3)
    return bool((colours == colours[:, :1]).all())


def _without_alpha(path: Path, picture: Image.Image) -> Image.Image:
    clear = int((np.asarray(picture.convert("RGBA").getchannel("A")) < 255).sum())
    if clear:
        raise DataError(
            f"{path.name} has {clear} pixels that are not opaque: what it shows depends on the background; "
            "save it without an alpha channel"
        )
    return picture.convert("L" if picture.mode in ("L", "LA") else "RGB")


def _one_channel(path: Path, colours: Array) -> Array:
    differ = int((colours != colours[..., :1]).any(axis=-1).sum())
    if differ:
        raise DataError(
            f"mask {path.name} is in colour: its channels differ in {differ} pixels; "
            "expected one value per pixel; save it as grey or with a palette"
        )
    return colours[..., 0]
