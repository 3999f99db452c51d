"""The metrics of one label of one case, each declared once in `METRICS`, and the rules where there is nothing to measure.

The counts are nnU-Net's own (`evaluate_predictions.py`), so that Dice and IoU equal its summary.json wherever the
reference is not empty. Where it is empty, nnU-Net gives NaN or 0 depending on the prediction, which breaks the pairing of
arms; here every metric is NaN, and the false-positive volume is a metric of its own.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from typing import Any

import numpy as np
from scipy import ndimage

HD95_RULE = (
    "the larger of the two directed 95th percentiles, weighted by surface area; where a structure is missed, the diagonal "
    "of the image, the worst value possible"
)
NAN = float("nan")
POINTS = 100.0
"""Differences of metrics between 0 and 1 are shown in points of 0.01."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The labels that are scored: name -> the values that belong to it, several for a region.

    ignore: voxels of this value in the reference are not counted. tubular: names of labels that are thin and branch (they
    get clDice). others: values that masks may hold and that are not scored.
    """

    values: dict[str, tuple[int, ...]]
    ignore: int | None = None
    tubular: tuple[str, ...] = ()
    others: tuple[int, ...] = ()

    @property
    def known(self) -> set[int]:
        """All values that a mask may hold."""
        held = {value for values in self.values.values() for value in values} | {0, *self.others}
        return held | ({self.ignore} if self.ignore is not None else set())

    def score(
        self, reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...], tolerance: float
    ) -> dict[str, dict[str, Any]]:
        """Scores two label maps of one shape, (H, W) or (D, H, W): label -> the columns from n_ref to missed, and `n_both`.

        spacing: mm along each axis. tolerance: of the NSD, in mm. n_both: voxels that both masks share, for the check
        against summary.json.
        """
        counted = True if self.ignore is None else reference != self.ignore
        rows = {}
        for name, values in self.values.items():
            masks = [
                np.logical_or.reduce([array == value for value in values]) & counted
                for array in (reference, prediction)
            ]
            rows[name] = _LabelPair(masks[0], masks[1], spacing, tolerance).row(tubular=name in self.tubular)
        return rows


class _LabelPair:
    """The two bool masks of one label of one case, and quantities that several metrics share, each computed once.

    reference, prediction: (H, W) or (D, H, W). spacing: mm along each axis. tolerance: of the NSD, in mm.
    """

    def __init__(
        self, reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...], tolerance: float
    ) -> None:
        self.reference, self.prediction, self.spacing, self.tolerance = reference, prediction, spacing, tolerance
        self.n_ref, self.n_pred = int(reference.sum()), int(prediction.sum())
        self.n_both = int((reference & prediction).sum())

    @property
    def voxel(self) -> float:
        """The size of a voxel in mm³ (mm² in 2D)."""
        return float(np.prod(self.spacing))

    @property
    def diagonal(self) -> float:
        """The diagonal of the image, in mm."""
        return float(np.linalg.norm(np.multiply(self.reference.shape, self.spacing)))

    @cached_property
    def distances(self) -> "_SurfaceDistances":
        """The distances between the two surfaces; neither mask may be empty."""
        return _SurfaceDistances.between(self.reference, self.prediction, self.spacing)

    def row(self, *, tubular: bool = False) -> dict[str, Any]:
        """The columns from n_ref to missed, and `n_both`."""
        row: dict[str, Any] = {"n_ref": self.n_ref, "n_pred": self.n_pred}
        row |= {metric.key: metric.value(self, tubular=tubular) for metric in METRICS}
        return row | {"missed": bool(self.n_ref and not self.n_pred), "n_both": self.n_both}


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric: everything that scoring, statistics and the report need to know about it.

    key: its column in cases.csv and its key in stats.json. name: in the report. unit: in millimetres ("mm", "mm³"), which
    becomes "px" where the masks' spacing is in pixels; empty for a metric between 0 and 1. digits: decimals of a score.
    note: a few words for the caption of the table of scores.

    measure: computes it. missed: its value where the reference holds the label and the prediction does not; None lets
    `measure` compute it. on_empty: measured only where the reference is empty; otherwise only where it is not.
    tubular: measured only for labels named by --tubular.
    """

    key: str
    name: str
    measure: Callable[[_LabelPair], float]
    missed: Callable[[_LabelPair], float] | None = None
    unit: str = ""
    lower_is_better: bool = False
    digits: int = 4
    on_empty: bool = False
    tubular: bool = False
    note: str = ""

    def value(self, pair: _LabelPair, *, tubular: bool) -> float:
        """Returns the score, NaN where the metric is not defined."""
        if (self.tubular and not tubular) or self.on_empty != (pair.n_ref == 0):
            return NAN
        return (self.missed or self.measure)(pair) if pair.n_pred == 0 else self.measure(pair)

    def unit_in(self, spacing_unit: str) -> str:
        """Returns its unit where spacing is in `spacing_unit` ("mm" or "px")."""
        return "px" if self.unit and spacing_unit == "px" else self.unit

    def scale_in(self, spacing_unit: str) -> tuple[float, str]:
        """Returns the factor that differences are multiplied by when they are shown, and their unit."""
        return (1.0, self.unit_in(spacing_unit)) if self.unit else (POINTS, "points")

    def title_in(self, spacing_unit: str) -> str:
        """Returns its name with its unit, if it has one."""
        return f"{self.name} ({self.unit_in(spacing_unit)})" if self.unit else self.name


