"""Looks at every pair before anything is written, and decides what channels and labels there are."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from nnvit.errors import DataError

from . import label_values as lb
from .image_reading import read_image
from .mask_reading import Mask, Reading, read_masks
from .pairing import Pair, refuse
from .parallel import each
from .photo import Photo

NAMED_SCHEMES = ("ct", "nonorm", "rescale_to_0_1", "rgb_to_0_1")
"""Channel names (in any case) by which nnU-Net chooses another normalisation than by z-score."""

MOST_VALUES = 1000
"""More values than this in one mask are not worth counting."""

AXES = {0: "pictures", 2: "flat NIfTI files", 3: "volumes"}


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What was seen in one pair."""

    pair: Pair
    channels: int
    axes: int
    """3 for a volume, 2 for a NIfTI file of one slice, 0 for a picture."""
    dtype: str
    """Of the image's values, e.g. 'uint8'."""
    turned: bool
    """Whether the image carried an EXIF orientation."""
    opaque: bool
    """Whether it carried an opaque alpha channel."""
    counts: dict[int, int]
    """Value stored in the mask -> number of pixels."""
    overlap: int
    """Pixels that lie in several masks, of which one was chosen."""
    digest: str
    """Of the files' bytes."""


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """How the pixels on disk become what nnU-Net reads."""

    stored: dict[str, int]
    """Label name -> value in the mask files, background left out."""
    background: int
    labels: dict[str, int]
    """Label name -> value in the data set, background included."""
    channel_names: dict[str, str]
    """Channel index -> the name by which nnU-Net chooses the normalisation."""
    normalization: str
    ending: str
    """Of the files to write."""
    split: bool
    """Whether each channel becomes a file of its own."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the user says of the data set; None leaves it to the files."""

    labels: Mapping[str, int] | None
    """Name -> stored value, background perhaps included."""
    reading: Reading
    channel_names: tuple[str, ...] | None
    normalization: str | None

    @property
    def background(self) -> int:
        return (self.labels or {}).get("background", 0)


def survey_all(pairs: list[Pair], reading: Reading, workers: int, progress: bool) -> tuple[list[Survey], list[str]]:
    """Read every pair once; what cannot be used comes back as a list of problems."""
    seen = list(each(partial(_survey, reading), pairs, "checking", workers=workers, progress=progress))
    return [s for s in seen if isinstance(s, Survey)], [s for s in seen if isinstance(s, str)]


def digest(pair: Pair) -> str:
    """SHA-256 of the pair's files, one after the other."""
    found = []
    for path in (pair.image, *(mask for mask in pair.masks if mask)):
        with path.open("rb") as file:
            found.append(hashlib.file_digest(file, "sha256").hexdigest())
    return " ".join(found)


def understand(surveys: list[Survey], problems: list[str], wish: Wish) -> Meaning:
    """Settle channels and labels over the whole data set.

    Args:
        problems: found while reading; reported together with those found here.

    Raises:
        DataError: with all problems.
    """
    counts = {survey.pair.mask_names: survey.counts for survey in surveys}
    stored = lb.choose_labels({value for c in counts.values() for value in c}, wish.labels)
    colours = wish.reading.colours
    declared = wish.labels is not None
    label_problems = (
        lb.label_problems(counts, stored, declared, background=wish.background, colours=colours) if counts else []
    )
    normalization = wish.normalization or ("zscore" if surveys and surveys[0].axes else "rgb01")
    problems = [*problems, *_image_problems(surveys, wish, normalization), *label_problems]
    heading = f"{len(problems)} problems with the images and masks; nothing was written"
    refuse(heading, problems, (lb.COLOUR_ADVICE if colours else lb.ADVICE) if label_problems else "")
    dtypes = {survey.dtype for survey in surveys}
    ending = ".nii.gz" if surveys[0].axes else ".png" if dtypes <= {"uint8", "uint16"} else ".tif"
    channels = surveys[0].channels
    return Meaning(
        stored=stored,
        background=wish.background,
        labels=lb.nnunet_labels(stored, in_order=colours),
        channel_names=_channel_names(channels, surveys[0].axes, normalization, wish.channel_names),
        normalization=normalization,
        ending=ending,
        split=not (channels == 1 or (channels == 3 and ending == ".png" and dtypes == {"uint8"})),
    )


