"""Masks from all the formats that nnU-Net reads, as label maps with their geometry."""

import gzip
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from nnvit.errors import CompareError

NATURAL = (".png", ".bmp", ".gif", ".tif", ".tiff")
MEDICAL = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
ENDINGS = (*MEDICAL, *NATURAL)


@dataclass(frozen=True, kw_only=True)
class Mask:
    """A label map (H, W) or (D, H, W) of whole numbers.

    spacing: mm along each of its axes (1 for photographs, whose unit is the pixel). origin, direction: of the world, as
    SimpleITK has them; empty where the format knows none.
    """

    labels: np.ndarray
    spacing: tuple[float, ...]
    origin: tuple[float, ...] = ()
    direction: tuple[float, ...] = ()


def case_of(path: Path) -> str | None:
    """The name of the case, None for a file that is no mask."""
    name = path.name.lower()
    ending = next((ending for ending in ENDINGS if name.endswith(ending)), None)
    return path.name[: -len(ending)] if ending and not name.startswith(".") else None


def masks_in(folder: Path) -> dict[str, Path]:
    """Case -> file of all masks in a folder. Raises CompareError where two files have a case's name."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        case = case_of(path)
        if case is None or not path.is_file():
            continue
        if case in found:
            raise CompareError(
                f"{folder} holds two masks of the case '{case}', {found[case].name} and {path.name}; one of them must go."
            )
        found[case] = path
    return found


def read_mask(path: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    """Label map (H, W) or (D, H, W), and mm along each axis. Raises CompareError for a file that is none."""
    mask = read(path)
    return mask.labels, mask.spacing


def read(path: Path) -> Mask:
    """A mask with its geometry; a volume of one slice becomes a picture.

    Raises CompareError for a file that is cut short, is no image, or holds what no label map holds.
    """
    if not path.is_file():
        raise CompareError(f"{path} does not exist; every arm needs a mask of every case.")
    mask = _photograph(path) if path.suffix.lower() in NATURAL else _volume(path)
    return Mask(labels=_whole(mask.labels, path), spacing=mask.spacing, origin=mask.origin, direction=mask.direction)


def spacing_of(path: Path) -> tuple[float, ...]:
    """mm along each axis, from the header alone where the format has one."""
    if path.suffix.lower() in (".tif", ".tiff"):  # which may be volumes
        return _photograph(path).spacing
    if path.suffix.lower() in NATURAL:
        return 1.0, 1.0
    reader = _header(path)
    size, spacing = reader.GetSize()[::-1], reader.GetSpacing()[::-1]
    return tuple(spacing[1:]) if len(size) == 3 and size[0] == 1 else tuple(spacing)


def same_geometry(one: Mask, other: Mask) -> str:
    """What differs between two masks of one case, in words; empty where nothing does."""
    if one.labels.shape != other.labels.shape:
        return f"shape {_times(one.labels.shape)} against {_times(other.labels.shape)}"
    if not np.allclose(one.spacing, other.spacing, rtol=1e-3):
        return f"spacing {_times(one.spacing)} mm against {_times(other.spacing)} mm"
    if one.origin and other.origin:
        tolerance = 0.01 * min(one.spacing)
        if not np.allclose(one.origin, other.origin, rtol=0, atol=tolerance):
            return f"origin {_times(one.origin)} mm against {_times(other.origin)} mm"
        if not np.allclose(one.direction, other.direction, rtol=0, atol=1e-3):
            return "another orientation in space"
    return ""


def _photograph(path: Path) -> Mask:
    try:
        with Image.open(path) as image:
            frames = []
            for number in range(getattr(image, "n_frames", 1)):
                image.seek(number)
                frames.append(np.array(image))
    except (UnidentifiedImageError, OSError, SyntaxError, EOFError, ValueError) as error:
        raise _broken(path, error) from error
    labels = frames[0] if len(frames) == 1 else np.stack(frames)
    if frames[0].ndim == 3:
        if frames[0].shape[-1] > 4 or np.ptp(frames[0][..., :3], axis=-1).any():
            raise CompareError(
                f"{path} is a colour picture of {_times(labels.shape)}; a mask has one channel that holds the labels. "
                "Convert it, as `nnvit dataset import` does."
            )
        labels = labels[..., 0]
    return Mask(labels=labels, spacing=_sidecar(path, labels.ndim))


def _sidecar(path: Path, ndim: int) -> tuple[float, ...]:
    """nnU-Net keeps the spacing of a tif volume in a json file of its name."""
    beside = path.with_suffix(".json")
    if ndim == 3 and beside.is_file():
        spacing = tuple(float(mm) for mm in json.loads(beside.read_text(encoding="utf-8")).get("spacing", ()))
        if len(spacing) == ndim:
            return spacing
    return (1.0,) * ndim


def _volume(path: Path) -> Mask:
    import SimpleITK

    _check_whole_file(path)
    try:
        image = SimpleITK.ReadImage(str(path))
    except RuntimeError as error:
        raise _broken(path, error) from error
    labels, spacing = SimpleITK.GetArrayFromImage(image), tuple(image.GetSpacing()[::-1])
    if image.GetNumberOfComponentsPerPixel() != 1 or labels.ndim not in (2, 3):
        raise CompareError(
            f"{path} has the shape {_times(labels.shape)}; a mask is a picture or a volume with one channel, the labels."
        )
    if labels.ndim == 3 and labels.shape[0] == 1:
        labels, spacing = labels[0], spacing[1:]
    return Mask(labels=labels, spacing=spacing, origin=image.GetOrigin(), direction=image.GetDirection())


def _check_whole_file(path: Path) -> None:
    """SimpleITK fills what a cut .nii or .nii.gz lacks with zeros, without a word."""
    if path.name.lower().endswith(".gz"):
        try:
            with gzip.open(path) as file:
                while file.read(1 << 24):
                    pass
        except (EOFError, OSError, zlib.error) as error:
            raise _broken(path, error) from error
    elif path.suffix.lower() == ".nii":
        reader = _header(path)
        voxels = int(np.prod(reader.GetSize())) * reader.GetNumberOfComponents()
        wanted = 352 + voxels * _bytes_of(reader.GetPixelID())
        if path.stat().st_size < wanted:
            raise _broken(path, f"its header tells of {wanted} bytes, it has {path.stat().st_size}")


def _header(path: Path) -> Any:
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _broken(path, error) from error
    return reader


def _bytes_of(pixel_id: int) -> int:
    import SimpleITK

    return int(SimpleITK.GetArrayFromImage(SimpleITK.Image([1, 1], pixel_id)).itemsize)


def _whole(labels: np.ndarray, path: Path) -> np.ndarray:
    """As integers; label maps are sometimes stored as floats."""
    if labels.dtype == bool:
        return labels.astype(np.uint8)
    if np.issubdtype(labels.dtype, np.integer):
        return labels
    if not np.isfinite(labels).all() or (labels != np.rint(labels)).any():
        raise CompareError(
            f"{path} holds numbers that are not whole, or NaN; a mask holds labels. If these are probabilities, give the "
            "folder of the masks that were made from them."
        )
    return labels.astype(np.int64)


def _broken(path: Path, reason: object) -> CompareError:
    said = str(reason).strip().splitlines()
    return CompareError(
        f"{path} cannot be read as a mask: {said[-1] if said else 'it is not an image'}. The file is cut short or damaged; "
        "copy it again, or predict the case again."
    )


def _times(numbers: tuple[float, ...]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)


def some(names: Sequence[str], most: int = 10) -> str:
    """The first names of many, and how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
