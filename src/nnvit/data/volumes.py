"""NIfTI volumes: read by SimpleITK, as nnU-Net does; files that it would alter silently are refused."""

import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK

from nnvit.errors import DataError

_NIFTI_ERRORS = (OSError, EOFError, ValueError, zlib.error, nibabel.filebasedimages.ImageFileError)


@dataclass(frozen=True)
class Geometry:
    """Position of a volume's voxels in the patient, in ITK's order of axes (x, y, z).

    spacing, origin: millimetres; direction: cosines, row by row.
    """

    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    @classmethod
    def of(cls, image: SimpleITK.Image | SimpleITK.ImageFileReader) -> "Geometry":
        """Takes the geometry of the first three axes."""
        axes = min(image.GetDimension(), 3)
        direction = np.array(image.GetDirection()).reshape(image.GetDimension(), -1)[:axes, :axes]
        return cls(
            spacing=tuple(image.GetSpacing()[:axes]),
            origin=tuple(image.GetOrigin()[:axes]),
            direction=tuple(direction.ravel().tolist()),
        )

    def difference(self, other: "Geometry") -> str:
        """Describes how the two differ beyond rounding; empty if they agree."""
        for name, tolerance in (("spacing", 1e-3), ("origin", 1e-2 * min(self.spacing)), ("direction", 1e-3)):
            mine, theirs = getattr(self, name), getattr(other, name)
            if len(mine) != len(theirs) or not np.allclose(mine, theirs, rtol=0, atol=tolerance):
                shown = ["(" + ", ".join(f"{value:g}" for value in values) + ")" for values in (mine, theirs)]
                return f"{name} {' against '.join(shown)}"
        return ""


def read_volume(path: Path, channels: int | None = None) -> tuple[np.ndarray, Geometry]:
    """Reads a 3D (or 2D) NIfTI file; a fourth dimension is taken for channels if it has as many as the user gave.

    Returns (D, H, W) voxels of the file's type, or (D, H, W, C) if each voxel holds a vector, and their geometry. Raises
    DataError for files that are unreadable, truncated, sheared, four-dimensional, complex, or not finite.
    """
    _refuse_damaged(path)
    try:
        image = SimpleITK.ReadImage(str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        sheared = "; resample it to a grid without shear" if "orthonormal" in reason else ""
        raise DataError(f"{path.name} cannot be read ({reason}){sheared}") from error
    voxels = SimpleITK.GetArrayFromImage(image)
    if np.iscomplexobj(voxels):
        raise DataError(f"{path.name} holds complex voxels; save their magnitude")
    if image.GetDimension() == 4:
        if len(voxels) != channels:
            raise DataError(
                f"{path.name} has 4 dimensions ({'x'.join(map(str, image.GetSize()))}); if the last are {len(voxels)} "
                "channels, name them with --channel-names; if they are points in time, save each as a volume of its own"
            )
        voxels = np.moveaxis(voxels, 0, -1)
    return voxels, Geometry.of(image)


def refuse_infinite(path: Path, values: np.ndarray, what: str) -> None:
    """Raises DataError if there are NaN or infinite values."""
    bad = 0 if values.dtype.kind != "f" else int(values.size - np.isfinite(values).sum())
    if bad:
        raise DataError(
            f"{path.name} has {bad} {what} that are NaN or infinite; replace them, e.g. by the background's value"
        )


def _refuse_damaged(path: Path) -> None:
    """Raises DataError for a truncated file and for voxels that are not finite; SimpleITK reads both as zeros."""
    try:
        image = nibabel.load(path)
        if not isinstance(image, nibabel.spatialimages.SpatialImage):
            raise ValueError("it is not a NIfTI file")
        voxels = np.asanyarray(image.dataobj)
    except _NIFTI_ERRORS as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path.name} cannot be read ({reason}); it may be cut short, replace it") from error
    refuse_infinite(path, voxels, "voxels")
