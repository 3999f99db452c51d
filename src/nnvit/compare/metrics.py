"""What is measured of one label of one case."""

METRICS = ("dice", "iou", "sensitivity", "precision", "nsd", "hd95_mm", "cldice")
"""Columns of `cases` that are compared; the reference must not be empty."""

LOWER_IS_BETTER = {"hd95_mm", "fp_volume_mm3"}
"""All other metrics are better when they are higher."""

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
