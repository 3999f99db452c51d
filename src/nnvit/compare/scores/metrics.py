"""What is measured of one label of one case, and the rules where there is nothing to measure.

The counts are nnU-Net's own (`evaluate_predictions.py`), so that Dice and IoU equal its summary.json wherever the
reference is not empty. Where it is empty, nnU-Net gives NaN or 0 as the prediction has it, which breaks the pairing of
arms; here all metrics are NaN and the false-positive volume is a column of its own.
"""

from dataclasses import dataclass

import numpy as np

from .centerline import cl_dice
from .surface import surface_distances

METRICS = ("dice", "iou", "sensitivity", "precision", "nsd", "hd95_mm", "cldice")
"""Columns of `cases` that are compared; the reference must not be empty."""

LOWER_IS_BETTER = {"hd95_mm", "fp_volume_mm3"}
"""All other metrics are better when they are higher."""

NAMES = {
    "dice": "Dice",
    "iou": "IoU",
    "sensitivity": "sensitivity",
    "precision": "precision",
    "nsd": "NSD",
    "hd95_mm": "HD95",
    "cldice": "clDice",
    "fp_volume_mm3": "FP volume",
}
"""Columns of the table of cases, as the headline and the page name them."""
UNITS = {"mm": {"hd95_mm": "mm", "fp_volume_mm3": "mm³"}, "px": {"hd95_mm": "px", "fp_volume_mm3": "px"}}
"""Of the metrics that have one, by what the masks' spacing is in; the others lie between 0 and 1, and their differences are told
in points of 0.01."""

COLUMNS = (
    "dataset",
    "arm",
    "run",
    "fold",
    "case",
    "label",
    "n_ref",
    "n_pred",
    "dice",
    "iou",
    "sensitivity",
    "precision",
    "nsd",
    "hd95_mm",
    "cldice",
    "fp_volume_mm3",
    "missed",
)
"""Of the table of all cases (cases.csv), in this order."""

HD95_RULE = (
    "the larger of the two directed 95th percentiles, weighted by surface area; where a structure is missed, the diagonal "
    "of the image, the worst value possible"
)
NAN = float("nan")


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What is scored: name -> the values that belong to it, several for a region.

    ignore: voxels of this value in the reference count for nothing. tubular: names that get clDice. others: values that
    masks may hold besides, and that are not scored.
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


def score_case(
    reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...], labels: Labels, tolerance: float
) -> dict[str, dict[str, float | int | bool]]:
    """Label -> the columns from n_ref to missed, of two label maps of one shape; tolerance: of the NSD, in mm.

    `n_both` beside them is what both masks share, for the check against summary.json.
    """
    use = None if labels.ignore is None else reference != labels.ignore
    found = {}
    for name, values in labels.values.items():
        of_reference, of_prediction = _mask(reference, values, use), _mask(prediction, values, use)
        found[name] = score(of_reference, of_prediction, spacing, tolerance, tubular=name in labels.tubular)
    return found


def score(
    reference: np.ndarray,
    prediction: np.ndarray,
    spacing: tuple[float, ...],
    tolerance: float,
    *,
    tubular: bool = False,
) -> dict[str, float | int | bool]:
    """The columns from n_ref to missed, of two bool masks of one shape."""
    n_ref, n_pred = int(reference.sum()), int(prediction.sum())
    row: dict[str, float | int | bool] = {"n_ref": n_ref, "n_pred": n_pred} | dict.fromkeys(METRICS, NAN)
    both = int((reference & prediction).sum())
    row |= {"fp_volume_mm3": NAN, "missed": bool(n_ref and not n_pred), "n_both": both}
    if not n_ref:
        return row | {"fp_volume_mm3": n_pred * float(np.prod(spacing))}
    row |= {
        "dice": 2 * both / (n_ref + n_pred),
        "iou": both / (n_ref + n_pred - both),
        "sensitivity": both / n_ref,
        "precision": both / n_pred
        if n_pred
        else 0.0,  # the worst: what is NaN by what an arm predicts breaks the pairing
    }
    if not n_pred:
        worst = float(np.linalg.norm(np.multiply(reference.shape, spacing)))
        return row | {"nsd": 0.0, "hd95_mm": worst, "cldice": 0.0 if tubular else NAN}
    distances = surface_distances(reference, prediction, spacing)
    row |= {"nsd": distances.surface_dice(tolerance), "hd95_mm": distances.hausdorff(95)}
    return row | {"cldice": cl_dice(reference, prediction) if tubular else NAN}


def _mask(array: np.ndarray, values: tuple[int, ...], use: np.ndarray | None) -> np.ndarray:
    mask = array == values[0] if len(values) == 1 else np.isin(array, values)
    return mask if use is None else mask & use
