"""Reads pictures, TIFF files and volumes as stock nnU-Net will see them after the import.

A file that could be read in more than one way is refused.
"""

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK
import tifffile
from PIL import ExifTags, Image, ImageOps

from nnvit.errors import DataError

from .pairing import VOLUME_SUFFIXES

GREY16 = ("I;16", "I;16L", "I;16B")
"""Pillow's modes of 16-bit grey."""
_MOST_CHANNELS = 32
"""A longer last axis of a TIFF is not taken for channels."""
_CHANNEL_AXES = "SC"
_JPEG = (tifffile.COMPRESSION.JPEG, tifffile.COMPRESSION.OJPEG)
_ALPHA = (tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA)
_TIFF_ERRORS = (OSError, ValueError, RuntimeError, KeyError, IndexError, struct.error, zlib.error)
_NIFTI_ERRORS = (OSError, EOFError, ValueError, zlib.error, nibabel.filebasedimages.ImageFileError)


@dataclass(frozen=True)
class _Geometry:
    """Position of a volume's voxels in the patient, in ITK's order of axes (x, y, z).

    spacing, origin: millimetres; direction: cosines, row by row.
    """

    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    @classmethod
    def of(cls, image: SimpleITK.Image) -> "_Geometry":
        """Takes the geometry of the first three axes."""
        axes = min(image.GetDimension(), 3)
        direction = np.array(image.GetDirection()).reshape(image.GetDimension(), -1)[:axes, :axes]
        return cls(
            spacing=tuple(image.GetSpacing()[:axes]),
            origin=tuple(image.GetOrigin()[:axes]),
            direction=tuple(direction.ravel().tolist()),
        )

    def difference(self, other: "_Geometry") -> str:
        """Describes how the two differ beyond rounding; empty if they agree."""
        for name, tolerance in (("spacing", 1e-3), ("origin", 1e-2 * min(self.spacing)), ("direction", 1e-3)):
            mine, theirs = getattr(self, name), getattr(other, name)
            if len(mine) != len(theirs) or not np.allclose(mine, theirs, rtol=0, atol=tolerance):
                shown = ["(" + ", ".join(f"{value:g}" for value in values) + ")" for values in (mine, theirs)]
                return f"{name} {' against '.join(shown)}"
        return ""


