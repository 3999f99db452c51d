"""Reads masks, and relates the values that they store to label names and to the labels that nnU-Net trains on.

A mask stores values or colours, or is one file per label; lossy files are refused.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnvit.errors import DataError

from .image_reading import GREY16, OpenedPicture, Photo, read_image
from .pairing import VOLUME_SUFFIXES, Pair

_OVERLAPS = ("refuse", "first")
Stored = int | tuple[int, int, int]
"""A label as the mask files store it: a value, or a colour (red, green, blue) of 0 to 255 each."""
_MOST_LABELS = 254
"""Labels are written with 8 bits, of which nnU-Net reserves 255."""
_MOST_UNDECLARED = 30
"""With more classes than this and no declared names, the file looks like a grey picture rather than a mask."""
_ADVICE = (
    "If these values are meant, name each as the files store it (--label vessel=255); if not, the masks were saved as "
    "JPEG or resized with smoothing: export them again, with 0 and 255, or 0 and whole numbers from 1 up."
)
_COLOUR_ADVICE = (
    "Name each colour (--label vessel=#ff0000; black is the background unless --label background=COLOUR says else). "
    "Colours along the edges of others come from JPEG or from resizing with smoothing: export such masks again."
)


@dataclass(frozen=True, kw_only=True)
class LabelValues:
    """The values in the mask files of a data set, and the label that each becomes."""

    stored: Mapping[str, int]
    """Label name -> value in the mask files, without the background."""
    background: int = 0
    colours: bool = False
    """True if values are colours, 0xRRGGBB."""
    declared: bool = True
    """False if the names and values were guessed from the files."""

    @classmethod
    def of_names(cls, labels: Mapping[str, Stored]) -> "LabelValues":
        """Takes the labels that a user named, perhaps with the background.

        Raises DataError if values and colours are mixed, a value has several names, or there are too many.
        """
        coloured = {name for name, stored in labels.items() if isinstance(stored, tuple)}
        if coloured and coloured != labels.keys():
            raise DataError(f"labels {dict(labels)} mix values and colours; give colours for all, or values for all")
        values = {n: s if isinstance(s, int) else s[0] << 16 | s[1] << 8 | s[2] for n, s in labels.items()}
        stored = {name: value for name, value in values.items() if name != "background"}
        made = cls(stored=stored, background=values.get("background", 0), colours=bool(coloured))
        shown = {name: made._show(value) for name, value in values.items()} if coloured else values
        if (made.background != 0 and not coloured) or made.background in stored.values():
            taken = made._show(made.background) if coloured else 0
            raise DataError(f"labels {shown}: value {taken} is the background and no other value can be")
        if len(set(values.values())) < len(values):
            raise DataError(f"labels {shown} give one value several names; expected one name for each value")
        if len(values) > _MOST_LABELS:
            raise DataError(f"{len(values)} labels are declared; expected at most {_MOST_LABELS}")
        return made

    @classmethod
    def guessed(cls, found: set[int]) -> "LabelValues":
        """Takes the likeliest labels of masks that hold these values; `problems` tells if the masks agree."""
        if 255 in found:
            return cls(stored={"foreground": 255}, declared=False)
        highest = min(max(found, default=0), _MOST_UNDECLARED)
        names = {f"label_{v}": v for v in range(1, highest + 1)} if highest > 1 else {"foreground": 1}
        return cls(stored=names, declared=False)

    @staticmethod
    def parse_stored(text: str) -> Stored | None:
        """Reads `255` as 255, and `#ff0000` or `255,0,0` as (255, 0, 0); returns None for anything else."""
        if text.isdecimal():
            return int(text)
        if re.fullmatch("#[0-9a-fA-F]{6}", text):
            return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
        parts = [int(part) for part in text.split(",") if part.strip().isdecimal()]
        if len(parts) == 3 == text.count(",") + 1 and max(parts) < 256:
            return parts[0], parts[1], parts[2]
        return None

    @property
    def numbers(self) -> dict[str, int]:
        """Label name -> the label that nnU-Net trains on: background 0, the others 1..n.

        They are numbered by ascending value; colours, which have no order, as they were named.
        """
        # nnU-Net wants a label called 'ignore' to be the highest.
        order = sorted(self.stored, key=lambda name: (name == "ignore", 0 if self.colours else self.stored[name]))
        return {"background": 0} | {name: label for label, name in enumerate(order, start=1)}

    @property
    def advice(self) -> str:
        """Advises what to do about `problems`."""
        return _COLOUR_ADVICE if self.colours else _ADVICE

    def problems(self, counts: Mapping[str, Mapping[int, int]]) -> list[str]:
        """Returns a line per mask that holds values without a label, or else one for labels without a value.

        Args:
            counts: name of the mask -> value stored in it -> number of pixels.
        """
        if not counts:
            return []
        known = {self.background, *self.stored.values()}
        strays = {name: {v: n for v, n in c.items() if v not in known} for name, c in counts.items()}
        problems = [
            f"mask {name}: {self._pixel_list(stray)}; expected {self._value_list(known)}"
            for name, stray in strays.items()
            if stray
        ]
        if problems:
            return problems
        found = {value for c in counts.values() for value in c}
        if found == {self.background}:
            what = "a pixel that is not background" if self.background else "a nonzero pixel"
            return [f"none of the {len(counts)} masks has {what}: there is nothing to learn"]
        absent = known - {self.background} - found
        if absent and not self.declared:
            held, missing = self._value_list(found), self._value_list(absent)
            return [f"the masks hold {held} but not {missing}; labels must be consecutive"]
        return []

    def relabel(self, mask: np.ndarray) -> np.ndarray:
        """Turns (H, W) or (D, H, W) stored values, all of them known, into uint8 labels."""
        pairs = sorted((self.stored.get(name, self.background), label) for name, label in self.numbers.items())
        values, targets = np.array(pairs).T
        return targets.astype(np.uint8)[np.searchsorted(values, mask)]

    def as_stored(self) -> dict[str, int | str]:
        """Returns label name -> value, or colour as `#ff0000`, without the background."""
        return {name: self._show(value) if self.colours else value for name, value in self.stored.items()}

    def _show(self, value: int) -> str:
        return f"#{value:06x}" if self.colours else str(value)

    def _pixel_list(self, counts: Mapping[int, int]) -> str:
        what = "colour" if self.colours else "value"
        most = sorted(counts, key=lambda value: -counts[value] if self.colours else value)[:5]
        shown = ", ".join(f"{what} {self._show(value)} ({counts[value]} pixels)" for value in most)
        return shown + (f" and {len(counts) - 5} further {what}s" if len(counts) > 5 else "")

    def _value_list(self, values: Iterable[int]) -> str:
        ordered = [self._show(value) for value in sorted(values)]
        if len(ordered) > 5 and not self.colours:
            return f"{ordered[0]}, {ordered[1]} ... {ordered[-1]}"
        return ", ".join(ordered)


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
