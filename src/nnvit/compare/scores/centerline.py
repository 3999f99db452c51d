"""clDice: overlap of centre lines, for what is thin and branches (Shit et al. 2021, arXiv 2003.07311)."""

import numpy as np
from scipy import ndimage


def cl_dice(reference: np.ndarray, prediction: np.ndarray) -> float:
    """Harmonic mean of how much of each mask's centre line lies in the other mask; bool masks, neither of them empty."""
    precision = _share_within(center_line(prediction), reference)
    sensitivity = _share_within(center_line(reference), prediction)
    return 2 * precision * sensitivity / (precision + sensitivity) if precision + sensitivity else 0.0


def center_line(mask: np.ndarray) -> np.ndarray:
    """scikit-image's skeleton, in which every connected part of the mask has at least one voxel.

    Its 3D skeleton of some solid parts is empty; such a part is stood for by its deepest voxels.
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


def _share_within(line: np.ndarray, mask: np.ndarray) -> float:
    return float((line & mask).sum() / line.sum())
