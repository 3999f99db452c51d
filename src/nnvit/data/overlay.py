"""Draws a mask on its photograph."""

from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import binary_erosion

Array = np.ndarray[Any, Any]

COLOURS = {
    "sky blue": (86, 180, 233),
    "yellow": (240, 228, 66),
    "bluish green": (0, 158, 115),
    "white": (255, 255, 255),
    "reddish purple": (204, 121, 167),
    "blue": (0, 114, 178),
    "vermilion": (213, 94, 0),
    "orange": (230, 159, 0),
}
"""Okabe and Ito's, told apart by all eyes (Wong, Nature Methods 2011), and white; those that a fundus hides come last, and a
ninth label starts anew."""

FILL = 0.35
"""Share of the colour inside a contour."""
PIXELS_PER_LINE = 500
"""A contour is one pixel wide for each so many of the shorter side."""


def colour_of(index: int) -> str:
    """The name of the colour that the label of this rank, from 0, is drawn in."""
    return list(COLOURS)[index % len(COLOURS)]


def draw(pixels: Array, mask: Array, labels: list[int]) -> Image.Image:
    """The photograph with each label's area tinted and its contour drawn, within the area.

    Args:
        pixels: (H, W) or (H, W, C), uint8 or uint16; of more than three channels the first is shown.
        mask: (H, W) labels.
        labels: those to draw; the first gets the first colour.
    """
    canvas = as_rgb(pixels).astype(np.float32)
    width = max(1, round(min(mask.shape) / PIXELS_PER_LINE))
    for index, label in enumerate(labels):
        area = mask == label
        if not area.any():
            continue
        colour = np.array(COLOURS[colour_of(index)], np.float32)
        canvas[area] += FILL * (colour - canvas[area])
        canvas[area & ~binary_erosion(area, iterations=width, border_value=1)] = colour
    return Image.fromarray(canvas.round().astype(np.uint8))


def as_rgb(pixels: Array) -> Array:
    """(H, W, 3) uint8; 16 bits are shown between the darkest and the brightest value."""
    if pixels.dtype != np.uint8:
        low, high = int(pixels.min()), int(pixels.max())
        pixels = ((pixels.astype(np.float32) - low) * (255 / max(high - low, 1))).round().astype(np.uint8)
    if pixels.ndim == 3 and pixels.shape[2] != 3:
        pixels = pixels[..., 0]
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels
