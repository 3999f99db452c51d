"""A table of odd files: each is imported so that stock nnU-Net's own reader finds the right pixels, or refused in words.

What is accepted is read back through nnU-Net's own listing of a raw data set and the reader class that dataset.json
names, and compared number for number with what was put in and with what `read_image` makes of the original.
"""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
import tifffile
from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name
from nnunetv2.utilities.utils import create_paths_fn, get_identifiers_from_splitted_dataset_folder
from PIL import Image

from nnvit.data.image_reading import read_image

from .conftest import Workplace, with_palette

H, W = 40, 48
"""Larger than the number of channels that a last axis may have."""
SEEDED = np.random.default_rng(7)
RGB = SEEDED.integers(0, 256, (H, W, 3), dtype=np.uint8)
GREY = RGB[..., 0]
FIVE = SEEDED.integers(0, 256, (H, W, 5), dtype=np.uint8)
DEEP = SEEDED.integers(0, 65536, (H, W, 3), dtype=np.uint16)
REAL = SEEDED.normal(size=(H, W)).astype(np.float32)
ALPHA = np.full((H, W), 255, np.uint8)
CLEAR = np.where(np.arange(W) < 5, 9, ALPHA).astype(np.uint8)

LABEL = np.zeros((H, W), np.uint8)
LABEL[10:20, 10:30] = 1
TWO = LABEL.copy()
TWO[25:30, 5:9] = 2
BINARY = LABEL * np.uint8(255)

VOXELS = SEEDED.integers(-1000, 1000, (7, 9, 11)).astype(np.int16)
"""(D, H, W)"""
CUBE = np.zeros(VOXELS.shape, np.uint8)
CUBE[2:4, 3:6, 4:8] = 1
SPACING = (0.5, 0.75, 3.0)
ORIGIN = (-12.5, 30.0, 7.25)
TURN = (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)

ZSCORE = {"normalization": "zscore"}
RED, GREEN, BLACK, WHITE = (255, 0, 0), (0, 128, 0), (0, 0, 0), (255, 255, 255)


def painted(labels: np.ndarray, *colours: tuple[int, int, int]) -> np.ndarray:
    return np.array(colours, np.uint8)[labels]


def tiff(name: str, pixels: np.ndarray, **options: Any) -> Callable[[Path], None]:
    return lambda folder: tifffile.imwrite(folder / name, pixels, **options)


def picture(name: str, pixels: Any, **options: Any) -> Callable[[Path], None]:
    shown = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.ascontiguousarray(pixels))
    return lambda folder: shown.save(folder / name, **options)


def itk(name: str, pixels: np.ndarray, vector: bool = False, **geometry: Any) -> Callable[[Path], None]:
    """Writes with SimpleITK: NIfTI, and PNG with 16 bits per colour channel."""

    def write(folder: Path) -> None:
        image = SimpleITK.GetImageFromArray(pixels, isVector=vector)
        for what, value in geometry.items():
            getattr(image, f"Set{what.capitalize()}")(value)
        SimpleITK.WriteImage(image, str(folder / name), True)

    return write


def nifti(
    name: str, pixels: np.ndarray, affine: np.ndarray | None = None, slope: float | None = None
) -> Callable[[Path], None]:
    """Writes with nibabel, with axes (x, y, z, ...)."""

    def write(folder: Path) -> None:
        image = nibabel.Nifti1Image(pixels, np.eye(4) if affine is None else affine)
        if slope is not None:
            image.header.set_slope_inter(slope, 3)
        nibabel.save(image, folder / name)

    return write


def cut(write: Callable[[Path], None], share: float, repack: bool = False) -> Callable[[Path], None]:
    """Keeps only the beginning of the file, or of its compressed content."""

    def write_part(folder: Path) -> None:
        write(folder)
        (path,) = folder.iterdir()
        content = gzip.decompress(path.read_bytes()) if repack else path.read_bytes()
        content = content[: int(share * len(content))]
        path.write_bytes(gzip.compress(content) if repack else content)

    return write_part


