"""Reads masks: stored values, colours, or one file per label. Refuses lossy files."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nnvit.errors import DataError

from .image_reading import GREY16, OpenedPicture, Photo, read_image
from .label_values import LabelValues, Stored
from .pairing import VOLUME_SUFFIXES, Pair

_OVERLAPS = ("refuse", "first")


class Declared:
    """The user's statements about the files of a data set; None leaves it to the files.

    several: True if each image has one mask per label; values: of each label in the masks as they are read;
    colours: True if masks are read as 0xRRGGBB; channels: the number of image channels.
    """

    def __init__(
        self,
        labels: Mapping[str, Stored] | None,
        masks_by_label: Mapping[str, Path] | None,
        overlap: str,
        channel_names: tuple[str, ...] | None,
        normalization: str | None,
    ) -> None:
        """Arguments are as in `nnvit.data.importer.import_dataset`. Raises DataError for those that are not allowed."""
        if overlap not in _OVERLAPS:
            raise DataError(f"overlap is '{overlap}'; expected one of {', '.join(_OVERLAPS)}")
        names = channel_names or ()
        if len(set(names)) < len(names) or "" in names:
            raise DataError(f"--channel-names gives {', '.join(names)}; expected a different name for each channel")
        if labels is not None and masks_by_label is not None:
            raise DataError(
                "--label says what values in one mask mean, --mask names a mask for each label; give one of them"
            )
        if masks_by_label is not None:
            if "background" in masks_by_label:
                raise DataError("--mask background: the background is what no other mask covers; leave it out")
            labels = {label: value for value, label in enumerate(masks_by_label, start=1)}
        self.several, self.overlap, self.normalization = masks_by_label is not None, overlap, normalization
        self.values = None if labels is None else LabelValues.of_names(labels)
        self.colours = self.values is not None and self.values.colours
        self.channel_names, self.channels = channel_names, len(names) or None

    def read_masks(self, pair: Pair) -> tuple[Photo, int]:
        """Reads the pair's masks as one; the k-th of several masks, counted from 0, becomes the value k + 1.

        Returns the stored values, (H, W) or (D, H, W), and the number of pixels that lie in more than one mask. Raises
        DataError for masks that are unreadable, lossy, transparent, of several pages, of the wrong kind, or overlapping.
        """
        if self.several:
            return _joined(
                {k: (path, _read_one(path)) for k, path in enumerate(pair.masks.values(), 1) if path}, self.overlap
            )
        (path,) = pair.masks.values()
        assert path is not None  # one mask per image is never left out
        if self.colours:
            return _read_colours(path), 0
        return _read_volume_mask(path) if _is_volume(path) else Photo(pixels=_values(_open(path))), 0


def _is_volume(path: Path) -> bool:
    return path.name.lower().endswith(VOLUME_SUFFIXES)


def _called(path: Path) -> str:
    """Returns the names of the file's folder and of the file, for masks that may share a name."""
    return "/".join(path.parts[-2:])


def _read_colours(path: Path) -> Photo:
    """Reads colours as numbers 0xRRGGBB, (H, W) int32; grey and bilevel files have colours as well."""
    if _is_volume(path):
        raise DataError(f"mask {path.name} is a volume, which has values and no colours; give --label name=value")
    opened = _open(path)
    opened.drop_alpha()
    mode = opened.picture.mode
    if mode not in ("1", "L", "P", "RGB"):
        raise DataError(f"mask {path.name} has pixels of type '{mode}', not colours; convert it to 8-bit RGB")
    return Photo(pixels=_colours(opened))