def warnings_of(surveys: list[Survey], meaning: Meaning) -> list[str]:
    """What is legal but worth a look."""
    turned = [s.pair.image.name for s in surveys if s.turned]
    opaque = [s.pair.image.name for s in surveys if s.opaque]
    empty = [s.pair.mask_names for s in surveys if set(s.counts) == {meaning.background}]
    bare = [s.pair.image.name for s in surveys if None in s.pair.masks]
    overlaps = {s.pair.mask_names: s.overlap for s in surveys if s.overlap}
    unused = {n: v for n, v in meaning.stored.items() if not any(v in s.counts for s in surveys)}
    warnings = [f"no mask holds the label '{name}' (value {value})" for name, value in unused.items()]
    if turned:
        warnings.append(
            f"{len(turned)} images were turned upright as their EXIF orientation says, e.g. {turned[0]}; "
            "check that the masks fit"
        )
    if opaque:
        warnings.append(f"{len(opaque)} images had an opaque alpha channel, which was left out, e.g. {opaque[0]}")
    if empty:
        warnings.append(f"{len(empty)} masks hold background alone, e.g. {empty[0]}")
    if bare:
        warnings.append(f"{len(bare)} images lack some of their masks, which were taken as empty, e.g. {bare[0]}")
    if overlaps:
        warnings.append(
            f"masks overlapped in {sum(overlaps.values())} pixels of {len(overlaps)} images, e.g. "
            f"{next(iter(overlaps))}; the mask named first won"
        )
    return [*warnings, *_depths(surveys), *_named_schemes(meaning)]


def label_fractions(surveys: list[Survey], meaning: Meaning) -> dict[str, float]:
    """Label name -> share of all these masks' pixels, 0..1."""
    totals: Counter[int] = Counter()
    for survey in surveys:
        totals.update(survey.counts)
    return {name: totals[meaning.stored.get(name, meaning.background)] / totals.total() for name in meaning.labels}


def _survey(reading: Reading, pair: Pair) -> Survey | str:
    try:
        image, mask = read_image(pair.image, reading.channels), read_masks(pair, reading)
        _refuse_misfit(pair, image, mask)
        counts = _counted(pair, mask, reading)
    except DataError as error:
        return str(error)
    return Survey(
        pair=pair,
        channels=image.channels,
        axes=len(image.size) if image.geometry else 0,
        dtype=image.pixels.dtype.name,
        turned=image.turned,
        opaque=image.opaque,
        counts=counts,
        overlap=mask.overlap,
        digest=digest(pair),
    )


def _counted(pair: Pair, mask: Mask, reading: Reading) -> dict[int, int]:
    counts = lb.count(mask.stored.pixels)
    if len(counts) > MOST_VALUES:
        what = "colours" if reading.colours else "values"
        raise DataError(
            f"mask {pair.mask_names} holds {len(counts)} {what}: it is a picture rather than a mask, or was saved "
            "after smoothing; export it again"
        )
    return counts


def _refuse_misfit(pair: Pair, image: Photo, mask: Mask) -> None:
    photo = mask.stored
    image_kind, mask_kind = (AXES[len(p.size) if p.geometry else 0] for p in (image, photo))
    if image_kind != mask_kind:
        raise DataError(f"image {pair.image.name} and mask {pair.mask_names} differ in kind: {image_kind}, {mask_kind}")
    if photo.size != image.size:
        unit = "voxels" if image.geometry else "pixels"
        upright = " (turned upright as its EXIF entry says)" if image.turned else ""
        raise DataError(
            f"image {pair.image.name} has {_extent(image)} {unit}{upright}, "
            f"but mask {pair.mask_names} has {_extent(photo)}"
        )
    difference = image.geometry.difference(photo.geometry) if image.geometry and photo.geometry else ""
    if difference:
        raise DataError(
            f"image {pair.image.name} and mask {pair.mask_names} do not lie in the same place: {difference}; "
            "resample the mask to the image's grid, or correct its header"
        )


