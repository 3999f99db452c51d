"""Reads masks: stored values, colours, or one file per label. Refuses lossy files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from nnvit.errors import DataError

from .image_reading import GREY16, OpenedPicture, Photo, has_grey_palette, open_picture, read_image, without_alpha
from .pairing import VOLUME_SUFFIXES, Pair, called, suffix_of

OVERLAPS = ("refuse", "first")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the files of a data set are read."""

    channels: int | None = None
    """The number of image channels that the user gave; None leaves it to the files."""
    colours: bool = False
    """True if masks are read as 0xRRGGBB."""
    several: bool = False
    """True if each image has one mask per label."""
    overlap: str = "refuse"
    """`refuse` overlapping masks, or let the `first` one win."""


def read_masks(pair: Pair, reading: Reading) -> tuple[Photo, int]:
    """Reads the pair's masks as one; the k-th of several masks, counted from 0, becomes the value k + 1.

    Returns:
        The stored values, (H, W) or (D, H, W), and the number of pixels that lie in more than one mask.

    Raises:
        DataError: unreadable, lossy, several pages, transparent, of the wrong kind, or overlapping.
    """
    if not reading.several:
        (path,) = pair.masks
        assert path is not None  # one mask per image is never left out
        return (_read_colours(path) if reading.colours else _read_values(path)), 0
    present = {value: (path, _read_one(path)) for value, path in enumerate(pair.masks, start=1) if path}
    return _joined(present, reading.overlap)


def _read_values(path: Path) -> Photo:
    """Reads stored values, whole numbers: 1-bit as 0/1, grey palettes as grey, others as indices.

    Raises:
        DataError: unreadable, lossy, several pages, colours, transparent pixels, or values that are not whole.
    """
    if suffix_of(path) in VOLUME_SUFFIXES:
        return _read_volume_mask(path)
    return Photo(pixels=_values(path, _open(path)))


def _read_colours(path: Path) -> Photo:
    """Reads colours as whole numbers 0xRRGGBB, (H, W) int32; grey and bilevel files have colours as well.

    Raises:
        DataError: unreadable, lossy, several pages, transparent pixels, or a volume.
    """
    if suffix_of(path) in VOLUME_SUFFIXES:
        raise DataError(f"mask {path.name} is a volume, which has values and no colours; give --label name=value")
    picture = _open(path)
    if picture.has_transparency_data:
        picture = without_alpha(path, picture)
    if picture.mode not in ("1", "L", "P", "RGB"):
        raise DataError(f"mask {path.name} has pixels of type '{picture.mode}', not colours; convert it to 8-bit RGB")
    return Photo(pixels=_packed(picture))


def _joined(present: dict[int, tuple[Path, Photo]], overlap: str) -> tuple[Photo, int]:
    photos = [photo for _, photo in present.values()]
    paths = [path for path, _ in present.values()]
    for path, photo in zip(paths, photos, strict=True):
        if photo.size != photos[0].size or _difference(photos[0], photo):
            raise DataError(
                f"masks {called(paths[0])} and {called(path)} differ in size or geometry; export them alike"
            )
    joined = np.zeros(photos[0].size, np.int32)
    covered = np.zeros(photos[0].size, np.int32)
    for value, (_, photo) in reversed(present.items()):
        joined[photo.pixels != 0] = value
        covered += photo.pixels != 0
    shared = int((covered > 1).sum())
    if shared and overlap == "refuse":
        names = ", ".join(
            called(path) for path, photo in present.values() if ((photo.pixels != 0) & (covered > 1)).any()
        )
        raise DataError(
            f"masks {names} overlap in {shared} pixels, and nnU-Net knows one label per pixel; separate them, or "
            "give --overlap first, by which the --mask named first wins"
        )
    return Photo(pixels=joined, geometry=photos[0].geometry), shared


