"""Reads every pair once before anything is written, and settles which channels and labels the data set has."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import partial

import numpy as np

from nnvit.errors import DataError

from .image_reading import Photo, read_image
from .label_values import LabelValues
from .mask_reading import Reading, read_masks
from .pairing import Pair, refuse
from .parallel import each

_NAMED_SCHEMES = ("ct", "nonorm", "rescale_to_0_1", "rgb_to_0_1")
"""Channel names (in any case) for which nnU-Net chooses another normalisation than the z-score."""

_MOST_VALUES = 1000
"""A mask with more values than this is a picture."""

_KINDS = {0: "pictures", 2: "flat NIfTI files", 3: "volumes"}


@dataclass(frozen=True, kw_only=True)
class Wish:
    """The user's statements about the data set; None leaves it to the files."""

    values: LabelValues | None
    reading: Reading
    channel_names: tuple[str, ...] | None
    normalization: str | None


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """Findings in all pairs, and how the pixels on disk become what nnU-Net reads."""

    seen: "list[_Seen]"
    values: LabelValues
    channel_names: dict[str, str]
    """Channel index -> the name by which nnU-Net chooses the normalisation."""
    normalization: str
    ending: str
    """Suffix of the files to write."""
    split: bool
    """True if each channel becomes a file of its own."""

    @property
    def digests(self) -> dict[Pair, str]:
        """Pair -> SHA-256 of its files, as `Pair.digest` returns it."""
        return {seen.pair: seen.digest for seen in self.seen}

    def fractions(self, pairs: list[Pair]) -> dict[str, float]:
        """Returns label name -> share of the pixels of these pairs' masks, 0..1; background included."""
        chosen = set(pairs)
        totals: Counter[int] = Counter()
        for seen in self.seen:
            if seen.pair in chosen:
                totals.update(seen.counts)
        background = self.values.background
        return {name: totals[self.values.stored.get(name, background)] / totals.total() for name in self.values.numbers}

    def warnings(self) -> list[str]:
        """Lists what is legal but probably a mistake."""
        unused = {n: v for n, v in self.values.stored.items() if not any(v in s.counts for s in self.seen)}
        return [
            *(f"no mask holds the label '{name}' (value {value})" for name, value in unused.items()),
            *_image_warnings(self.seen),
            *_mask_warnings(self.seen, self.values.background),
            *_depths(self.seen),
            *(_named_schemes(self.channel_names) if self.normalization == "zscore" else []),
        ]


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """Findings in one pair."""

    pair: Pair
    channels: int
    axes: int
    """3 for a volume, 2 for a NIfTI file of one slice, 0 for a picture."""
    dtype: str
    """Type of the image's values, such as 'uint8'."""
    turned: bool
    """True if the image's EXIF orientation was applied."""
    opaque: bool
    """True if the image had an opaque alpha channel."""
    counts: dict[int, int]
    """Value stored in the mask -> number of pixels."""
    overlap: int
    """Pixels that lie in more than one mask."""
    digest: str


def survey(pairs: list[Pair], wish: Wish, workers: int, progress: bool) -> Meaning:
    """Reads every pair once, and settles channels and labels over the whole data set.

    Raises:
        DataError: with all problems that the pairs have, each by itself and together.
    """
    results = list(each(partial(_look, wish.reading), pairs, "checking", workers=workers, progress=progress))
    seen = [s for s in results if isinstance(s, _Seen)]
    counts = {s.pair.mask_names: s.counts for s in seen}
    values = wish.values or LabelValues.guessed({value for c in counts.values() for value in c})
    label_problems = values.problems(counts)
    normalization = wish.normalization or ("zscore" if seen and seen[0].axes else "rgb01")
    unreadable = [s for s in results if isinstance(s, str)]
    problems = [*unreadable, *_image_problems(seen, wish, normalization), *label_problems]
    heading = f"{len(problems)} problems with the images and masks; nothing was written"
    refuse(heading, problems, values.advice if label_problems else "")
    dtypes = {s.dtype for s in seen}
    ending = ".nii.gz" if seen[0].axes else ".png" if dtypes <= {"uint8", "uint16"} else ".tif"
    channels = seen[0].channels
    return Meaning(
        seen=seen,
        values=values,
        channel_names=_channel_names(channels, seen[0].axes, normalization, wish.channel_names),
        normalization=normalization,
        ending=ending,
        split=not (channels == 1 or (channels == 3 and ending == ".png" and dtypes == {"uint8"})),
    )


def _look(reading: Reading, pair: Pair) -> _Seen | str:
    try:
        image = read_image(pair.image, reading.channels)
        mask, overlap = read_masks(pair, reading)
        _refuse_misfit(pair, image, mask)
        counts = _count(mask.pixels)
        if len(counts) > _MOST_VALUES:
            what = "colours" if reading.colours else "values"
            raise DataError(
                f"mask {pair.mask_names} holds {len(counts)} {what}: it is a picture rather than a mask, or was saved "
                "after smoothing; export it again"
            )
    except DataError as error:
        return str(error)
    return _Seen(
        pair=pair,
        channels=image.channels,
        axes=len(image.size) if image.geometry else 0,
        dtype=image.pixels.dtype.name,
        turned=image.turned,
        opaque=image.opaque,
        counts=counts,
        overlap=overlap,
        digest=pair.digest(),
    )