@dataclass(frozen=True, kw_only=True)
class Photo:
    """A picture or a volume in memory, channels last."""

    pixels: np.ndarray
    """(H, W) or (H, W, C), uint8, uint16 or float32; a volume (D, H, W) or (D, H, W, C) of the file's type."""
    turned: bool = False
    """True if the file's EXIF orientation was applied."""
    opaque: bool = False
    """True if an alpha channel that was opaque throughout was dropped."""
    geometry: _Geometry | None = None
    """None for pictures."""

    @property
    def axes(self) -> int:
        """3 for a volume, 2 for a NIfTI file of one slice, 0 for a picture."""
        return len(self.geometry.spacing) if self.geometry else 0

    @property
    def size(self) -> tuple[int, ...]:
        """(H, W), or a volume's (D, H, W)."""
        return self.pixels.shape[: self.axes or 2]

    @property
    def channels(self) -> int:
        return len(self.planes())

    def planes(self) -> list[np.ndarray]:
        """Returns one array per channel, without the channel axis."""
        if self.pixels.ndim == len(self.size):
            return [self.pixels]
        return list(np.moveaxis(self.pixels, -1, 0))

    def as_nnunet(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Returns what stock nnU-Net's reader returns for this image after the import.

        This is (C, 1, H, W) or (C, D, H, W) float32, and the properties with their `spacing` (999, 1, 1 for pictures).
        """
        planes = [plane if plane.ndim == 3 else plane[None] for plane in self.planes()]
        stacked = np.stack(planes).astype(np.float32)
        if self.geometry is None:
            return stacked, {"spacing": (999, 1, 1)}
        spacing = [abs(value) for value in reversed(self.geometry.spacing)]
        if len(spacing) == 2:
            spacing.insert(0, 999 * max(spacing))
        return stacked, {"sitk_stuff": vars(self.geometry).copy(), "spacing": spacing}


class OpenedPicture:
    """A picture file, loaded by Pillow.

    picture: upright; orientation: the file's EXIF orientation, 1 to 8, of which 1 is upright; deep: the file has 16 bits
    per colour channel, of which Pillow kept 8; lossy: the file is JPEG-compressed.
    """

    picture: Image.Image

    def __init__(self, path: Path) -> None:
        """Loads a file of one picture. Raises DataError if it is unreadable or too large, or holds several pages."""
        self.path = path
        try:
            with Image.open(path) as picture:
                # A phone's MPO file is a JPEG whose further frames are previews of the first.
                pages = getattr(picture, "n_frames", 1)
                if pages > 1 and picture.format != "MPO":
                    raise DataError(
                        f"{path.name} holds {pages} pages; expected one picture; save the page that is meant"
                    )
                self.deep = ";16" in _raw_mode(picture) and picture.mode not in GREY16
                orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
                self.orientation = orientation if orientation in range(2, 9) else 1
                picture.load()
                self.picture = ImageOps.exif_transpose(picture)
                self.lossy = picture.format in ("JPEG", "MPO") or "jpeg" in str(picture.info.get("compression", ""))
        except Image.DecompressionBombError as error:
            raise DataError(f"{path.name} is too large to read at once ({error}); cut it into tiles") from error
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{path.name} cannot be read ({error}); it may be cut short, replace it") from error

    def look_up_greys(self) -> None:
        """Replaces indices by greys if the whole palette, used or not, is grey: files of one palette are read alike."""
        if self.picture.mode == "P":
            colours = np.array(self.picture.getpalette("RGB")).reshape(-1, 3)
            if (colours == colours[:, :1]).all():
                self.picture = self.picture.convert("L")

    def drop_alpha(self) -> bool:
        """Turns a picture that has alpha into L or RGB; returns True if it had. Raises DataError unless it is opaque."""
        if not self.picture.has_transparency_data:
            return False
        _refuse_transparent(self.path, np.asarray(self.picture.convert("RGBA").getchannel("A")) < 255)
        self.picture = self.picture.convert("L" if self.picture.mode in ("L", "LA") else "RGB")
        return True


def read_image(path: Path, channels: int | None = None) -> Photo:
    """Reads a picture upright, or a volume; drops an alpha channel that is opaque throughout.

    Args:
        path: jpg, png, bmp, tif or NIfTI.
        channels: the number of channels that the user gave. It decides what the file leaves open: pages, a fourth
            dimension and alpha are channels only if that makes this number.

    Raises DataError for unreadable files, several pages, transparent or infinite pixels, and pixels of a kind that
    nnU-Net cannot read.
    """
    if path.name.lower().endswith(VOLUME_SUFFIXES):
        return _read_volume(path, channels)
    with path.open("rb") as file:  # Pillow would read a TIFF with another suffix, and drop channels
        if file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _read_tiff(path, channels)
    opened = OpenedPicture(path)
    if opened.deep:
        return _read_deep_png(path, opened.orientation, channels)
    opened.look_up_greys()
    kept = opened.picture.mode in ("LA", "RGBA") and channels == len(opened.picture.getbands())
    opaque = not kept and opened.drop_alpha()
    picture = opened.picture
    if picture.mode not in ("1", "L", "P", "RGB", "LA", "RGBA", *GREY16):
        raise DataError(
            f"image {path.name} has pixels of type '{picture.mode}'; convert it to 8-bit RGB or 8/16-bit grey"
        )
    if picture.mode in GREY16:
        pixels = np.asarray(picture).astype(np.uint16)
    else:
        pixels = np.asarray(picture.convert({"1": "L", "P": "RGB"}.get(picture.mode, picture.mode)))
    return Photo(pixels=pixels, turned=opened.orientation != 1, opaque=opaque)


def _raw_mode(picture: Image.Image) -> str:
    """Returns the pixel format of the file, which Pillow's mode hides for 16-bit colours; empty once it is loaded."""
    tiles = getattr(picture, "tile", None)
    arguments = tiles[0].args if tiles else ""
    return arguments if isinstance(arguments, str) else str(arguments[0])


def _refuse_transparent(path: Path, clear: np.ndarray) -> None:
    """Raises DataError if there are pixels that are not opaque; clear: (H, W) bool, True for these."""
    if clear.any():
        raise DataError(
            f"{path.name} has {clear.sum()} pixels that are not opaque: what it shows depends on the background; "
            "save it without an alpha channel (or, if an image's alpha is a measurement, name all with --channel-names)"
        )


def _read_deep_png(path: Path, orientation: int, channels: int | None) -> Photo:
    """Reads 16 bits per colour channel with SimpleITK."""
    try:
        pixels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise DataError(f"{path.name} cannot be read ({reason}); save it as TIFF") from error
    number = pixels.shape[-1]
    return _upright(path, pixels, [number - 1] if number in (2, 4) and number != channels else [], orientation)


def _upright(path: Path, pixels: np.ndarray, alpha: list[int], orientation: int) -> Photo:
    """Drops the channels `alpha`, which must be opaque, and turns and mirrors by an EXIF orientation, 1 to 8.

    pixels: (H, W) or (H, W, C); a single remaining channel loses its axis.
    """
    if alpha:
        opaque = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "iu" else 1
        _refuse_transparent(path, np.any(pixels[..., alpha] < opaque, axis=-1))
        pixels = np.delete(pixels, alpha, axis=-1)
        pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return Photo(pixels=np.ascontiguousarray(pixels), turned=orientation in range(2, 9), opaque=bool(alpha))


def _read_tiff(path: Path, channels: int | None) -> Photo:
    """Reads palettes as their colours, 1 bit as 0/255, and whole numbers beyond 16 bits as float32."""
    try:
        with tifffile.TiffFile(path) as tiff:
            series = _only_series(path, tiff)
            page = series.keyframe
            pixels = _plain_numbers(path, _as_shown(path, page, _channels_last(path, series, channels)))
            orientation = page.tags.valueof(ExifTags.Base.Orientation, 1)
    except _TIFF_ERRORS as error:
        raise DataError(f"{path.name} cannot be read ({error}); it may be cut short, replace it") from error
    first_extra = page.samplesperpixel - len(page.extrasamples)
    alpha = [first_extra + i for i, kind in enumerate(page.extrasamples) if kind in _ALPHA]
    photo = _upright(path, pixels, alpha if channels != page.samplesperpixel else [], orientation)
    _refuse_infinite(path, photo.pixels, "pixels")
    return photo


def _only_series(path: Path, tiff: tifffile.TiffFile) -> tifffile.TiffPageSeries:
    """Returns the pages of the file's one picture.

    Raises DataError for parts beyond the end of the file too: tifffile leaves out such pages and fills such strips.
    """
    if not tiff.series or _next_page(tiff):
        raise DataError(f"{path.name} cannot be read (pages are missing); it may be cut short, replace it")
    for page in tiff.series[0].pages:
        ends = [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=False)] if page else [0]
        if max(ends, default=0) > tiff.filehandle.size:
            raise DataError(f"{path.name} cannot be read (it ends too early); it was cut short, replace it")
    if len(tiff.series) > 1:
        sizes = " and ".join(str(series.shape) for series in tiff.series[:3])
        raise DataError(
            f"{path.name} holds {len(tiff.series)} pictures of several sizes or kinds ({sizes}); "
            "expected one; save the one that is meant"
        )
    return tiff.series[0]


def _next_page(tiff: tifffile.TiffFile) -> int:
    """Returns the offset of the page after the last one found; 0 if that was the last."""
    form, file, last = tiff.tiff, tiff.filehandle, tiff.pages[-1]
    file.seek(last.offset)
    (number,) = struct.unpack(form.tagnoformat, file.read(form.tagnosize))
    file.seek(last.offset + form.tagnosize + number * form.tagsize)
    (offset,) = struct.unpack(form.offsetformat, file.read(form.offsetsize))
    return int(offset)


def _channels_last(path: Path, series: tifffile.TiffPageSeries, channels: int | None) -> np.ndarray:
    """Returns (H, W) or (H, W, C). Raises DataError if the axes leave in doubt which of them are channels."""
    axes, pixels = series.axes, series.asarray()
    if axes == "YX":
        return pixels
    if len(axes) == 3 and axes[-1] in _CHANNEL_AXES:
        return pixels if pixels.shape[-1] > 1 else pixels[..., 0]
    if len(axes) == 3 and (axes[0] in _CHANNEL_AXES or len(pixels) == channels):
        return np.moveaxis(pixels, 0, -1)
    if axes[0] in "QI" and len(axes) == 3 and pixels.shape[-1] <= _MOST_CHANNELS < min(pixels.shape[:2]):
        return pixels  # (H, W, C) stored page by page, as skimage.io.imsave does
    kind = {"Z": "slices of a volume", "T": "points in time"}.get(axes[0], "pages")
    raise DataError(
        f"{path.name} holds {len(pixels)} {kind} (shape {pixels.shape}); if they are channels, name them with "
        "--channel-names; if a volume, save it as .nii.gz; if pictures, save each as a file of its own"
    )


