"""Draws masks on images: one mask over its photograph, and the preview of a few cases of an import."""

import random
from itertools import accumulate
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scipy.ndimage import binary_erosion

from .image_reading import Photo, read_image

_TILE = 480
"""Longer side of an image in the preview, in pixels."""
_GAP, _LINE = 8, 24
_LEAST_COVER = 1 / 3
"""A pixel of the preview belongs to a label if this share of it does, so that thin vessels survive the reduction."""
_GROW = (ImageFilter.MaxFilter(3), ImageFilter.MaxFilter(5))
"""Growth by one pixel, and by two."""
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
"""Colours of the labels in order; a ninth label gets the first again.

Okabe and Ito's, apart with every colour-vision deficiency (Wong, Nature Methods 2011), and white; those that a fundus
hides come last.
"""
FILL = 0.35
"""Share of the colour inside a contour."""
_PIXELS_PER_LINE = 500
"""A contour is one pixel wide per so many pixels of the shorter side."""


def draw(pixels: np.ndarray, mask: np.ndarray, labels: list[int]) -> Image.Image:
    """Tints each label's area in the photograph and draws its contour within the area.

    Args:
        pixels: (H, W) or (H, W, C), uint8 or uint16, which is stretched from the darkest to the brightest value; of more
            than three channels the first is shown.
        mask: (H, W) labels.
        labels: those to draw; the first gets the first colour.
    """
    if pixels.dtype != np.uint8:
        low, high = int(pixels.min()), int(pixels.max())
        pixels = ((pixels.astype(np.float32) - low) * (255 / max(high - low, 1))).round().astype(np.uint8)
    if pixels.ndim == 3 and pixels.shape[2] != 3:
        pixels = pixels[..., 0]
    canvas = np.array(Image.fromarray(pixels).convert("RGB"), np.float32)
    width = max(1, round(min(mask.shape) / _PIXELS_PER_LINE))
    for index, label in enumerate(labels):
        area = mask == label
        if not area.any():
            continue
        colour = np.array(_colour(index), np.float32)
        canvas[area] += FILL * (colour - canvas[area])
        canvas[area & ~binary_erosion(area, iterations=width, border_value=1)] = colour
    return Image.fromarray(canvas.round().astype(np.uint8))


def _colour(index: int) -> tuple[int, int, int]:
    """Returns the colour of the label with this rank, from 0."""
    return list(COLOURS.values())[index % len(COLOURS)]


def draw_preview(folder: Path, cases: list[str], ending: str, labels: dict[str, int], number: int) -> None:
    """Writes `preview.png` into a raw data set's folder: cases chosen at random, plain and with their labels' outlines.

    Args:
        cases: cases of the training set to choose from; the same cases give the same choice.
        ending: suffix of the cases' files.
        labels: name -> label, background included.
        number: how many cases to show.
    """
    chosen = sorted(random.Random(0).sample(cases, min(number, len(cases))))
    names = {label: name for name, label in labels.items() if label}
    tiles = [_tile(folder, case, ending, list(names)) for case in chosen]
    columns, width = min(2, len(tiles)), 2 * _TILE + 2 * _GAP
    heights = [max(tile.height for tile in tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    tops = list(accumulate(heights, initial=_GAP))
    sheet = Image.new("RGB", (_GAP + columns * width, tops[-1] + _LINE + _GAP), "white")
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (_GAP + i % columns * width, tops[i // columns]))
    _legend(ImageDraw.Draw(sheet), tops[-1], names)
    sheet.save(folder / "preview.png")


def _tile(folder: Path, case: str, ending: str, labels: list[int]) -> Image.Image:
    """Draws the case's name above its image and the same image with outlines.

    A volume is shown by its fullest slice. Its values, and others than 8 bits, are stretched: their 1st to 99th percentile
    becomes 0 to 255.
    """
    image = read_image(folder / "imagesTr" / f"{case}_0000{ending}")
    mask = read_image(folder / "labelsTr" / f"{case}{ending}").pixels
    title, shown, stretched = case, image.pixels, image.pixels.dtype != np.uint8
    if mask.ndim == 3:
        index = int((mask > 0).sum(axis=(1, 2)).argmax())
        title = f"{case}, slice {index} of {len(mask)}"
        shown, mask, stretched = shown[index], mask[index], True
    if stretched:
        low, high = np.percentile(shown, (1, 99))
        shown = (255 * np.clip((shown - low) / max(high - low, 1e-6), 0, 1)).astype(np.uint8)
    size = _display_size(image)
    plain = Image.fromarray(np.ascontiguousarray(shown)).convert("RGB").resize(size, Image.Resampling.LANCZOS)
    tile = Image.new("RGB", (2 * _TILE + _GAP, size[1] + _LINE + _GAP), "white")
    ImageDraw.Draw(tile).text((0, 0), title, fill="black", font=ImageFont.load_default(16))
    tile.paste(plain, (0, _LINE))
    tile.paste(_outlined(plain, mask, labels), (_TILE + _GAP, _LINE))
    return tile


def _display_size(image: Photo) -> tuple[int, int]:
    """Returns (width, height) on the sheet, in the proportions of the spacing."""
    height, width = image.size[-2:]
    spacing = image.geometry.spacing if image.geometry else (1, 1)
    across, down = width * spacing[0], height * spacing[1]
    scale = _TILE / max(across, down)
    return max(1, round(across * scale)), max(1, round(down * scale))


def _outlined(plain: Image.Image, mask: np.ndarray, labels: list[int]) -> Image.Image:
    """Draws a line around each label, and a dark one around that, which shows it on bright ground too."""
    drawn = np.asarray(plain).copy()
    lines = {}
    for label in labels:
        cover = Image.fromarray((mask == label).astype(np.uint8) * 255).resize(plain.size, Image.Resampling.BOX)
        shape = Image.fromarray((np.asarray(cover) >= 255 * _LEAST_COVER).astype(np.uint8))
        inside, wider, widest = (np.asarray(grown) > 0 for grown in (shape, *map(shape.filter, _GROW)))
        lines[label] = wider & ~inside
        around = widest & ~inside
        drawn[around] = np.asarray(plain)[around] // 3
    for label, line in lines.items():
        drawn[line] = _colour(label - 1)
    return Image.fromarray(drawn)


def _legend(draw: ImageDraw.ImageDraw, top: int, names: dict[int, str]) -> None:
    font = ImageFont.load_default(16)
    left = float(_GAP)
    for label, name in names.items():
        draw.rectangle((left, top + 3, left + 14, top + 17), fill=_colour(label - 1), outline="black")
        draw.text((left + 20, top), f"{name} ({label})", fill="black", font=font)
        left += 40 + draw.textlength(f"{name} ({label})", font=font)