def _cl_dice(pair: _LabelPair) -> float:
    """Harmonic mean of the shares of each mask's centre line that lie in the other mask (Shit et al. 2021, arXiv 2003.07311)."""

    def share(mask: np.ndarray, other: np.ndarray) -> float:
        line = _center_line(mask)
        return float((line & other).sum() / line.sum())

    precision, sensitivity = share(pair.prediction, pair.reference), share(pair.reference, pair.prediction)
    return 2 * precision * sensitivity / (precision + sensitivity) if precision + sensitivity else 0.0


def _center_line(mask: np.ndarray) -> np.ndarray:
    """scikit-image's skeleton, completed so that every connected part of the mask has at least one voxel in it.

    The 3D skeleton of some solid parts is empty; the deepest voxels of such a part take its place.
    """
    from skimage.morphology import skeletonize

    skeleton = skeletonize(mask).astype(bool)
    parts, count = ndimage.label(mask, np.ones((3,) * mask.ndim))
    lost = np.setdiff1d(np.arange(1, count + 1), parts[skeleton])
    if lost.size:
        depth = ndimage.distance_transform_edt(np.pad(np.isin(parts, lost), 1))[(slice(1, -1),) * mask.ndim]
        deepest = np.concatenate([[0.0], ndimage.maximum(depth, parts, np.arange(1, count + 1))])
        skeleton |= (depth > 0) & (depth == deepest[parts])
    return skeleton


METRICS: tuple[Metric, ...] = (
    Metric(key="dice", name="Dice", measure=lambda pair: 2 * pair.n_both / (pair.n_ref + pair.n_pred)),
    Metric(key="iou", name="IoU", measure=lambda pair: pair.n_both / (pair.n_ref + pair.n_pred - pair.n_both)),
    Metric(key="sensitivity", name="sensitivity", measure=lambda pair: pair.n_both / pair.n_ref),
    # NaN for an empty prediction would depend on the arm, which breaks the pairing: the worst value instead
    Metric(key="precision", name="precision", measure=lambda pair: pair.n_both / pair.n_pred, missed=lambda pair: 0.0),
    Metric(
        key="nsd", name="NSD", measure=lambda pair: pair.distances.surface_dice(pair.tolerance), missed=lambda pair: 0.0
    ),
    Metric(
        key="hd95_mm", name="HD95", measure=lambda pair: pair.distances.hausdorff(95), missed=lambda pair: pair.diagonal,
        unit="mm", lower_is_better=True, digits=2,
    ),
    Metric(key="cldice", name="clDice", measure=_cl_dice, missed=lambda pair: 0.0, tubular=True),
    Metric(
        key="fp_volume_mm3", name="FP volume", measure=lambda pair: pair.n_pred * pair.voxel, unit="mm³",
        lower_is_better=True, digits=2, on_empty=True, note="of false positives, where the reference is empty",
    ),
)  # fmt: skip
"""All metrics, in the order of the columns of cases.csv."""


def metric_of(key: str) -> Metric:
    """Returns the metric of that key."""
    return next(metric for metric in METRICS if metric.key == key)


# --- surfaces ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _SurfaceDistances:
    """mm from each element of one surface to the other, and each element's size (mm, or mm² in 3D).

    The method is that of DeepMind's surface-distance (Nikolov et al. 2018, arXiv 1809.04430) and of MONAI with
    `use_subvoxels=True`: surface elements lie at the corners of voxels, where a neighbourhood of 2x2 (2x2x2) voxels is
    neither all inside nor all outside. The size of an element (mm of contour, mm² of surface) follows from which of its
    voxels are inside; the tables are computed here, by marching squares and by scikit-image's marching cubes. Everything
    beyond the image's border counts as outside.
    """

    from_reference: np.ndarray
    reference_sizes: np.ndarray
    from_prediction: np.ndarray
    prediction_sizes: np.ndarray

    @classmethod
    def between(cls, reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...]) -> "_SurfaceDistances":
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
        directed = []
        sides = (self.from_reference, self.reference_sizes), (self.from_prediction, self.prediction_sizes)
        for distances, sizes in sides:
            order = np.argsort(distances, kind="stable")
            share = np.cumsum(sizes[order]) / sizes.sum()
            place = int(np.searchsorted(share, percent / 100))
            directed.append(float(distances[order][min(place, len(order) - 1)]))
        return max(directed)


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