def _count(mask: np.ndarray) -> dict[int, int]:
    """Returns value -> number of pixels that hold it."""
    if mask.min() >= 0 and mask.max() < 2**16:
        numbers = np.bincount(mask.ravel().astype(np.intp))
        return {int(value): int(numbers[value]) for value in np.flatnonzero(numbers)}
    values, numbers = np.unique(mask, return_counts=True)
    return dict(zip(values.tolist(), numbers.tolist(), strict=True))


def _refuse_misfit(pair: Pair, image: Photo, mask: Photo) -> None:
    """Raises DataError if the mask differs from the image in kind, size or position."""
    image_kind, mask_kind = (_KINDS[len(p.size) if p.geometry else 0] for p in (image, mask))
    if image_kind != mask_kind:
        raise DataError(f"image {pair.image.name} and mask {pair.mask_names} differ in kind: {image_kind}, {mask_kind}")
    if mask.size != image.size:
        unit = "voxels" if image.geometry else "pixels"
        upright = " (turned upright as its EXIF entry says)" if image.turned else ""
        raise DataError(
            f"image {pair.image.name} has {_extent(image)} {unit}{upright}, "
            f"but mask {pair.mask_names} has {_extent(mask)}"
        )
    difference = image.geometry.difference(mask.geometry) if image.geometry and mask.geometry else ""
    if difference:
        raise DataError(
            f"image {pair.image.name} and mask {pair.mask_names} do not lie in the same place: {difference}; "
            "resample the mask to the image's grid, or correct its header"
        )


def _extent(photo: Photo) -> str:
    return "x".join(str(length) for length in reversed(photo.size))


def _image_problems(pairs: list[_Seen], wish: Wish, normalization: str) -> list[str]:
    by_channels, by_axes = defaultdict(list), defaultdict(list)
    for seen in pairs:
        by_channels[seen.channels].append(seen.pair.image.name)
        by_axes[seen.axes].append(seen.pair.image.name)
    problems = []
    if len(by_axes) > 1:
        kinds = " and ".join(f"{len(f)} {_KINDS[a]} (e.g. {f[0]})" for a, f in sorted(by_axes.items()))
        problems.append(f"the images are {kinds}; import each kind as a data set of its own")
    if len(by_channels) > 1:
        kinds = " and ".join(f"{len(f)} with {c} (e.g. {f[0]})" for c, f in sorted(by_channels.items()))
        problems.append(f"the images differ in their channels: {kinds}; save all as RGB or all as grey")
    elif wish.channel_names and pairs and pairs[0].channels != len(wish.channel_names):
        problems.append(
            f"--channel-names gives {len(wish.channel_names)} names, but the images have {pairs[0].channels} "
            f"channels (e.g. {pairs[0].pair.image.name})"
        )
    return [*problems, *(_beyond_8_bits(pairs) if normalization == "rgb01" else [])]


def _beyond_8_bits(pairs: list[_Seen]) -> list[str]:
    """Lists images that rgb01, a division by 255, does not fit; nnU-Net refuses larger values."""
    reason = "but rgb01 divides by 255; give --normalization zscore"
    deep = [seen for seen in pairs if seen.dtype != "uint8"]
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
    """Names the channels: nnU-Net divides 'rgb_to_0_1' by 255, treats 'CT' as CT and z-scores names it does not know."""
    if normalization != "zscore":
        names = [{"rgb01": "rgb_to_0_1", "ct": "CT"}[normalization]] * channels
    elif given:
        names = list(given)
    elif axes or channels not in (1, 3):
        names = [f"channel_{i}" for i in range(channels)]
    else:
        names = ["grey"] if channels == 1 else ["R", "G", "B"]
    return {str(i): name for i, name in enumerate(names)}


def _image_warnings(pairs: list[_Seen]) -> list[str]:
    turned = [s.pair.image.name for s in pairs if s.turned]
    opaque = [s.pair.image.name for s in pairs if s.opaque]
    warnings = []
    if turned:
        warnings.append(
            f"{len(turned)} images were turned upright as their EXIF orientation says, e.g. {turned[0]}; "
            "check that the masks fit"
        )
    if opaque:
        warnings.append(f"{len(opaque)} images had an opaque alpha channel, which was left out, e.g. {opaque[0]}")
    return warnings


def _mask_warnings(pairs: list[_Seen], background: int) -> list[str]:
    empty = [s.pair.mask_names for s in pairs if set(s.counts) == {background}]
    bare = [s.pair.image.name for s in pairs if None in s.pair.masks]
    overlaps = {s.pair.mask_names: s.overlap for s in pairs if s.overlap}
    warnings = []
    if empty:
        warnings.append(f"{len(empty)} masks hold background alone, e.g. {empty[0]}")
    if bare:
        warnings.append(f"{len(bare)} images lack some of their masks, which were taken as empty, e.g. {bare[0]}")
    if overlaps:
        warnings.append(
            f"masks overlapped in {sum(overlaps.values())} pixels of {len(overlaps)} images, e.g. "
            f"{next(iter(overlaps))}; the mask named first won"
        )
    return warnings


def _depths(pairs: list[_Seen]) -> list[str]:
    depths = Counter(np.dtype(seen.dtype).itemsize * 8 for seen in pairs if not seen.axes)
    kinds = " and ".join(f"{number} with {bits} bits" for bits, number in sorted(depths.items()))
    return [f"the images differ in depth: {kinds}; their values were kept"] if len(depths) > 1 else []


def _named_schemes(channel_names: dict[str, str]) -> list[str]:
    named = [name for name in channel_names.values() if name.casefold() in _NAMED_SCHEMES]
    return [f"nnU-Net will normalise channel '{name}' as that name says to it, not by z-score" for name in named]