def _as_shown(path: Path, page: tifffile.TiffPage, pixels: np.ndarray) -> np.ndarray:
    """Looks up palettes and inverts white-is-zero. Raises DataError for other ways to store colours."""
    kind = page.photometric
    photometric = tifffile.PHOTOMETRIC
    if kind == photometric.PALETTE:
        colours = (np.asarray(page.colormap) >> 8).astype(np.uint8).T
        return colours[pixels, 0] if (colours == colours[:, :1]).all() else colours[pixels]
    if kind == photometric.MINISWHITE and pixels.dtype.kind in "bu":
        return ~pixels if pixels.dtype == bool else (2**page.bitspersample - 1) - pixels
    decoded = kind == photometric.YCBCR and page.compression in _JPEG
    if not decoded and kind not in (photometric.MINISBLACK, photometric.RGB):
        raise DataError(
            f"image {path.name} has pixels of type '{kind!r}'; convert it to RGB, grey or separate channels"
        )
    return pixels


def _plain_numbers(path: Path, pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype.kind not in "buif":
        raise DataError(f"image {path.name} has pixels of type '{pixels.dtype}'; convert it to real numbers")
    if pixels.dtype == bool:
        return pixels.astype(np.uint8) * np.uint8(255)
    kept = pixels.dtype.kind == "u" and pixels.itemsize <= 2
    return pixels.astype(pixels.dtype.newbyteorder("=") if kept else np.float32)


def _read_volume(path: Path, channels: int | None) -> Photo:
    """Reads a 3D (or 2D) NIfTI file with SimpleITK, as nnU-Net does.

    A fourth dimension is taken for channels if it has as many as the user gave. Raises DataError for files that are
    unreadable, truncated, sheared, four-dimensional, complex, or not finite.
    """
    _refuse_damaged(path)
    try:
        image = SimpleITK.ReadImage(str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        sheared = "; resample it to a grid without shear" if "orthonormal" in reason else ""
        raise DataError(f"{path.name} cannot be read ({reason}){sheared}") from error
    voxels = SimpleITK.GetArrayFromImage(image)
    if np.iscomplexobj(voxels):
        raise DataError(f"{path.name} holds complex voxels; save their magnitude")
    if image.GetDimension() == 4:
        if len(voxels) != channels:
            raise DataError(
                f"{path.name} has 4 dimensions ({'x'.join(map(str, image.GetSize()))}); if the last are {len(voxels)} "
                "channels, name them with --channel-names; if they are points in time, save each as a volume of its own"
            )
        voxels = np.moveaxis(voxels, 0, -1)
    return Photo(pixels=voxels, geometry=_Geometry.of(image))


def _refuse_infinite(path: Path, values: np.ndarray, what: str) -> None:
    """Raises DataError if there are NaN or infinite values."""
    bad = 0 if values.dtype.kind != "f" else int(values.size - np.isfinite(values).sum())
    if bad:
        raise DataError(
            f"{path.name} has {bad} {what} that are NaN or infinite; replace them, e.g. by the background's value"
        )


def _refuse_damaged(path: Path) -> None:
    """Raises DataError for a truncated file and for voxels that are not finite; SimpleITK reads both as zeros."""
    try:
        image = nibabel.load(path)
        if not isinstance(image, nibabel.spatialimages.SpatialImage):
            raise ValueError("it is not a NIfTI file")
        voxels = np.asanyarray(image.dataobj)
    except _NIFTI_ERRORS as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path.name} cannot be read ({reason}); it may be cut short, replace it") from error
    _refuse_infinite(path, voxels, "voxels")
