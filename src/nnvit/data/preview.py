"""A sheet of a few imported cases, each plain and with its labels' outlines: the quickest check that masks fit."""

import random
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from . import overlay
from .image_reading import read_image
from .photo import Array, Photo

PREVIEW_FILE = "preview.png"
TILE = 480
"""Longer side of an image on the sheet, in pixels."""
GAP, LINE = 8, 24
LEAST_COVER = 1 / 3
"""A pixel of the sheet belongs to a label if so much of it does, so that thin vessels survive the reduction."""
GROW = (ImageFilter.MaxFilter(3), ImageFilter.MaxFilter(5))
"""By one pixel, and by two."""


def draw_preview(folder: Path, cases: list[str], ending: str, labels: dict[str, int], number: int) -> None:
    """Write `preview.png` into a raw data set's folder; the same cases give the same choice.

    Args:
        cases: of the training set, to choose from.
        labels: name -> label, background included.
        number: how many cases to show.
    """
    chosen = sorted(random.Random(0).sample(cases, min(number, len(cases))))
    names = {label: name for name, label in labels.items() if label}
    tiles = [_tile(folder, case, ending, list(names)) for case in chosen]
    columns = 2 if len(tiles) > 1 else 1
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    heights = [max(tile.height for tile in row) for row in rows]
    width = GAP + columns * (2 * TILE + 2 * GAP)
    sheet = Image.new("RGB", (width, sum(heights) + LINE + 2 * GAP), "white")
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            sheet.paste(tile, (GAP + column * (2 * TILE + 2 * GAP), top))
        top += height
    _legend(ImageDraw.Draw(sheet), top, names)
    sheet.save(folder / PREVIEW_FILE)


def _tile(folder: Path, case: str, ending: str, labels: list[int]) -> Image.Image:
    """The case's name above its image and the same with outlines."""
    image = read_image(folder / "imagesTr" / f"{case}_0000{ending}")
    mask = read_image(folder / "labelsTr" / f"{case}{ending}").pixels
    title = case
    if mask.ndim == 3:
        index = int((mask > 0).sum(axis=(1, 2)).argmax())
        title = f"{case}, slice {index} of {len(mask)}"
        shown, mask = _visible(image.pixels[index], stretch=True), mask[index]
    else:
        shown = _visible(image.pixels, stretch=image.pixels.dtype != np.uint8)
    size = _display_size(image)
    plain = shown.resize(size, Image.Resampling.LANCZOS)
    outlined = _outlined(plain, mask, labels)
    tile = Image.new("RGB", (2 * TILE + GAP, size[1] + LINE + GAP), "white")
    ImageDraw.Draw(tile).text((0, 0), title, fill="black", font=ImageFont.load_default(16))
    tile.paste(plain, (0, LINE))
    tile.paste(outlined, (TILE + GAP, LINE))
    return tile


def _visible(pixels: Array, stretch: bool) -> Image.Image:
    """8-bit RGB, perhaps stretched from the values' 1st to their 99th percentile."""
    if stretch:
        low, high = np.percentile(pixels, (1, 99))
        pixels = (255 * np.clip((pixels - low) / max(high - low, 1e-6), 0, 1)).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")


def _display_size(image: Photo) -> tuple[int, int]:
    """(width, height) on the sheet, in the proportions of the spacing."""
    height, width = image.size[-2:]
    spacing = image.geometry.spacing if image.geometry else (1, 1)
    across, down = width * spacing[0], height * spacing[1]
    scale = TILE / max(across, down)
    return max(1, round(across * scale)), max(1, round(down * scale))


def _outlined(plain: Image.Image, mask: Array, labels: list[int]) -> Image.Image:
    """A line around each label, with a dark one around that, so that it shows on bright ground as well."""
    drawn = np.asarray(plain).copy()
    lines = {}
    for label in labels:
        cover = Image.fromarray((mask == label).astype(np.uint8) * 255).resize(plain.size, Image.Resampling.BOX)
        shape = Image.fromarray((np.asarray(cover) >= 255 * LEAST_COVER).astype(np.uint8))
        inside, wider, widest = (np.asarray(grown) > 0 for grown in (shape, *map(shape.filter, GROW)))
        lines[label] = wider & ~inside
        around = widest & ~inside
        drawn[around] = np.asarray(plain)[around] // 3
    for label, line in lines.items():
        drawn[line] = _colour(label)
    return Image.fromarray(drawn)


def _legend(draw: ImageDraw.ImageDraw, top: int, names: dict[int, str]) -> None:
    font = ImageFont.load_default(16)
    left = float(GAP)
    for label, name in names.items():
        draw.rectangle((left, top + 3, left + 14, top + 17), fill=_colour(label), outline="black")
        draw.text((left + 20, top), f"{name} ({label})", fill="black", font=font)
        left += 40 + draw.textlength(f"{name} ({label})", font=font)


def _colour(label: int) -> tuple[int, int, int]:
    return overlay.COLOURS[overlay.colour_of(label - 1)]