def _extent(photo: Photo) -> str:
    return "x".join(str(length) for length in reversed(photo.size))


def _image_problems(surveys: list[Survey], wish: Wish, normalization: str) -> list[str]:
    by_channels, by_axes = defaultdict(list), defaultdict(list)
    for survey in surveys:
        by_channels[survey.channels].append(survey.pair.image.name)
        by_axes[survey.axes].append(survey.pair.image.name)
    problems = []
    if len(by_axes) > 1:
        kinds = " and ".join(f"{len(f)} {AXES[a]} (e.g. {f[0]})" for a, f in sorted(by_axes.items()))
        problems.append(f"the images are {kinds}; import each kind as a data set of its own")
    if len(by_channels) > 1:
        kinds = " and ".join(f"{len(f)} with {c} (e.g. {f[0]})" for c, f in sorted(by_channels.items()))
        problems.append(f"the images differ in their channels: {kinds}; save all as RGB or all as grey")
    elif wish.channel_names and surveys and surveys[0].channels != len(wish.channel_names):
        problems.append(
            f"--channel-names gives {len(wish.channel_names)} names, but the images have {surveys[0].channels} "
            f"channels (e.g. {surveys[0].pair.image.name})"
        )
    return [*problems, *(_beyond_8_bits(surveys) if normalization == "rgb01" else [])]


def _beyond_8_bits(surveys: list[Survey]) -> list[str]:
    """rgb01 divides by 255, and nnU-Net refuses what is larger."""
    reason = "but rgb01 divides by 255; give --normalization zscore"
    deep = [survey for survey in surveys if survey.dtype != "uint8"]
    grey16 = [s.pair.image.name for s in deep if s.dtype == "uint16" and s.channels == 1]
    colour16 = [s.pair.image.name for s in deep if s.dtype == "uint16" and s.channels > 1]
    other = [s for s in deep if s.dtype != "uint16"]
    problems = []
    if grey16:
        problems.append(f"{len(grey16)} images have 16 bits (e.g. {grey16[0]}), {reason}")
    if colour16:
        more = f" (and {len(colour16) - 1} more images)" if len(colour16) > 1 else ""
        problems.append(f"image {colour16[0]} has 16 bits per colour channel{more}, {reason}")
    if other:
        name = other[0].pair.image.name
        problems.append(f"{len(other)} images have values of type {other[0].dtype} (e.g. {name}), {reason}")
    return problems


def _channel_names(channels: int, axes: int, normalization: str, given: tuple[str, ...] | None) -> dict[str, str]:
    """nnU-Net takes 'rgb_to_0_1' as "divide by 255", 'CT' as CT, and any name that it does not know as "z-score"."""
    if normalization != "zscore":
        names = [{"rgb01": "rgb_to_0_1", "ct": "CT"}[normalization]] * channels
    elif given:
        names = list(given)
    elif axes or channels not in (1, 3):
        names = [f"channel_{i}" for i in range(channels)]
    else:
        names = ["grey"] if channels == 1 else ["R", "G", "B"]
    return {str(i): name for i, name in enumerate(names)}


def _depths(surveys: list[Survey]) -> list[str]:
    depths = Counter(np.dtype(survey.dtype).itemsize * 8 for survey in surveys if not survey.axes)
    kinds = " and ".join(f"{number} with {bits} bits" for bits, number in sorted(depths.items()))
    return [f"the images differ in depth: {kinds}; their values were kept"] if len(depths) > 1 else []


def _named_schemes(meaning: Meaning) -> list[str]:
    if meaning.normalization != "zscore":
        return []
    named = [name for name in meaning.channel_names.values() if name.casefold() in NAMED_SCHEMES]
    return [f"nnU-Net will normalise channel '{name}' as that name says to it, not by z-score" for name in named]
