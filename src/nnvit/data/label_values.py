"""Relates the values that masks store to label names, and to the labels that nnU-Net trains on."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from nnvit.errors import DataError

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
    def parse(text: str) -> Stored | None:
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
