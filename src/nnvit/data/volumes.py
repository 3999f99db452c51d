"""NIfTI volumes, read as SimpleITK reads them, since nnU-Net does, and refused where it would bend them silently."""

import gzip
import shutil
import zlib
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK

from nnvit.errors import DataError

from .photo import Array, Geometry, Photo

NIFTI_ERRORS = (OSError, EOFError, ValueError, zlib.error, nibabel.filebasedimages.ImageFileError)


def read_volume(path: Path, channels: int | None = None) -> Photo:
    """Read a 3D (or 2D) NIfTI file; vectors in its voxels are channels.

    Args:
        channels: as many channels as the user says there are; only then a fourth dimension is read as channels.

    Raises:
        DataError: unreadable or cut short, sheared, four-dimensional, complex, or with voxels that are not finite.
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
        voxels = np.moveaxis(voxels, 0, -1) if len(voxels) == channels else _refuse_4d(path, image)
    return Photo(pixels=voxels, geometry=_geometry(image))


def write_volume(path: Path, voxels: Array, geometry: Geometry) -> None:
    """(D, H, W) voxels as a compressed NIfTI file."""
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(voxels))
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    SimpleITK.WriteImage(image, str(path), True)


def copy_volume(source: Path, target: Path) -> None:
    """The file as it is, header and all, in gzip's wrapping."""
    if source.name.lower().endswith(".gz"):
        shutil.copyfile(source, target)
        return
    with source.open("rb") as plain, target.open("wb") as out, gzip.GzipFile("", "wb", 6, out, mtime=0) as packed:
        shutil.copyfileobj(plain, packed)


def read_header(path: Path) -> tuple[Geometry, bool]:
    """The geometry, and whether nnU-Net's reader would see just one channel in the file as it is."""
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return _geometry(reader), reader.GetDimension() < 4 and reader.GetNumberOfComponents() == 1


def refuse_infinite(path: Path, values: Array, what: str) -> None:
    """Raise `DataError` if there are NaN or infinite values."""
    bad = 0 if values.dtype.kind != "f" else int(values.size - np.isfinite(values).sum())
    if bad:
        raise DataError(
            f"{path.name} has {bad} {what} that are NaN or infinite; replace them, e.g. by the background's value"
        )


def _refuse_damaged(path: Path) -> None:
    """SimpleITK fills what a truncated file lacks, and voxels that are not finite, with zeros, without a word."""
    try:
        image = nibabel.load(path)
        if not isinstance(image, nibabel.spatialimages.SpatialImage):
            raise ValueError("it is not a NIfTI file")
        voxels = np.asanyarray(image.dataobj)
    except NIFTI_ERRORS as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path.name} cannot be read ({reason}); it may be cut short, replace it") from error
    refuse_infinite(path, voxels, "voxels")


def _refuse_4d(path: Path, image: SimpleITK.Image) -> Array:
    size = "x".join(map(str, image.GetSize()))
    number = image.GetSize()[3]
    raise DataError(
        f"{path.name} has 4 dimensions ({size}); if the last are {number} channels, name them with --channel-names; "
        "if they are points in time, save each as a volume of its own"
    )


def _geometry(image: SimpleITK.Image | SimpleITK.ImageFileReader) -> Geometry:
    """Of the first three axes."""
    axes = min(image.GetDimension(), 3)
    direction = np.array(image.GetDirection()).reshape(image.GetDimension(), -1)[:axes, :axes]
    return Geometry(
        spacing=tuple(image.GetSpacing()[:axes]),
        origin=tuple(image.GetOrigin()[:axes]),
        direction=tuple(direction.ravel().tolist()),
    )