def renamed(write: Callable[[Path], None], name: str) -> Callable[[Path], None]:
    def write_and_rename(folder: Path) -> None:
        write(folder)
        (path,) = folder.iterdir()
        path.rename(folder / name)

    return write_and_rename


def both(*writes: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda folder: [write(folder) for write in writes] and None


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def channels_first(pixels: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, C) -> (C, 1, H, W) float32, as nnU-Net reads a picture."""
    return np.moveaxis(pixels[..., None] if pixels.ndim == 2 else pixels, -1, 0)[:, None].astype(np.float32)


def volume(*planes: np.ndarray) -> np.ndarray:
    return np.stack(planes).astype(np.float32)


PLAIN = picture("a.png", RGB)
BINARY_MASK = picture("a.png", BINARY)


@dataclass(frozen=True)
class Good:
    """Files that are imported."""

    image: Callable[[Path], None]
    expected: np.ndarray
    """The array that stock nnU-Net reads from the image, (C, D, H, W)."""
    mask: Callable[[Path], None] = BINARY_MASK
    label: np.ndarray = field(default_factory=lambda: LABEL)
    options: dict[str, Any] = field(default_factory=dict)
    words: str = ""
    """The text that the report must contain."""


BOX = itk("a.nii.gz", CUBE)
PLACED = {"spacing": SPACING, "origin": ORIGIN, "direction": TURN}
PAIR_OF_MASKS = {"masks_by_label": ["MA", "EX"]}

GOOD = {
    "bmp": Good(picture("a.bmp", RGB), channels_first(RGB)),
    "suffix in capitals": Good(picture("a.BMP", RGB), channels_first(RGB), picture("a.PNG", BINARY)),
    "png on its side": Good(picture("a.png", np.rot90(RGB), exif=orientation(6)), channels_first(RGB), words="upright"),
    "tiff on its side": Good(
        tiff("a.tif", np.rot90(RGB), extratags=[(274, 3, 1, 6, True)]), channels_first(RGB), words="upright"
    ),
    "rgb with opaque alpha": Good(
        picture("a.png", np.dstack([RGB, ALPHA])), channels_first(RGB), words="had an opaque alpha channel"
    ),
    "grey with opaque alpha": Good(
        picture("a.png", np.dstack([GREY, ALPHA])), channels_first(GREY), words="had an opaque alpha channel"
    ),
    "tiff with opaque alpha": Good(
        tiff("a.tif", np.dstack([RGB, ALPHA])), channels_first(RGB), words="had an opaque alpha channel"
    ),
    "alpha that is named a channel": Good(
        tiff("a.tif", np.dstack([RGB, CLEAR])),
        channels_first(np.dstack([RGB, CLEAR])),
        options=ZSCORE | {"channel_names": ("R", "G", "B", "NIR")},
    ),
    "png alpha that is named a channel": Good(
        picture("a.png", np.dstack([RGB, CLEAR])),
        channels_first(np.dstack([RGB, CLEAR])),
        options={"channel_names": ("R", "G", "B", "NIR")},
    ),
    "fourth sample that is no alpha": Good(
        tiff("a.tif", np.dstack([RGB, CLEAR]), photometric="rgb", extrasamples=["unspecified"]),
        channels_first(np.dstack([RGB, CLEAR])),
    ),
    "palette": Good(picture("a.png", with_palette(LABEL, *GREEN, *RED)), channels_first(painted(LABEL, GREEN, RED))),
    "palette tiff": Good(
        picture("a.tif", with_palette(LABEL, *GREEN, *RED)), channels_first(painted(LABEL, GREEN, RED))
    ),
    "bilevel": Good(picture("a.png", Image.fromarray(BINARY).convert("1")), channels_first(BINARY)),
    "bilevel fax": Good(
        picture("a.tif", Image.fromarray(BINARY).convert("1"), compression="group4"), channels_first(BINARY)
    ),
    "white is zero": Good(tiff("a.tif", GREY, photometric="miniswhite"), channels_first(255 - GREY)),
    "16-bit grey": Good(picture("a.png", DEEP[..., 0]), channels_first(DEEP[..., 0]), options=ZSCORE),
    "16-bit colour png": Good(itk("a.png", DEEP, vector=True), channels_first(DEEP), options=ZSCORE),
    "16-bit colour tiff": Good(tiff("a.tif", DEEP, byteorder=">"), channels_first(DEEP), options=ZSCORE),
    "float with opaque alpha": Good(
        tiff("a.tif", np.dstack([REAL, np.ones_like(REAL)]), photometric="minisblack", extrasamples=["unassalpha"]),
        channels_first(REAL),
        options=ZSCORE,
        words="had an opaque alpha channel",
    ),
    "float": Good(tiff("a.tif", REAL), channels_first(REAL), options=ZSCORE),
    "five samples": Good(tiff("a.tif", FIVE, photometric="minisblack", planarconfig="contig"), channels_first(FIVE)),
    "five planes": Good(
        tiff("a.tif", np.moveaxis(FIVE, -1, 0), photometric="minisblack", planarconfig="separate", compression="lzw"),
        channels_first(FIVE),
    ),
    "five channels as scikit-image saves them": Good(
        tiff("a.tif", FIVE, photometric="minisblack"), channels_first(FIVE)
    ),
    "two samples": Good(
        tiff("a.tiff", FIVE[..., :2], photometric="minisblack", planarconfig="contig"), channels_first(FIVE[..., :2])
    ),
    "ImageJ channels": Good(
        tiff("a.tif", np.moveaxis(FIVE, -1, 0), imagej=True, metadata={"axes": "CYX"}), channels_first(FIVE)
    ),
    "pages that are named channels": Good(
        tiff("a.tif", np.moveaxis(FIVE, -1, 0), photometric="minisblack"),
        channels_first(FIVE),
        options={"channel_names": tuple("abcde")},
    ),
    "tiff called png": Good(
        lambda folder: tifffile.imwrite(str(folder / "a.png"), FIVE, photometric="minisblack"), channels_first(FIVE)
    ),
    "volume": Good(itk("a.nii.gz", VOXELS, **PLACED), volume(VOXELS), itk("a.nii.gz", CUBE, **PLACED), CUBE),
    "volume that is not packed": Good(
        itk("a.nii", VOXELS, **PLACED), volume(VOXELS), itk("a.nii", CUBE, **PLACED), CUBE
    ),
    "volume with a scale": Good(
        nifti("a.nii.gz", VOXELS.T, slope=0.5), volume(VOXELS * 0.5 + 3), nifti("a.nii.gz", CUBE.T), CUBE
    ),
    "one point in time": Good(
        nifti("a.nii.gz", VOXELS.T[..., None]), volume(VOXELS), nifti("a.nii.gz", CUBE.T[..., None]), CUBE
    ),
    "fourth dimension that is named channels": Good(
        nifti("a.nii.gz", np.stack([VOXELS.T, VOXELS.T + 1], axis=-1)),
        volume(VOXELS, VOXELS + 1),
        nifti("a.nii.gz", CUBE.T),
        CUBE,
        {"channel_names": ("T1", "T2")},
    ),
    "vector volume": Good(
        itk("a.nii.gz", np.stack([VOXELS, VOXELS + 1], axis=-1), vector=True), volume(VOXELS, VOXELS + 1), BOX, CUBE
    ),
    "flat NIfTI": Good(
        itk("a.nii.gz", VOXELS[0], spacing=(0.5, 0.25)),
        volume(VOXELS[:1]),
        itk("a.nii.gz", CUBE[2], spacing=(0.5, 0.25)),
        CUBE[2],
    ),
    "mask stored as real numbers": Good(
        itk("a.nii.gz", VOXELS), volume(VOXELS), itk("a.nii.gz", CUBE.astype(np.float32)), CUBE
    ),
    "mask whose origin is rounded": Good(
        itk("a.nii.gz", VOXELS, **PLACED),
        volume(VOXELS),
        itk("a.nii.gz", CUBE, **PLACED | {"origin": (-12.501, 30.0, 7.25)}),
        CUBE,
    ),
    "coloured mask": Good(
        picture("a.bmp", RGB),
        channels_first(RGB),
        picture("a.bmp", painted(TWO, BLACK, RED, GREEN)),
        TWO,
        {"labels": {"vessel": RED, "disc": GREEN}},
    ),
    "labels numbered as named, not by colour": Good(
        PLAIN,
        channels_first(RGB),
        picture("a.png", painted(TWO, BLACK, GREEN, RED)),
        np.array([0, 2, 1], np.uint8)[TWO],
        {"labels": {"disc": RED, "vessel": GREEN}},
    ),
    "coloured palette by its colours": Good(
        PLAIN,
        channels_first(RGB),
        picture("a.gif", with_palette(TWO, *BLACK, *RED, *GREEN)),
        TWO,
        {"labels": {"vessel": RED, "disc": GREEN}},
    ),
    "coloured palette by its indices": Good(
        PLAIN, channels_first(RGB), picture("a.gif", with_palette(TWO, *BLACK, *RED, *GREEN)), TWO
    ),
    "white ground": Good(
        PLAIN,
        channels_first(RGB),
        picture("a.png", np.dstack([painted(LABEL, WHITE, RED), ALPHA])),
        LABEL,
        {"labels": {"background": WHITE, "vessel": RED}},
    ),
    "grey mask stored as RGB": Good(
        PLAIN,
        channels_first(RGB),
        picture("a.png", np.dstack([BINARY] * 3)),
        options={"labels": {"v": 255}},
    ),
    "bilevel gif mask": Good(PLAIN, channels_first(RGB), picture("a.gif", Image.fromarray(BINARY).convert("1"))),
    "bilevel bmp mask": Good(PLAIN, channels_first(RGB), picture("a.bmp", Image.fromarray(BINARY).convert("1"))),
    "a mask per label": Good(
        PLAIN,
        channels_first(RGB),
        both(picture("a_MA.png", BINARY), picture("a_EX.tif", painted(TWO // 2, BLACK, RED))),
        TWO,
        PAIR_OF_MASKS,
    ),
    "a volume's mask per label": Good(
        renamed(itk("a.nii.gz", VOXELS, **PLACED), "a.NII.GZ"),
        volume(VOXELS),
        both(
            itk("a_MA.nii.gz", CUBE * np.uint8(9), **PLACED),
            itk("a_EX.nii.gz", np.roll(CUBE, 3, axis=0).astype(np.float32), **PLACED),
        ),
        CUBE + 2 * np.roll(CUBE, 3, axis=0),
        PAIR_OF_MASKS,
    ),
    "16-bit mask of the other byte order": Good(
        PLAIN, channels_first(RGB), tiff("a.tif", BINARY.astype(np.uint16), byteorder=">")
    ),
    "a mask per label with a black palette": Good(
        PLAIN,
        channels_first(RGB),
        both(picture("a_MA.png", with_palette(LABEL, *BLACK, *BLACK)), picture("a_EX.png", TWO // 2)),
        TWO,
        PAIR_OF_MASKS,
    ),
    "masks that overlap, in order": Good(
        PLAIN,
        channels_first(RGB),
        both(picture("a_MA.png", BINARY), picture("a_EX.png", (TWO > 0).astype(np.uint8))),
        TWO,
        PAIR_OF_MASKS | {"overlap": "first"},
        "overlapped in 200 pixels of 1 images",
    ),
}


@pytest.mark.parametrize("odd", GOOD.values(), ids=GOOD)
def test_stock_nnunet_reads_the_right_pixels(place: Workplace, odd: Good) -> None:
    odd.image(place.root / "images")
    odd.mask(place.root / "masks")
    report = place.run(**with_folders(place, odd.options))
    assert odd.words in "\n".join(report.lines())
    image, properties, label, label_properties = stock_reading(place.target)
    assert np.array_equal(image, odd.expected)
    assert np.array_equal(label, odd.label.reshape(1, *odd.expected.shape[1:]))
    assert len(report.channel_names) == len(odd.expected)
    np.testing.assert_allclose(label_properties["spacing"], properties["spacing"])
    names = odd.options.get("channel_names")
    (original,) = (place.root / "images").iterdir()
    own, own_properties = read_image(original, len(names) if names else None).as_nnunet()
    assert own.dtype == image.dtype
    assert np.array_equal(own, image)
    np.testing.assert_allclose(own_properties["spacing"], properties["spacing"])
    for what, value in properties.get("sitk_stuff", {}).items():
        np.testing.assert_allclose(own_properties["sitk_stuff"][what], value)
        np.testing.assert_allclose(label_properties["sitk_stuff"][what], value)


@dataclass(frozen=True)
class Bad:
    """Files that are refused."""

    image: Callable[[Path], None]
    words: tuple[str, ...]
    mask: Callable[[Path], None] = BINARY_MASK
    options: dict[str, Any] = field(default_factory=dict)


BLURRED = np.clip(BINARY.astype(int) + SEEDED.integers(-20, 20, BINARY.shape), 0, 255).astype(np.uint8)

BAD = {
    "real alpha": Bad(
        picture("a.png", np.dstack([RGB, CLEAR])),
        ("a.png has 200 pixels that are not opaque", "save it without an alpha channel", "--channel-names"),
    ),
    "grey with real alpha": Bad(picture("a.png", np.dstack([GREY, CLEAR])), ("200 pixels that are not opaque",)),
    "float with real alpha": Bad(
        tiff(
            "a.tif", np.dstack([REAL, CLEAR / np.float32(255)]), photometric="minisblack", extrasamples=["unassalpha"]
        ),
        ("200 pixels that are not opaque",),
    ),
    "tiff with real alpha": Bad(tiff("a.tif", np.dstack([RGB, CLEAR])), ("200 pixels that are not opaque",)),
    "deep png with real alpha": Bad(
        itk("a.png", np.dstack([DEEP, CLEAR.astype(np.uint16)]), vector=True), ("1920 pixels that are not opaque",)
    ),
    "pages": Bad(
        tiff("a.tif", np.moveaxis(FIVE, -1, 0), photometric="minisblack"),
        ("a.tif holds 5 pages", "name them with --channel-names", "save it as .nii.gz"),
    ),
    "slices": Bad(
        tiff("a.tif", np.moveaxis(FIVE, -1, 0), imagej=True, metadata={"axes": "ZYX"}), ("holds 5 slices of a volume",)
    ),
    "pages of several sizes": Bad(
        picture("a.tif", RGB, save_all=True, append_images=[Image.fromarray(RGB[:20])]),
        ("a.tif holds 2 pictures of several sizes",),
    ),
    "cut tiff": Bad(
        cut(tiff("a.tif", FIVE, compression="zlib", photometric="minisblack"), 0.7), ("a.tif cannot be read",)
    ),
    "infinite pixels": Bad(
        tiff("a.tif", np.where(LABEL > 0, np.inf, REAL).astype(np.float32)), ("a.tif has 200 pixels that are NaN",)
    ),
    "CMYK tiff": Bad(picture("a.tif", Image.new("CMYK", (W, H))), ("a.tif has pixels of type", "SEPARATED")),
    "float with rgb01": Bad(tiff("a.tif", REAL), ("values of type float32", "--normalization zscore")),
    "another number of channels": Bad(
        PLAIN, ("--channel-names gives 2 names, but the images have 3 channels",), options={"channel_names": ("a", "b")}
    ),
    "one channel and three": Bad(
        both(PLAIN, picture("b.png", GREY)),
        ("1 with 1 (e.g. b.png) and 1 with 3 (e.g. a.png)",),
        both(picture("a.png", BINARY), picture("b.png", BINARY)),
    ),
    "a picture among volumes": Bad(
        both(picture("b.png", GREY), itk("a.nii.gz", VOXELS)),
        ("1 pictures (e.g. b.png) and 1 volumes (e.g. a.nii.gz)", "a data set of its own"),
        both(picture("b.png", BINARY), BOX),
    ),
    "a volume with a flat mask": Bad(itk("a.nii.gz", VOXELS), ("differ in kind: volumes, pictures",)),
    "NaN voxels": Bad(
        itk("a.nii.gz", np.where(CUBE > 0, np.nan, VOXELS).astype(np.float32)),
        ("a.nii.gz has 24 voxels that are NaN or infinite",),
        BOX,
    ),
    "four dimensions": Bad(
        nifti("a.nii.gz", np.stack([VOXELS.T] * 3, axis=-1)),
        ("a.nii.gz has 4 dimensions (11x9x7x3)", "name them with --channel-names", "points in time"),
        BOX,
    ),
    "shear": Bad(
        nifti("a.nii.gz", VOXELS.T, np.array([[1, 0.4, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])),
        ("a.nii.gz cannot be read", "orthonormal", "without shear"),
        BOX,
    ),
    "cut volume": Bad(cut(itk("a.nii.gz", VOXELS), 0.5), ("a.nii.gz cannot be read", "cut short"), BOX),
    "volume packed after it was cut": Bad(
        cut(itk("a.nii.gz", VOXELS), 0.5, repack=True), ("a.nii.gz cannot be read", "cut short"), BOX
    ),
    "complex volume": Bad(nifti("a.nii.gz", VOXELS.T.astype(np.complex64)), ("complex voxels",), BOX),
    "mask with another spacing": Bad(
        itk("a.nii.gz", VOXELS),
        ("image a.nii.gz and mask a.nii.gz do not lie in the same place: spacing (1, 1, 1) against (1, 1, 2)",),
        itk("a.nii.gz", CUBE, spacing=(1.0, 1.0, 2.0)),
    ),
    "mask in another place": Bad(
        itk("a.nii.gz", VOXELS), ("origin (0, 0, 0) against (5, 0, 0)",), itk("a.nii.gz", CUBE, origin=(5.0, 0.0, 0.0))
    ),
    "mask of another size": Bad(
        itk("a.nii.gz", VOXELS), ("has 11x9x7 voxels, but mask a.nii.gz has 11x9x6",), itk("a.nii.gz", CUBE[1:])
    ),
    "mask resampled with smoothing": Bad(
        itk("a.nii.gz", VOXELS),
        ("mask a.nii.gz has 24 voxels that are not whole numbers", "nearest neighbour"),
        itk("a.nii.gz", CUBE * np.float32(0.5)),
    ),
    "jpeg mask": Bad(
        PLAIN, ("mask a.jpg is a JPEG, which is lossy", "values where a mask has a few"), picture("a.jpg", BLURRED)
    ),
    "jpeg mask of two values": Bad(
        PLAIN,
        ("mask a.jpg is a JPEG, which is lossy", "2 values look whole", "export the masks again as PNG"),
        picture(
            "a.jpg", np.where(np.arange(W) < 16, np.uint8(0), np.uint8(255)) + np.zeros((H, 1), np.uint8), quality=100
        ),
    ),
    "jpeg mask called png": Bad(
        PLAIN, ("mask a.png is a JPEG, which is lossy",), picture("a.png", BLURRED, format="jpeg")
    ),
    "jpeg mask inside a tiff": Bad(
        PLAIN, ("mask a.tif is a JPEG, which is lossy",), picture("a.tif", BLURRED, compression="jpeg")
    ),
    "a picture for a mask": Bad(
        PLAIN,
        ("mask a.png holds 1920 colours: it is a picture rather than a mask", "smoothing"),
        picture("a.png", RGB),
        {"labels": {"vessel": RED}},
    ),
    "moving gif mask": Bad(
        PLAIN,
        ("a.gif holds 2 pages",),
        picture("a.gif", BINARY, save_all=True, append_images=[Image.fromarray(255 - BINARY)]),
    ),
    "colours without names": Bad(
        PLAIN,
        ("mask a.png is in colour: its channels differ in 220 pixels, most often by #ff0000", "--label NAME=#ff0000"),
        picture("a.png", painted(TWO, BLACK, RED, GREEN)),
    ),
    "a colour that is not declared": Bad(
        PLAIN,
        ("mask a.png: colour #008000 (20 pixels); expected #000000, #ff0000", "--label vessel=#ff0000"),
        picture("a.png", painted(TWO, BLACK, RED, GREEN)),
        {"labels": {"vessel": RED}},
    ),
    "colours and values mixed": Bad(PLAIN, ("mix values and colours",), options={"labels": {"vessel": RED, "disc": 3}}),
    "one colour for two labels": Bad(PLAIN, ("several names",), options={"labels": {"vessel": RED, "disc": RED}}),
    "black for a label": Bad(PLAIN, ("value #000000 is the background",), options={"labels": {"vessel": BLACK}}),
    "masks that overlap": Bad(
        PLAIN,
        ("masks masks/a_MA.png, masks/a_EX.png overlap in 200 pixels", "--overlap first"),
        both(picture("a_MA.png", BINARY), picture("a_EX.png", (TWO > 0).astype(np.uint8))),
        PAIR_OF_MASKS,
    ),
    "a missing mask": Bad(
        both(PLAIN, picture("b.png", RGB)),
        ("image b.png: no mask 'b_EX' for EX", "--allow-missing-masks"),
        both(*(picture(f"{name}.png", BINARY) for name in ("a_MA", "a_EX", "b_MA"))),
        PAIR_OF_MASKS,
    ),
    "no mask at all": Bad(
        both(PLAIN, picture("b.png", RGB)),
        ("image b.png: no mask 'b_MA' for MA", "and no mask 'b_EX' for EX"),
        both(picture("a_MA.png", BINARY), picture("a_EX.png", BINARY)),
        PAIR_OF_MASKS | {"allow_missing_masks": True},
    ),
    "several values in one label's mask": Bad(
        PLAIN,
        ("mask masks/a_MA.png holds 3 values", "expected 0 and one other"),
        both(picture("a_MA.png", TWO), picture("a_EX.png", BINARY)),
        PAIR_OF_MASKS,
    ),
    "labels for masks that name them": Bad(
        PLAIN, ("--mask names a mask for each label",), options=PAIR_OF_MASKS | {"labels": {"MA": 255}}
    ),
    "one stem twice": Bad(both(PLAIN, picture("a.jpg", RGB)), ("a.jpg and a.png: case 'a'",)),
}


@pytest.mark.parametrize("odd", BAD.values(), ids=BAD)
def test_the_refusal_says_what_is_wrong(place: Workplace, odd: Bad) -> None:
    odd.image(place.root / "images")
    odd.mask(place.root / "masks")
    said = place.refusal(**with_folders(place, odd.options))
    for words in odd.words:
        assert words in said


def with_folders(place: Workplace, options: dict[str, Any]) -> dict[str, Any]:
    """Names of labels become patterns in the folder of masks."""
    if "masks_by_label" not in options:
        return options
    return options | {
        "masks_by_label": {name: place.root / "masks" / f"*_{name}" for name in options["masks_by_label"]}
    }


def stock_reading(folder: Path) -> tuple[np.ndarray, dict[str, Any], np.ndarray, dict[str, Any]]:
    """The one training case, as nnU-Net finds and reads it."""
    dataset = json.loads((folder / "dataset.json").read_text())
    images, ending = folder / "imagesTr", dataset["file_ending"]
    (case,) = get_identifiers_from_splitted_dataset_folder(str(images), ending)
    files = create_paths_fn(str(images), sorted(path.name for path in images.iterdir()), ending, case)
    reader = recursive_find_reader_writer_by_name(dataset["overwrite_image_reader_writer"])()
    return *reader.read_images(files), *reader.read_seg(str(folder / "labelsTr" / f"{case}{ending}"))
