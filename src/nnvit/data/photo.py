"""An image in memory, as nnU-Net shall see it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Geometry:
    """Where a volume's voxels lie in the patient, in ITK's order of axes (x, y, z)."""

    spacing: tuple[float, ...]
    """Millimetres."""
    origin: tuple[float, ...]
    direction: tuple[float, ...]
    """Direction cosines, row by row."""

    def difference(self, other: "Geometry") -> str:
        """What tells the two apart beyond rounding, in words; nothing if they agree."""
        for name, tolerance in (("spacing", 1e-3), ("origin", 1e-2 * min(self.spacing)), ("direction", 1e-3)):
            mine, theirs = getattr(self, name), getattr(other, name)
            if len(mine) != len(theirs) or not np.allclose(mine, theirs, rtol=0, atol=tolerance):
                return f"{name} {_numbers(mine)} against {_numbers(theirs)}"
        return ""


@dataclass(frozen=True, kw_only=True)
class Photo:
    """A picture or a volume, channels last."""

    pixels: Array
    """(H, W) or (H, W, C), uint8, uint16 or float32; a volume (D, H, W) or (D, H, W, C) of the file's type."""
    turned: bool = False
    """Whether an orientation that the file carries (EXIF) was applied."""
    opaque: bool = False
    """Whether an alpha channel was left out, which was opaque throughout."""
    geometry: Geometry | None = None
    """None for pictures."""

    @property
    def size(self) -> tuple[int, ...]:
        """(H, W), or a volume's (D, H, W)."""
        return self.pixels.shape[: len(self.geometry.spacing) if self.geometry else 2]

    @property
    def channels(self) -> int:
        return int(self.pixels.shape[-1]) if self.pixels.ndim > len(self.size) else 1

    def planes(self) -> list[Array]:
        """One array per channel, without the axis of channels."""
        if self.pixels.ndim == len(self.size):
            return [self.pixels]
        return [self.pixels[..., i] for i in range(self.channels)]

    def as_nnunet(self) -> tuple[Array, dict[str, Any]]:
        """What stock nnU-Net's reader returns for this image once it is imported.

        Returns:
            (C, 1, H, W) or (C, D, H, W) float32, and the properties with their `spacing` (999, 1, 1 for pictures).
        """
        planes = [plane if plane.ndim == 3 else plane[None] for plane in self.planes()]
        stacked = np.stack(planes).astype(np.float32)
        if self.geometry is None:
            return stacked, {"spacing": (999, 1, 1)}
        spacing = [abs(value) for value in reversed(self.geometry.spacing)]
        if len(spacing) == 2:
            spacing.insert(0, 999 * max(spacing))
        return stacked, {"sitk_stuff": vars(self.geometry).copy(), "spacing": spacing}


def upright(pixels: Array, orientation: int) -> Array:
    """(H, W, ...) pixels turned and mirrored as EXIF's orientation 1 to 8 says."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
