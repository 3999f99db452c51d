"""Reads every pair once before anything is written, and settles which channels and labels the data set has."""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.progress import track

from nnvit.errors import DataError

from .image_reading import Photo, read_image
from .mask_reading import Declared, LabelValues
from .pairing import Pair, refuse

_NAMED_SCHEMES = ("ct", "nonorm", "rescale_to_0_1", "rgb_to_0_1")
"""Channel names (in any case) for which nnU-Net chooses another normalisation than the z-score."""
_MOST_VALUES = 1000
"""A mask with more values than this is a picture."""
_KINDS = {0: "pictures", 2: "flat NIfTI files", 3: "volumes"}
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Workers:
    """Threads, since Pillow, zlib, tifffile, SimpleITK and numpy release Python's lock.

    progress: show a bar for their work if standard error is a terminal.
    """

    number: int
    progress: bool

    def each(self, function: Callable[[_Item], _Result], items: Sequence[_Item], what: str) -> Iterator[_Result]:
        """Yields the function's results in the order of the items; `what` names the work beside the progress bar.

        At most `number` items are in memory at a time, besides the results that wait for their turn.
        """
        console = Console(stderr=True)
        waiting: deque[Future[_Result]] = deque()
        rest = iter(items)
        pool = ThreadPoolExecutor(self.number)
        try:
            waiting.extend(pool.submit(function, item) for item in islice(rest, 2 * self.number))
            for _ in track(items, what, console=console, disable=not (self.progress and console.is_terminal)):
                result = waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in islice(rest, 1))
                yield result
        finally:  # after Ctrl-C and errors too, so that nothing is written while the caller cleans up
            pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """Findings in one pair.

    image: without its pixels' values, so that it takes no memory; counts: value stored in the mask -> number of pixels;
    overlap: pixels that lie in more than one mask; digest: `Pair.digest`.
    """

    pair: Pair
    image: Photo
    counts: dict[int, int]
    overlap: int
    digest: str

    @property
    def name(self) -> str:
        return self.pair.image.name

    @property
    def dtype(self) -> str:
        """Type of the image's values, such as 'uint8'."""
        return self.image.pixels.dtype.name


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Findings in all pairs, and how the pixels on disk become what nnU-Net reads."""

    seen: dict[Pair, _Seen]
    declared: Declared
    values: LabelValues
    channel_names: dict[str, str]
    """Channel index -> the name by which nnU-Net chooses the normalisation."""
    normalization: str
    ending: str
    """Suffix of the files to write."""
    split: bool
    """True if each channel becomes a file of its own."""

    @classmethod
    def of(cls, pairs: list[Pair], declared: Declared, workers: Workers) -> "Survey":
        """Reads every pair once, and settles channels and labels over the whole data set.

        Raises DataError with all problems that the pairs have, each by itself and together.
        """
        results = list(workers.each(partial(_look, declared), pairs, "checking"))
        seen = [result for result in results if isinstance(result, _Seen)]
        counts = {s.pair.mask_names: s.counts for s in seen}
        values = declared.values or LabelValues.guessed({value for c in counts.values() for value in c})
        label_problems = values.problems(counts)
        normalization = declared.normalization or ("zscore" if seen and seen[0].image.axes else "rgb01")
        problems = [result for result in results if isinstance(result, str)]
        problems += [*_image_problems(seen, declared, normalization), *label_problems]
        heading = f"{len(problems)} problems with the images and masks; nothing was written"
        refuse(heading, problems, values.advice if label_problems else "")
        dtypes, channels, axes = {s.dtype for s in seen}, seen[0].image.channels, seen[0].image.axes
        ending = ".nii.gz" if axes else ".png" if dtypes <= {"uint8", "uint16"} else ".tif"
        return cls(
            seen={s.pair: s for s in seen},
            declared=declared,
            values=values,
            channel_names=_channel_names(channels, axes, normalization, declared.channel_names),
            normalization=normalization,
            ending=ending,
            split=not (channels == 1 or (channels == 3 and ending == ".png" and dtypes == {"uint8"})),
        )

    def fractions(self, pairs: list[Pair]) -> dict[str, float]:
        """Returns label name -> share of the pixels of these pairs' masks, 0..1; background included."""
        totals = Counter[int]()
        for pair in pairs:
            totals.update(self.seen[pair].counts)
        background = self.values.background
        return {name: totals[self.values.stored.get(name, background)] / totals.total() for name in self.values.numbers}

    def warnings(self) -> Iterator[str]:
        """Lists what is legal but probably a mistake."""
        seen, background = self.seen.values(), self.values.background
        for name, value in self.values.stored.items():
            if not any(value in s.counts for s in seen):
                yield f"no mask holds the label '{name}' (value {value})"
        turned = [s.name for s in seen if s.image.turned]
        opaque = [s.name for s in seen if s.image.opaque]
        empty = [s.pair.mask_names for s in seen if set(s.counts) == {background}]
        bare = [s.name for s in seen if None in s.pair.masks.values()]
        overlaps = {s.pair.mask_names: s.overlap for s in seen if s.overlap}
        for words, names in (
            ("images were turned upright as their EXIF orientation says, e.g. {}; check that the masks fit", turned),
            ("images had an opaque alpha channel, which was left out, e.g. {}", opaque),
            ("masks hold background alone, e.g. {}", empty),
            ("images lack some of their masks, which were taken as empty, e.g. {}", bare),
        ):
            if names:
                yield f"{len(names)} {words.format(names[0])}"
        if overlaps:
            where = f"{sum(overlaps.values())} pixels of {len(overlaps)} images, e.g. {next(iter(overlaps))}"
            yield f"masks overlapped in {where}; the mask named first won"
        depths = Counter(s.image.pixels.itemsize * 8 for s in seen if not s.image.axes)
        if len(depths) > 1:
            kinds = " and ".join(f"{number} with {bits} bits" for bits, number in sorted(depths.items()))
            yield f"the images differ in depth: {kinds}; their values were kept"
        for name in self.channel_names.values() if self.normalization == "zscore" else ():
            if name.casefold() in _NAMED_SCHEMES:
                yield f"nnU-Net will normalise channel '{name}' as that name says to it, not by z-score"


