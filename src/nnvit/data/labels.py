"""What the values in the masks mean."""

from collections.abc import Mapping

import numpy as np

from ..errors import DataError
from .pixels import Array

Counts = Mapping[int, int]
"""Stored value -> number of pixels that hold it."""

MOST_UNDECLARED = 30
"""More classes than this without declared names look like a grey picture rather than a mask."""

ADVICE = (
    "If these values are meant, name each as the files store it (--label vessel=255); if not, the masks were saved as "
    "JPEG or resized with smoothing: export them again, with 0 and 255, or 0 and whole numbers from 1 up."
)


def check_declared(labels: Mapping[str, int]) -> None:
    """Raise `DataError` for names that nnU-Net reserves and for values that two names share."""
    if labels.get("background", 0) != 0 or 0 in (v for k, v in labels.items() if k != "background"):
        raise DataError(f"labels {dict(labels)}: value 0 is the background and no other value can be")
    if len(set(labels.values())) < len(labels):
        raise DataError(f"labels {dict(labels)} give one value several names; expected one name for each value")


def choose_labels(found: set[int], declared: Mapping[str, int] | None) -> dict[str, int]:
    """Name -> value stored in the masks, without the background: as declared, else the likeliest.

    Whether the masks agree with it is for `label_problems` to say.
    """
    if declared is not None:
        return {name: value for name, value in declared.items() if value != 0}
    if 255 in found:
        return {"foreground": 255}
    highest = min(max(found, default=0), MOST_UNDECLARED)
    return {f"label_{v}": v for v in range(1, highest + 1)} if highest > 1 else {"foreground": 1}


def label_problems(counts: Mapping[str, Counts], stored: Mapping[str, int], declared: bool) -> list[str]:
    """A line for each mask (by file name) with values that have no label, or else one for labels with no value."""
    known = {0, *stored.values()}
    strays = {name: {v: n for v, n in c.items() if v not in known} for name, c in counts.items()}
    problems = [
        f"mask {name}: {_pixel_list(stray)}; expected {_values(known)}" for name, stray in strays.items() if stray
    ]
    if problems:
        return problems
    found = {value for c in counts.values() for value in c}
    if found == {0}:
        return [f"none of the {len(counts)} masks has a nonzero pixel: there is nothing to learn"]
    absent = known - {0} - found
    if absent and not declared:
        return [f"the masks hold {_values(found)} but not {_values(absent)}; labels must be consecutive"]
    return []


def nnunet_labels(stored: Mapping[str, int]) -> dict[str, int]:
    """Name -> the label nnU-Net trains on: background 0, the others 1..n by ascending stored value."""
    # nnU-Net wants a label called 'ignore' to be the highest.
    ordered = sorted(stored, key=lambda name: (name == "ignore", stored[name]))
    return {"background": 0} | {name: label for label, name in enumerate(ordered, start=1)}


def relabel(mask: Array, stored: Mapping[str, int], labels: Mapping[str, int]) -> Array:
    """(H, W) stored values, all of them known -> (H, W) uint8 labels."""
    pairs = sorted([(0, 0), *((value, labels[name]) for name, value in stored.items())])
    values, targets = np.array(pairs).T
    return targets.astype(np.uint8)[np.searchsorted(values, mask)]


def _pixel_list(counts: Counts) -> str:
    shown = [f"value {value} ({count} pixels)" for value, count in sorted(counts.items())[:5]]
    return ", ".join(shown) + (f" and {len(counts) - 5} further values" if len(counts) > 5 else "")


def _values(values: set[int]) -> str:
    ordered = sorted(values)
    if len(ordered) > 5:
        return f"{ordered[0]}, {ordered[1]} ... {ordered[-1]}"
    return ", ".join(map(str, ordered))