def _read_one(path: Path) -> Photo:
    """Reads the mask of one label: background and one other value or colour."""
    if _is_volume(path):
        photo = _read_volume_mask(path)
    else:
        opened = _open(path)
        opened.drop_alpha()
        pixels = _colours(opened) if opened.picture.mode in ("P", "RGB") else _values(opened)
        if opened.picture.mode == "P" and not pixels.any():
            pixels = np.asarray(opened.picture)  # a palette that paints everything black: its indices are meant
        photo = Photo(pixels=pixels)
    found, counts = np.unique(photo.pixels, return_counts=True)
    if (found != 0).sum() > 1:
        shown = ", ".join(f"{v} ({n} pixels)" for v, n in zip(found[:5], counts[:5], strict=True))
        raise DataError(
            f"mask {_called(path)} holds {len(found)} values, {shown}{' ...' if len(found) > 5 else ''}; expected 0 and "
            "one other, since --mask names one label; smoothing or JPEG leaves such values"
        )
    return photo


def _joined(masks: dict[int, tuple[Path, Photo]], overlap: str) -> tuple[Photo, int]:
    """Joins masks, value -> (file, mask), into one; the first wins where they overlap. Also counts these pixels."""
    first_path, first = next(iter(masks.values()))
    for path, photo in masks.values():
        apart = first.geometry and photo.geometry and first.geometry.difference(photo.geometry)
        if photo.axes != first.axes or photo.size != first.size or apart:
            raise DataError(
                f"masks {_called(first_path)} and {_called(path)} differ in size or geometry; export them alike"
            )
    joined, covered = np.zeros(first.size, np.int32), np.zeros(first.size, np.int32)
    for value, (_, photo) in reversed(masks.items()):
        joined[photo.pixels != 0] = value
        covered += photo.pixels != 0
    shared = int((covered > 1).sum())
    if shared and overlap == "refuse":
        names = ", ".join(_called(path) for path, photo in masks.values() if photo.pixels[covered > 1].any())
        raise DataError(
            f"masks {names} overlap in {shared} pixels, and nnU-Net knows one label per pixel; separate them, or "
            "give --overlap first, by which the --mask named first wins"
        )
    return Photo(pixels=joined, geometry=first.geometry), shared


def _open(path: Path) -> OpenedPicture:
    """Opens a picture. Raises DataError if it has 16 bits per colour channel or is lossy."""
    opened = OpenedPicture(path)
    if opened.deep:
        raise DataError(f"{path.name} has 16 bits per colour channel; save it with 8")
    if not opened.lossy:
        return opened
    values = _colours(opened)
    number = len(np.unique(values))
    borders = int((values[:, 1:] != values[:, :-1]).sum())
    found = (
        f"it holds {number} values where a mask has a few"
        if number > 2
        else f"though its {number} values look whole, its {borders} border pixels may have moved"
    )
    raise DataError(f"mask {path.name} is a JPEG, which is lossy: {found}; export the masks again as PNG")


def _values(opened: OpenedPicture) -> np.ndarray:
    """Returns the stored whole numbers: 1-bit as 0/1, grey palettes as grey, others as indices."""
    opened.look_up_greys()
    picture, name = opened.picture, opened.path.name
    if picture.mode in ("LA", "RGBA"):
        opened.drop_alpha()
        picture = opened.picture
    if picture.mode == "RGB":
        return _one_channel(name, np.asarray(picture))
    if picture.mode not in ("1", "L", "P", "I", *GREY16):
        raise DataError(f"mask {name} has pixels of type '{picture.mode}'; convert it to 8-bit grey")
    values = np.asarray(picture)
    return values.astype(np.uint8) if picture.mode == "1" else values


def _colours(opened: OpenedPicture) -> np.ndarray:
    """Returns the picture as numbers 0xRRGGBB, (H, W) int32."""
    colours = np.asarray(opened.picture.convert("RGB")).astype(np.int32)
    return colours[..., 0] << 16 | colours[..., 1] << 8 | colours[..., 2]


def _one_channel(name: str, colours: np.ndarray) -> np.ndarray:
    differ = (colours != colours[..., :1]).any(axis=-1)
    if differ.any():
        found, counts = np.unique(colours[differ], axis=0, return_counts=True)
        red, green, blue = found[counts.argmax()].tolist()
        raise DataError(
            f"mask {name} is in colour: its channels differ in {int(differ.sum())} pixels, most often by "
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
