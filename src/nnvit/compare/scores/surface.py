"""Distances between the surfaces of two masks, with the size of the surface that each distance stands for.

The method is that of DeepMind's surface-distance (Nikolov et al. 2018, arXiv 1809.04430) and of MONAI with
`use_subvoxels=True`: surface elements lie at the corners of voxels, where a neighbourhood of 2x2 (2x2x2) voxels is neither
all inside nor all outside. The size of an element (mm of contour, mm² of surface) follows from which of its voxels are
inside; the tables are computed here, by marching squares and by scikit-image's marching cubes. Everything beyond the image's
border counts as outside.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from scipy import ndimage


@dataclass(frozen=True, kw_only=True)
class SurfaceDistances:
    """mm from each element of one surface to the other, and each element's size (mm, or mm² in 3D)."""

    from_reference: np.ndarray
    reference_sizes: np.ndarray
    from_prediction: np.ndarray
    prediction_sizes: np.ndarray

    @classmethod
    def between(cls, reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...]) -> "SurfaceDistances":
        """Measures two bool masks (H, W) or (D, H, W), neither of them empty; spacing: mm along each axis."""
        (box,) = ndimage.find_objects((reference | prediction).view(np.uint8))
        sizes = _element_sizes(spacing)
        codes = [_neighbour_codes(mask[box]) for mask in (reference, prediction)]
        surfaces = [(code != 0) & (code != len(sizes) - 1) for code in codes]
        distances = [ndimage.distance_transform_edt(~surface, sampling=spacing) for surface in surfaces]
        return cls(
            from_reference=distances[1][surfaces[0]],
            reference_sizes=sizes[codes[0][surfaces[0]]],
            from_prediction=distances[0][surfaces[1]],
            prediction_sizes=sizes[codes[1][surfaces[1]]],
        )

    def surface_dice(self, tolerance: float) -> float:
        """Normalised surface Dice (NSD): the share of both surfaces that lies within `tolerance` mm of the other one."""
        close = self.reference_sizes[self.from_reference <= tolerance].sum()
        close += self.prediction_sizes[self.from_prediction <= tolerance].sum()
        return float(close / (self.reference_sizes.sum() + self.prediction_sizes.sum()))

    def hausdorff(self, percent: float) -> float:
        """The larger of the two directed percentiles in mm, each weighted by the size of the surface."""
        return max(
            _weighted_percentile(self.from_reference, self.reference_sizes, percent),
            _weighted_percentile(self.from_prediction, self.prediction_sizes, percent),
        )


def _neighbour_codes(mask: np.ndarray) -> np.ndarray:
    """Returns, for each corner of voxels, one bit per voxel that meets there (4 or 8); one longer than `mask` along each axis."""
    padded = np.pad(mask, 1).view(np.uint8)
    codes = np.zeros([length + 1 for length in mask.shape], np.uint8)
    for bit, corner in enumerate(product((0, 1), repeat=mask.ndim)):
        window = tuple(slice(start, start + length) for start, length in zip(corner, codes.shape, strict=True))
        codes |= padded[window] << bit
    return codes


@lru_cache(maxsize=64)
def _element_sizes(spacing: tuple[float, ...]) -> np.ndarray:
    """The size of a surface element for each of the 16 (256) codes: mm of contour, or mm² of surface."""
    measure = _contour_length if len(spacing) == 2 else _surface_area
    count = 2**2 ** len(spacing)
    sizes = np.array([measure(code, spacing) if 0 < code < count - 1 else 0.0 for code in range(count)])
    sizes.setflags(write=False)
    return sizes


def _neighbourhood(code: int, ndim: int) -> np.ndarray:
    return np.array([code >> bit & 1 for bit in range(2**ndim)], bool).reshape((2,) * ndim)


def _contour_length(code: int, spacing: tuple[float, ...]) -> float:
    """Marching squares: half a diagonal cuts off a single voxel, a straight line two neighbours."""
    square = _neighbourhood(code, 2)
    half_diagonal = 0.5 * math.hypot(*spacing)
    if square.sum() in (1, 3):
        return half_diagonal
    if square[0, 0] == square[1, 1]:  # two voxels that touch at a corner: both are cut off
        return 2 * half_diagonal
    return spacing[1] if square[0, 0] == square[0, 1] else spacing[0]


def _surface_area(code: int, spacing: tuple[float, ...]) -> float:
    """Marching cubes. A neighbourhood and its inverse get the same area: the one with fewer voxels is measured."""
    from skimage.measure import marching_cubes, mesh_surface_area

    cube = _neighbourhood(code, 3)
    if cube.sum() > 4:
        cube = ~cube
    vertices, faces, _, _ = marching_cubes(cube.astype(np.float32), 0.5, spacing=spacing, method="lorensen")
    return float(mesh_surface_area(vertices, faces))


def _weighted_percentile(distances: np.ndarray, sizes: np.ndarray, percent: float) -> float:
    """The distance below which `percent` of the surface lies."""
    order = np.argsort(distances, kind="stable")
    share = np.cumsum(sizes[order]) / sizes.sum()
    place = int(np.searchsorted(share, percent / 100))
    return float(distances[order][min(place, len(order) - 1)])