def _read_one(path: Path) -> Photo:
    """Reads the mask of one label: background and one other value or colour."""
    if suffix_of(path) in VOLUME_SUFFIXES:
        photo = _read_volume_mask(path)
    else:
        picture = _open(path)
        if picture.has_transparency_data:
            picture = without_alpha(path, picture)
        pixels = _packed(picture) if picture.mode in ("P", "RGB") else _values(path, picture)
        if picture.mode == "P" and not pixels.any():
            pixels = np.asarray(picture)  # a palette that paints everything black: its indices are meant
        photo = Photo(pixels=pixels)
    found, counts = np.unique(photo.pixels, return_counts=True)
    if (found != 0).sum() > 1:
        shown = ", ".join(f"{v} ({n} pixels)" for v, n in zip(found[:5], counts[:5], strict=True))
        raise DataError(
            f"mask {called(path)} holds {len(found)} values, {shown}{' ...' if len(found) > 5 else ''}; expected 0 and one "
            "other, since --mask names one label; smoothing or JPEG leaves such values"
        )
    return photo


def _open(path: Path) -> Image.Image:
    opened = open_picture(path)
    if opened.deep:
        raise DataError(f"{path.name} has 16 bits per colour channel; save it with 8")
    _refuse_lossy(path, opened)
    return opened.picture


def _refuse_lossy(path: Path, opened: OpenedPicture) -> None:
    if not opened.lossy:
        return
    values = _packed(opened.picture.convert("RGB"))
    number = len(np.unique(values))
    borders = int((values[:, 1:] != values[:, :-1]).sum())
    found = (
        f"it holds {number} values where a mask has a few"
        if number > 2
        else f"though its {number} values look whole, its {borders} border pixels may have moved"
    )
    raise DataError(f"mask {path.name} is a JPEG, which is lossy: {found}; export the masks again as PNG")


def _values(path: Path, picture: Image.Image) -> np.ndarray:
    if picture.mode == "P":
        return np.asarray(picture.convert("L") if has_grey_palette(picture) else picture)
    if picture.mode in ("LA", "RGBA"):
        picture = without_alpha(path, picture)
    if picture.mode == "RGB":
        return _one_channel(path, np.asarray(picture))
    if picture.mode not in ("1", "L", "I", *GREY16):
        raise DataError(f"mask {path.name} has pixels of type '{picture.mode}'; convert it to 8-bit grey")
    values = np.asarray(picture)
    return values.astype(np.uint8) if picture.mode == "1" else values


def _packed(picture: Image.Image) -> np.ndarray:
    colours = np.asarray(picture.convert("RGB")).astype(np.int32)
    return colours[..., 0] << 16 | colours[..., 1] << 8 | colours[..., 2]


def _one_channel(path: Path, colours: np.ndarray) -> np.ndarray:
    differ = (colours != colours[..., :1]).any(axis=-1)
    if differ.any():
        found, counts = np.unique(colours[differ], axis=0, return_counts=True)
        red, green, blue = found[counts.argmax()].tolist()
        raise DataError(
            f"mask {path.name} is in colour: its channels differ in {int(differ.sum())} pixels, most often by "
            f"#{red:02x}{green:02x}{blue:02x}; expected one value per pixel; name each colour "
            f"(--label NAME=#{red:02x}{green:02x}{blue:02x}), or save it as grey or with a palette"
        )
    return colours[..., 0]


def _read_volume_mask(path: Path) -> Photo:
    photo = read_image(path)
    voxels = photo.pixels
    if photo.channels > 1:
        raise DataError(f"mask {path.name} has {photo.channels} values per voxel; expected one")
    if voxels.dtype.kind != "f":
        return photo
    whole = np.rint(voxels)
    broken = int((voxels != whole).sum())
    if broken:
        raise DataError(
            f"mask {path.name} has {broken} voxels that are not whole numbers, as resampling with smoothing leaves "
            "them; resample masks with nearest neighbour"
        )
    return Photo(pixels=whole.astype(np.int64), geometry=photo.geometry)


def _difference(one: Photo, other: Photo) -> str:
    if one.geometry is None or other.geometry is None:
        return "" if one.geometry is other.geometry else "one is a volume, the other a picture"
    return one.geometry.difference(other.geometry)
