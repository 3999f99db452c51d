"""Reads any image off disk as nnU-Net shall see it, and refuses what would be read as something else."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import SimpleITK
from PIL import ExifTags, Image, ImageOps

from nnvit.errors import DataError

from .pairing import VOLUME_SUFFIXES, suffix_of
from .photo import Array, Photo, upright
from .tiffs import drop_alpha, read_tiff, transparent
from .volumes import read_volume

GREY16 = ("I;16", "I;16L", "I;16B")


def read_as_nnunet(path: Path, channels: int | None = None) -> tuple[Array, dict[str, Any]]:
    """What stock nnU-Net's reader would return for this image, were it imported; see `Photo.as_nnunet`.

    Raises:
        DataError: as `read_image`.
    """
    return read_image(path, channels).as_nnunet()


def read_image(path: Path, channels: int | None = None) -> Photo:
    """Read a picture upright, or a volume; an alpha channel is dropped if it is opaque throughout.

    Args:
        path: jpg, png, bmp, tif or NIfTI.
        channels: as many channels as the user says there are, which settles what a file leaves open: whether
            pages or a fourth dimension are channels, and whether alpha is one.

    Raises:
        DataError: unreadable, several pages, transparent or infinite pixels, or pixels of a kind that nnU-Net
            could not read.
    """
    if suffix_of(path) in VOLUME_SUFFIXES:
        return read_volume(path, channels)
    if _is_tiff(path):
        return read_tiff(path, channels)
    picture, orientation, deep, _ = open_picture(path)
    if deep:
        return _read_deep_png(path, orientation, channels)
    turned = orientation != 1
    if picture.mode == "P":
        picture = picture.convert("L") if has_grey_palette(picture) else picture
    kept = picture.mode in ("LA", "RGBA") and channels == len(picture.getbands())
    opaque = picture.has_transparency_data and not kept
    if opaque:
        picture = without_alpha(path, picture)
    if picture.mode in GREY16:
        return Photo(pixels=np.asarray(picture).astype(np.uint16), turned=turned, opaque=opaque)
    if picture.mode not in ("1", "L", "P", "RGB", "LA", "RGBA"):
        raise DataError(
            f"image {path.name} has pixels of type '{picture.mode}'; convert it to 8-bit RGB or 8/16-bit grey"
        )
    pixels = np.asarray(picture.convert({"1": "L", "P": "RGB"}.get(picture.mode, picture.mode)))
    return Photo(pixels=pixels, turned=turned, opaque=opaque)


class Opened(NamedTuple):
    """A picture file, loaded."""

    picture: Image.Image
    """Upright."""
    orientation: int
    """What EXIF said of the file, 1 to 8; 1 is upright."""
    deep: bool
    """16 bits per colour channel, of which Pillow has kept 8."""
    lossy: bool
    """Whether JPEG has altered the pixels."""


def open_picture(path: Path) -> Opened:
    """Load a file of one picture with Pillow.

    Raises:
        DataError: unreadable, too large, or several pages.
    """
    try:
        with Image.open(path) as picture:
            _refuse_pages(path, picture)
            deep = ";16" in raw_mode(picture) and picture.mode not in GREY16
            orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
            picture.load()
            upright_picture = ImageOps.exif_transpose(picture)
            lossy = picture.format in ("JPEG", "MPO") or "jpeg" in str(picture.info.get("compression", ""))
            return Opened(upright_picture, orientation if orientation in range(2, 9) else 1, deep, lossy)
    except Image.DecompressionBombError as error:
        raise DataError(f"{path.name} is too large to read at once ({error}); cut it into tiles") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path.name} cannot be read ({error}); it may be cut short, replace it") from error


def has_grey_palette(picture: Image.Image) -> bool:
    """Asked of the whole palette, not of the used entries: all files of one palette must be read alike."""
    colours = np.array(picture.getpalette("RGB")).reshape(-1, 3)
    return bool((colours == colours[:, :1]).all())


def without_alpha(path: Path, picture: Image.Image) -> Image.Image:
    """Raise `DataError` unless the picture is opaque throughout."""
    clear = int((np.asarray(picture.convert("RGBA").getchannel("A")) < 255).sum())
    if clear:
        raise DataError(transparent(path, clear))
    return picture.convert("L" if picture.mode in ("L", "LA") else "RGB")


def raw_mode(picture: Image.Image) -> str:
    """How the file stores its pixels, which Pillow's mode hides for 16-bit colours; empty once it is loaded."""
    tiles = getattr(picture, "tile", None)
    arguments = tiles[0].args if tiles else ""
    return arguments if isinstance(arguments, str) else str(arguments[0])


def _is_tiff(path: Path) -> bool:
    """Asked of the content: Pillow would read a TIFF of another name, and drop channels."""
    with path.open("rb") as file:
        return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _read_deep_png(path: Path, orientation: int, channels: int | None) -> Photo:
    try:
        pixels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise DataError(f"{path.name} cannot be read ({reason}); save it as TIFF") from error
    alpha = pixels.shape[-1] in (2, 4) and channels != pixels.shape[-1]
    if alpha:
        pixels = drop_alpha(path, pixels, [pixels.shape[-1] - 1])
    return Photo(pixels=upright(pixels, orientation), turned=orientation != 1, opaque=alpha)


def _refuse_pages(path: Path, picture: Image.Image) -> None:
    """Pillow reads the first page of many, without a word."""
    # A phone's MPO file is a JPEG whose further frames are previews of the first.
    pages = getattr(picture, "n_frames", 1)
    if pages > 1 and picture.format != "MPO":
        raise DataError(f"{path.name} holds {pages} pages; expected one picture; save the page that is meant")
