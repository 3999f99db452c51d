"""What the values in the masks mean."""

import re
from collections.abc import Mapping

import numpy as np

from nnvit.errors import DataError

from .photo import Array

Counts = Mapping[int, int]
"""Stored value -> number of pixels that hold it."""

Stored = int | tuple[int, int, int]
"""What a mask holds for a label: a value, or a colour (red, green, blue) of 0 to 255 each."""

MOST_LABELS = 254
"""Labels are written with 8 bits, which nnU-Net itself uses below 255."""

MOST_UNDECLARED = 30
"""More classes than this without declared names look like a grey picture rather than a mask."""

ADVICE = (
    "If these values are meant, name each as the files store it (--label vessel=255); if not, the masks were saved as "
    "JPEG or resized with smoothing: export them again, with 0 and 255, or 0 and whole numbers from 1 up."
)


COLOUR_ADVICE = (
    "Name each colour (--label vessel=#ff0000; black is the background unless --label background=COLOUR says else). "
    "Colours along the edges of others come from JPEG or from resizing with smoothing: export such masks again."
)


def parse_stored(text: str) -> Stored | None:
    """`255` -> 255, `#ff0000` and `255,0,0` -> (255, 0, 0); None for anything else."""
    if text.isdecimal():
        return int(text)
    if re.fullmatch("#[0-9a-fA-F]{6}", text):
        return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
    parts = [int(part) for part in text.split(",") if part.strip().isdecimal()]
    if len(parts) == 3 == text.count(",") + 1 and max(parts) < 256:
        return parts[0], parts[1], parts[2]
    return None


def as_values(labels: Mapping[str, Stored]) -> tuple[dict[str, int], bool]:
    """Name -> value, colours packed as 0xRRGGBB, and whether they are colours.

    Raises:
        DataError: values and colours are mixed.
    """
    colours = {name for name, stored in labels.items() if isinstance(stored, tuple)}
    if colours and colours != labels.keys():
        raise DataError(f"labels {dict(labels)} mix values and colours; give colours for all, or values for all")
    values = {n: s if isinstance(s, int) else s[0] << 16 | s[1] << 8 | s[2] for n, s in labels.items()}
    return values, bool(colours)


def check_declared(labels: Mapping[str, int], colours: bool = False) -> None:
    """Raise `DataError` for names that nnU-Net reserves and for values that two names share."""
    background = labels.get("background", 0)
    if (background != 0 and not colours) or background in (v for k, v in labels.items() if k != "background"):
        raise DataError(
            f"labels {_declared(labels, colours)}: value {show(background, colours) if colours else 0} is the "
            "background and no other value can be"
        )
    if len(set(labels.values())) < len(labels):
        raise DataError(
            f"labels {_declared(labels, colours)} give one value several names; expected one name for each value"
        )
    if len(labels) > MOST_LABELS:
        raise DataError(f"{len(labels)} labels are declared; expected at most {MOST_LABELS}")


def show(value: int, colours: bool) -> str:
    """`#ff0000` or `255`."""
    return f"#{value:06x}" if colours else str(value)


def choose_labels(found: set[int], declared: Mapping[str, int] | None) -> dict[str, int]:
    """Name -> value stored in the masks, without the background: as declared, else the likeliest.

    Whether the masks agree with it is for `label_problems` to say.
    """
    if declared is not None:
        return {name: value for name, value in declared.items() if name != "background"}
    if 255 in found:
        return {"foreground": 255}
    highest = min(max(found, default=0), MOST_UNDECLARED)
    return {f"label_{v}": v for v in range(1, highest + 1)} if highest > 1 else {"foreground": 1}


def label_problems(
    counts: Mapping[str, Counts],
    stored: Mapping[str, int],
    declared: bool,
    *,
    background: int = 0,
    colours: bool = False,
) -> list[str]:
    """A line for each mask (by file name) with values that have no label, or else one for labels with no value."""
    known = {background, *stored.values()}
    strays = {name: {v: n for v, n in c.items() if v not in known} for name, c in counts.items()}
    problems = [
        f"mask {name}: {_pixel_list(stray, colours)}; expected {_values(known, colours)}"
        for name, stray in strays.items()
        if stray
    ]
    if problems:
        return problems
    found = {value for c in counts.values() for value in c}
    if found == {background}:
        what = "a pixel that is not background" if background else "a nonzero pixel"
        return [f"none of the {len(counts)} masks has {what}: there is nothing to learn"]
    absent = known - {background} - found
    if absent and not declared:
        return [f"the masks hold {_values(found)} but not {_values(absent)}; labels must be consecutive"]
    return []


def nnunet_labels(stored: Mapping[str, int], in_order: bool = False) -> dict[str, int]:
    """Name -> the label nnU-Net trains on: background 0, the others 1..n by ascending stored value.

    With `in_order` they are numbered as they stand: colours have no order of their own.
    """
    # nnU-Net wants a label called 'ignore' to be the highest.
    ordered = sorted(stored, key=lambda name: (name == "ignore", 0 if in_order else stored[name]))
    return {"background": 0} | {name: label for label, name in enumerate(ordered, start=1)}


def relabel(mask: Array, stored: Mapping[str, int], labels: Mapping[str, int], background: int = 0) -> Array:
    """(H, W) or (D, H, W) stored values, all of them known -> uint8 labels."""
    pairs = sorted([(background, 0), *((value, labels[name]) for name, value in stored.items())])
    values, targets = np.array(pairs).T
    return targets.astype(np.uint8)[np.searchsorted(values, mask)]


def count(mask: Array) -> dict[int, int]:
    """Value -> number of pixels that hold it."""
    if mask.min() >= 0 and mask.max() < 2**16:
        numbers = np.bincount(mask.ravel().astype(np.intp))
        return {int(value): int(numbers[value]) for value in np.flatnonzero(numbers)}
    values, numbers = np.unique(mask, return_counts=True)
    return dict(zip(values.tolist(), numbers.tolist(), strict=True))


def _declared(labels: Mapping[str, int], colours: bool) -> dict[str, str] | dict[str, int]:
    return {name: show(value, True) for name, value in labels.items()} if colours else dict(labels)


def _pixel_list(counts: Counts, colours: bool) -> str:
    what = "colour" if colours else "value"
    most = sorted(counts, key=lambda value: -counts[value] if colours else value)[:5]
    shown = [f"{what} {show(value, colours)} ({counts[value]} pixels)" for value in most]
    return ", ".join(shown) + (f" and {len(counts) - 5} further {what}s" if len(counts) > 5 else "")


def _values(values: set[int], colours: bool = False) -> str:
    ordered = [show(value, colours) for value in sorted(values)]
    if len(ordered) > 5 and not colours:
        return f"{ordered[0]}, {ordered[1]} ... {ordered[-1]}"
    return ", ".join(ordered)
