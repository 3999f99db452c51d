"""Reads masks of all formats that nnU-Net reads, as label maps with their geometry."""

import gzip
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence, UnidentifiedImageError

from nnvit.errors import CompareError
from nnvit.records.json_files import read_json

NATURAL = (".png", ".bmp", ".gif", ".tif", ".tiff")
ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", *NATURAL)


@dataclass(frozen=True, kw_only=True)
class _LabelMap:
    """A label map (H, W) or (D, H, W) of whole numbers.

    spacing: mm along each of its axes (1 for photographs, whose unit is the pixel). origin, direction: as in SimpleITK;
    empty where the format has none.
    """

    labels: np.ndarray
    spacing: tuple[float, ...]
    origin: tuple[float, ...] = ()
    direction: tuple[float, ...] = ()

    def difference_to(self, other: "_LabelMap") -> str:
        """Describes how its geometry differs from that of another mask of the case; empty where it does not."""
        if self.labels.shape != other.labels.shape:
            return f"shape {_times(self.labels.shape)} against {_times(other.labels.shape)}"
        if not np.allclose(self.spacing, other.spacing, rtol=1e-3):
            return f"spacing {_times(self.spacing)} mm against {_times(other.spacing)} mm"
        if self.origin and other.origin:
            tolerance = 0.01 * min(self.spacing)
            if not np.allclose(self.origin, other.origin, rtol=0, atol=tolerance):
                return f"origin {_times(self.origin)} mm against {_times(other.origin)} mm"
            if not np.allclose(self.direction, other.direction, rtol=0, atol=1e-3):
                return "another orientation in space"
        return ""


def case_of(path: Path) -> str | None:
    """Returns the name of the case, None for a file that is no mask."""
    name = path.name.lower()
    ending = next((ending for ending in ENDINGS if name.endswith(ending)), None)
    return path.name[: -len(ending)] if ending and not name.startswith(".") else None


def masks_in(folder: Path) -> dict[str, Path]:
    """Returns case -> file of all masks in a folder. Raises CompareError where one case has two files."""
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


def read_mask(path: Path) -> _LabelMap:
    """Reads a mask with its geometry; a volume of one slice becomes 2D.

    Raises CompareError for a file that is cut short, is no image, or does not hold whole numbers.
    """
    if not path.is_file():
        raise CompareError(f"{path} does not exist; every arm needs a mask of every case.")
    mask = _photograph(path) if path.suffix.lower() in NATURAL else _volume(path)
    labels = mask.labels
    if labels.dtype == bool:
        return replace(mask, labels=labels.astype(np.uint8))
    if np.issubdtype(labels.dtype, np.integer):
        return mask
    if not np.isfinite(labels).all() or (labels != np.rint(labels)).any():
        raise CompareError(
            f"{path} holds numbers that are not whole, or NaN; a mask holds labels. If these are probabilities, give the "
            "folder of the masks that were made from them."
        )
    return replace(mask, labels=labels.astype(np.int64))  # label maps are sometimes stored as floats


def spacing_of(path: Path) -> tuple[float, ...]:
    """Returns the mm along each axis, from the header alone where the format has one."""
    if path.suffix.lower() in (".tif", ".tiff"):  # may be volumes
        return _photograph(path).spacing
    if path.suffix.lower() in NATURAL:
        return 1.0, 1.0
    reader = _header(path)
    spacing = tuple(reader.GetSpacing()[::-1])
    return spacing[1:] if reader.GetDimension() == 3 and reader.GetSize()[2] == 1 else spacing


def _photograph(path: Path) -> _LabelMap:
    with _reading(path), Image.open(path) as image:
        frames = [np.array(frame) for frame in ImageSequence.Iterator(image)]
    labels = frames[0] if len(frames) == 1 else np.stack(frames)
    if frames[0].ndim == 3:
        if frames[0].shape[-1] > 4 or np.ptp(frames[0][..., :3], axis=-1).any():
            raise CompareError(
                f"{path} is a colour picture of {_times(labels.shape)}; a mask has one channel that holds the labels. "
                "Convert it, as `nnvit dataset import` does."
            )
        labels = labels[..., 0]
    return _LabelMap(labels=labels, spacing=_sidecar(path, labels.ndim))


def _sidecar(path: Path, ndim: int) -> tuple[float, ...]:
    """The spacing of a tif volume, which nnU-Net keeps in a JSON file of the same name; 1 where there is none."""
    beside = path.with_suffix(".json")
    if ndim == 3 and beside.is_file():
        spacing = tuple(float(mm) for mm in read_json(beside, CompareError).get("spacing", ()))
        if len(spacing) == ndim:
            return spacing
    return (1.0,) * ndim


def _volume(path: Path) -> _LabelMap:
    import SimpleITK

    with _reading(path):
        _check_whole_file(path)
        image = SimpleITK.ReadImage(str(path))
    labels, spacing = SimpleITK.GetArrayFromImage(image), tuple(image.GetSpacing()[::-1])
    if image.GetNumberOfComponentsPerPixel() != 1 or labels.ndim not in (2, 3):
        raise CompareError(
            f"{path} has the shape {_times(labels.shape)}; a mask is a picture or a volume with one channel, the labels."
        )
    if labels.ndim == 3 and labels.shape[0] == 1:
        labels, spacing = labels[0], spacing[1:]
    return _LabelMap(labels=labels, spacing=spacing, origin=image.GetOrigin(), direction=image.GetDirection())


def _check_whole_file(path: Path) -> None:
    """Raises EOFError or zlib.error: SimpleITK silently fills the missing part of a .nii or .nii.gz with zeros."""
    if path.name.lower().endswith(".gz"):
        with gzip.open(path) as file:
            while file.read(1 << 24):
                pass
    elif path.suffix.lower() == ".nii":
        import SimpleITK

        reader = _header(path)
        voxels = int(np.prod(reader.GetSize())) * reader.GetNumberOfComponents()
        one = SimpleITK.GetArrayFromImage(SimpleITK.Image([1, 1], reader.GetPixelID()))
        wanted = 352 + voxels * one.itemsize
        if path.stat().st_size < wanted:
            raise EOFError(f"its header announces {wanted} bytes, it has {path.stat().st_size}")


def _header(path: Path) -> Any:
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    with _reading(path):
        reader.ReadImageInformation()
    return reader


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns the errors of the libraries at a file that is cut short or damaged into a CompareError."""
    try:
        yield
    except (UnidentifiedImageError, OSError, SyntaxError, EOFError, ValueError, RuntimeError, zlib.error) as error:
        said = str(error).strip().splitlines()
        raise CompareError(
            f"{path} cannot be read as a mask: {said[-1] if said else 'it is not an image'}. The file is cut short or "
            "damaged; copy it again, or predict the case again."
        ) from error


def _times(numbers: tuple[float, ...]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)


def some(names: Sequence[str], most: int = 10) -> str:
    """Returns the first names of many, and how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
