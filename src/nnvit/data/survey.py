"""Looks at every pair before anything is written, and decides what channels and labels there are."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.progress import track

from ..errors import DataError
from . import labels as lb
from .pairing import Pair, refuse
from .pixels import read_image, read_mask


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What was seen in one pair."""

    pair: Pair
    channels: int
    bits: int
    """Per channel: 8 or 16."""
    turned: bool
    """Whether the image carried an EXIF orientation."""
    counts: dict[int, int]
    """Value stored in the mask -> number of pixels."""


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """How the pixels on disk become what nnU-Net reads."""

    stored: dict[str, int]
    """Label name -> value in the mask files."""
    labels: dict[str, int]
    """Label name -> value in the data set, background included."""
    channel_names: dict[str, str]
    """Channel index -> the name by which nnU-Net chooses the normalisation."""


def follow(pairs: list[Pair], what: str, progress: bool) -> Iterable[Pair]:
    """The pairs, behind a bar with the time left if standard error is a terminal."""
    console = Console(stderr=True)
    return track(pairs, what, console=console, disable=not (progress and console.is_terminal))


def survey_all(pairs: list[Pair], progress: bool) -> tuple[list[Survey], list[str]]:
    """Read every pair once; what cannot be used comes back as a list of problems."""
    surveys, problems = [], []
    for pair in follow(pairs, "checking", progress):
        try:
            surveys.append(_survey(pair))
        except DataError as error:
            problems.append(str(error))
    return surveys, problems


def understand(
    surveys: list[Survey], problems: list[str], declared: dict[str, int] | None, normalization: str
) -> Meaning:
    """Settle channels and labels over the whole data set.

    Args:
        problems: found while reading; reported together with those found here.
        declared: label name -> stored value, or None to infer them.
        normalization: `rgb01` or `zscore`.

    Raises:
        DataError: with all problems.
    """
    counts = {survey.pair.mask.name: survey.counts for survey in surveys}
    stored = lb.choose_labels({value for c in counts.values() for value in c}, declared)
    label_problems = lb.label_problems(counts, stored, declared is not None) if counts else []
    problems = [*problems, *_image_problems(surveys, normalization), *label_problems]
    heading = f"{len(problems)} problems with the images and masks; nothing was written"
    refuse(heading, problems, lb.ADVICE if label_problems else "")
    return Meaning(
        stored=stored,
        labels=lb.nnunet_labels(stored),
        channel_names=_channel_names(surveys[0].channels, normalization),
    )


def warnings_of(surveys: list[Survey], meaning: Meaning) -> list[str]:
    """What is legal but worth a look."""
    turned = [s.pair.image.name for s in surveys if s.turned]
    empty = [s.pair.mask.name for s in surveys if set(s.counts) == {0}]
    unused = {n: v for n, v in meaning.stored.items() if not any(v in s.counts for s in surveys)}
    warnings = [f"no mask holds the label '{name}' (value {value})" for name, value in unused.items()]
    if turned:
        warnings.append(
            f"{len(turned)} images were turned upright as their EXIF orientation says, e.g. {turned[0]}; "
            "check that the masks fit"
        )
    if empty:
        warnings.append(f"{len(empty)} masks hold background alone, e.g. {empty[0]}")
    return warnings


def label_fractions(surveys: list[Survey], meaning: Meaning) -> dict[str, float]:
    """Label name -> share of all these masks' pixels, 0..1."""
    totals: Counter[int] = Counter()
    for survey in surveys:
        totals.update(survey.counts)
    return {name: totals[meaning.stored.get(name, 0)] / totals.total() for name in meaning.labels}


def _survey(pair: Pair) -> Survey:
    pixels, turned = read_image(pair.image)
    mask = read_mask(pair.mask)
    if mask.shape != pixels.shape[:2]:
        upright = " (turned upright as its EXIF entry says)" if turned else ""
        raise DataError(
            f"image {pair.image.name} has {pixels.shape[1]}x{pixels.shape[0]} pixels{upright}, "
            f"but mask {pair.mask.name} has {mask.shape[1]}x{mask.shape[0]}"
        )
    values, counts = np.unique(mask, return_counts=True)
    return Survey(
        pair=pair,
        channels=1 if pixels.ndim == 2 else 3,
        bits=8 * pixels.itemsize,
        turned=turned,
        counts=dict(zip(values.tolist(), counts.tolist(), strict=True)),
    )


def _image_problems(surveys: list[Survey], normalization: str) -> list[str]:
    by_channels = defaultdict(list)
    for survey in surveys:
        by_channels[survey.channels].append(survey.pair.image.name)
    deep = [survey.pair.image.name for survey in surveys if survey.bits > 8]
    problems = []
    if len(by_channels) > 1:
        kinds = " and ".join(f"{len(f)} with {c} (e.g. {f[0]})" for c, f in sorted(by_channels.items()))
        problems.append(f"the images differ in their channels: {kinds}; save all as RGB or all as grey")
    if deep and normalization == "rgb01":
        problems.append(
            f"{len(deep)} images have 16 bits (e.g. {deep[0]}), but rgb01 divides by 255; give --normalization zscore"
        )
    return problems


def _channel_names(channels: int, normalization: str) -> dict[str, str]:
    """nnU-Net takes 'rgb_to_0_1' as "divide by 255" and any name that it does not know as "z-score"."""
    unknown = ["grey"] if channels == 1 else ["R", "G", "B"]
    return {str(i): "rgb_to_0_1" if normalization == "rgb01" else n for i, n in enumerate(unknown)}