def _look(declared: Declared, pair: Pair) -> _Seen | str:
    """Returns the findings in one pair, or what is wrong with it."""
    try:
        image = read_image(pair.image, declared.channels)
        mask, overlap = declared.read_masks(pair)
        _refuse_misfit(pair, image, mask)
        counts = _count(mask.pixels)
        if len(counts) > _MOST_VALUES:
            what = "colours" if declared.colours else "values"
            raise DataError(
                f"mask {pair.mask_names} holds {len(counts)} {what}: it is a picture rather than a mask, or was saved "
                "after smoothing; export it again"
            )
    except DataError as error:
        return str(error)
    shape_only = np.broadcast_to(np.zeros((), image.pixels.dtype), image.pixels.shape)
    digest = pair.digest()
    return _Seen(pair=pair, image=replace(image, pixels=shape_only), counts=counts, overlap=overlap, digest=digest)


def _count(mask: np.ndarray) -> dict[int, int]:
    """Returns value -> number of pixels that hold it."""
    values, numbers = np.unique(mask, return_counts=True)
    return dict(zip(values.tolist(), numbers.tolist(), strict=True))


def _refuse_misfit(pair: Pair, image: Photo, mask: Photo) -> None:
    """Raises DataError if the mask differs from the image in kind, size or position."""
    image_kind, mask_kind = _KINDS[image.axes], _KINDS[mask.axes]
    if image_kind != mask_kind:
        raise DataError(f"image {pair.image.name} and mask {pair.mask_names} differ in kind: {image_kind}, {mask_kind}")
    if mask.size != image.size:
        unit = "voxels" if image.geometry else "pixels"
        upright = " (turned upright as its EXIF entry says)" if image.turned else ""
        extent, other = ("x".join(map(str, reversed(photo.size))) for photo in (image, mask))
        raise DataError(f"image {pair.image.name} has {extent} {unit}{upright}, but mask {pair.mask_names} has {other}")
    difference = image.geometry.difference(mask.geometry) if image.geometry and mask.geometry else ""
    if difference:
        raise DataError(
            f"image {pair.image.name} and mask {pair.mask_names} do not lie in the same place: {difference}; "
            "resample the mask to the image's grid, or correct its header"
        )


def _image_problems(seen: list[_Seen], declared: Declared, normalization: str) -> Iterator[str]:
    by_channels, by_axes = defaultdict(list), defaultdict(list)
    for s in seen:
        by_channels[s.image.channels].append(s.name)
        by_axes[s.image.axes].append(s.name)
    if len(by_axes) > 1:
        kinds = " and ".join(f"{len(f)} {_KINDS[a]} (e.g. {f[0]})" for a, f in sorted(by_axes.items()))
        yield f"the images are {kinds}; import each kind as a data set of its own"
    if len(by_channels) > 1:
        kinds = " and ".join(f"{len(f)} with {c} (e.g. {f[0]})" for c, f in sorted(by_channels.items()))
        yield f"the images differ in their channels: {kinds}; save all as RGB or all as grey"
    elif declared.channels and declared.channels not in by_channels and seen:
        yield (
            f"--channel-names gives {declared.channels} names, but the images have {seen[0].image.channels} "
            f"channels (e.g. {seen[0].name})"
        )
    if normalization == "rgb01":
        yield from _beyond_8_bits(seen)


def _beyond_8_bits(seen: list[_Seen]) -> Iterator[str]:
    """Lists images that rgb01, a division by 255, does not fit; nnU-Net refuses larger values."""
    reason = "but rgb01 divides by 255; give --normalization zscore"
    grey16 = [s.name for s in seen if s.dtype == "uint16" and s.image.channels == 1]
    colour16 = [s.name for s in seen if s.dtype == "uint16" and s.image.channels > 1]
    other = [s for s in seen if s.dtype not in ("uint8", "uint16")]
    if grey16:
        yield f"{len(grey16)} images have 16 bits (e.g. {grey16[0]}), {reason}"
    if colour16:
        more = f" (and {len(colour16) - 1} more images)" if len(colour16) > 1 else ""
        yield f"image {colour16[0]} has 16 bits per colour channel{more}, {reason}"
    if other:
        yield f"{len(other)} images have values of type {other[0].dtype} (e.g. {other[0].name}), {reason}"


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
