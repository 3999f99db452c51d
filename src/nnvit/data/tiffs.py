"""TIFF images: any number of channels of any depth, as far as the file leaves no doubt about what they are."""

import struct
import zlib
from pathlib import Path

import numpy as np
import tifffile

from nnvit.errors import DataError

from .photo import Array, Photo, upright
from .volumes import refuse_infinite

MOST_CHANNELS = 32
"""A last axis that is longer is not one of channels."""

CHANNEL_AXES = "SC"
JPEG = (tifffile.COMPRESSION.JPEG, tifffile.COMPRESSION.OJPEG)
ORIENTATION = 274
TIFF_ERRORS = (OSError, ValueError, RuntimeError, KeyError, IndexError, struct.error, zlib.error)


def read_tiff(path: Path, channels: int | None = None) -> Photo:
    """Read a picture: palettes as their colours, 1 bit as 0/255, whole numbers beyond 16 bits as float32.

    Args:
        channels: as many channels as the user says there are; pages are read as channels, and an alpha
            channel is kept, only if that makes this number.

    Raises:
        DataError: unreadable or cut short, pages of unknown meaning, transparent or infinite pixels, CMYK and the like.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            _refuse_cut(path, tiff)
            _refuse_pages(path, tiff)
            page = tiff.series[0].keyframe
            pixels = _plain_numbers(path, _as_shown(path, page, _channels_last(path, tiff, channels)))
            orientation = page.tags.valueof(ORIENTATION, 1)
    except TIFF_ERRORS as error:
        raise DataError(f"{path.name} cannot be read ({error}); it may be cut short, replace it") from error
    alpha = [] if channels == page.samplesperpixel else _alpha_of(page)
    if alpha:
        pixels = drop_alpha(path, pixels, alpha)
    refuse_infinite(path, pixels, "pixels")
    return Photo(pixels=upright(pixels, orientation), turned=orientation in range(2, 9), opaque=bool(alpha))


def drop_alpha(path: Path, pixels: Array, alpha: list[int]) -> Array:
    """(H, W, C) without the channels `alpha`; one channel that is left loses its axis.

    Raises:
        DataError: one of them is not opaque throughout.
    """
    clear = int((pixels[..., alpha] < np.iinfo(pixels.dtype).max).any(axis=-1).sum())
    if clear:
        raise DataError(transparent(path, clear))
    rest = np.delete(pixels, alpha, axis=-1)
    return rest[..., 0] if rest.shape[-1] == 1 else rest


def transparent(path: Path, clear: int) -> str:
    """Why a picture with transparent pixels is refused."""
    return (
        f"{path.name} has {clear} pixels that are not opaque: what it shows depends on the background; "
        "save it without an alpha channel (or, if an image's alpha is a measurement, name all with --channel-names)"
    )


def _refuse_cut(path: Path, tiff: tifffile.TiffFile) -> None:
    """tifffile passes over pages and fills strips that lie beyond the end of the file, without an error."""
    if not tiff.series or _next_page(tiff):
        raise DataError(f"{path.name} cannot be read (pages are missing); it may be cut short, replace it")
    for page in tiff.series[0].pages:
        ends = [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=False)] if page else [0]
        if max(ends, default=0) > tiff.filehandle.size:
            raise DataError(f"{path.name} cannot be read (it ends too early); it was cut short, replace it")


def _next_page(tiff: tifffile.TiffFile) -> int:
    """Where the page after the last one that was found should be; 0 if it was the last."""
    form, file, last = tiff.tiff, tiff.filehandle, tiff.pages[-1]
    file.seek(last.offset)
    (number,) = struct.unpack(form.tagnoformat, file.read(form.tagnosize))
    file.seek(last.offset + form.tagnosize + number * form.tagsize)
    (offset,) = struct.unpack(form.offsetformat, file.read(form.offsetsize))
    return int(offset)


def _refuse_pages(path: Path, tiff: tifffile.TiffFile) -> None:
    if len(tiff.series) > 1:
        sizes = " and ".join(str(series.shape) for series in tiff.series[:3])
        raise DataError(
            f"{path.name} holds {len(tiff.series)} pictures of several sizes or kinds ({sizes}); "
            "expected one; save the one that is meant"
        )


def _channels_last(path: Path, tiff: tifffile.TiffFile, channels: int | None) -> Array:
    """(H, W) or (H, W, C), if the axes leave no doubt which is which."""
    series = tiff.series[0]
    axes, pixels = series.axes, series.asarray()
    if axes == "YX":
        return pixels
    if len(axes) == 3 and axes[-1] in CHANNEL_AXES:
        return pixels if pixels.shape[-1] > 1 else pixels[..., 0]
    if len(axes) == 3 and (axes[0] in CHANNEL_AXES or len(pixels) == channels):
        return np.moveaxis(pixels, 0, -1)
    if axes[0] in "QI" and len(axes) == 3 and pixels.shape[-1] <= MOST_CHANNELS < min(pixels.shape[:2]):
        return pixels  # (H, W, C) stored page by page, as skimage.io.imsave does
    kind = {"Z": "slices of a volume", "T": "points in time"}.get(axes[0], "pages")
    raise DataError(
        f"{path.name} holds {len(pixels)} {kind} (shape {pixels.shape}); if they are channels, name them with "
        "--channel-names; if a volume, save it as .nii.gz; if pictures, save each as a file of its own"
    )


def _as_shown(path: Path, page: tifffile.TiffPage, pixels: Array) -> Array:
    """Palettes looked up, white-is-zero inverted; other ways to store colours are refused."""
    kind = page.photometric
    photometric = tifffile.PHOTOMETRIC
    if kind == photometric.PALETTE:
        colours = (np.asarray(page.colormap) >> 8).astype(np.uint8).T
        return colours[pixels, 0] if (colours == colours[:, :1]).all() else colours[pixels]
    if kind == photometric.MINISWHITE and pixels.dtype.kind in "bu":
        return ~pixels if pixels.dtype == bool else (2**page.bitspersample - 1) - pixels
    decoded = kind == photometric.YCBCR and page.compression in JPEG
    if not decoded and kind not in (photometric.MINISBLACK, photometric.RGB):
        raise DataError(
            f"image {path.name} has pixels of type '{kind!r}'; convert it to RGB, grey or separate channels"
        )
    return pixels


def _plain_numbers(path: Path, pixels: Array) -> Array:
    if pixels.dtype.kind not in "buif":
        raise DataError(f"image {path.name} has pixels of type '{pixels.dtype}'; convert it to real numbers")
    if pixels.dtype == bool:
        return pixels.astype(np.uint8) * np.uint8(255)
    kept = pixels.dtype.kind == "u" and pixels.itemsize <= 2
    return pixels.astype(pixels.dtype.newbyteorder("=") if kept else np.float32)


def _alpha_of(page: tifffile.TiffPage) -> list[int]:
    """The channels that the file declares to be alpha."""
    first = page.samplesperpixel - len(page.extrasamples)
    kinds = (tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA)
    return [first + i for i, kind in enumerate(page.extrasamples) if kind in kinds]
