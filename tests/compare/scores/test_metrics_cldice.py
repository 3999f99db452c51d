"""The metric clDice, also where scikit-image's skeleton is empty."""

import numpy as np
import pytest
from skimage.morphology import skeletonize

from nnvit.compare.scores.metrics import _center_line, _cl_dice, _LabelPair


def cl_dice(reference: np.ndarray, prediction: np.ndarray) -> float:
    return _cl_dice(_LabelPair(reference, prediction, (1.0,) * reference.ndim, 1.0))


def bar(width: int = 3) -> np.ndarray:
    mask = np.zeros((20, 40), bool)
    mask[10 - width // 2 : 11 + width // 2, 4:36] = True
    return mask


def test_a_mask_against_itself() -> None:
    assert cl_dice(bar(), bar()) == 1


def test_width_does_not_count() -> None:
    assert cl_dice(bar(5), bar(3)) == pytest.approx(1, abs=0.06)


def test_a_gap_counts_by_its_length() -> None:
    torn = bar()
    torn[:, 12:28] = False
    assert cl_dice(bar(), torn) == pytest.approx(2 * 0.5 / 1.5, abs=0.05)


def test_masks_apart_score_nothing() -> None:
    moved = np.roll(bar(), 6, axis=0)
    assert cl_dice(bar(), moved) == 0


def test_a_solid_part_without_a_skeleton_is_stood_for_by_its_deepest_voxels() -> None:
    solid = next(
        mask
        for size in range(2, 12, 2)
        if (mask := np.pad(np.ones((size, size, size), bool), 2)).any() and not skeletonize(mask).any()
    )
    line = _center_line(solid)
    assert line.any()
    assert (line <= solid).all()
    assert cl_dice(solid, solid) == 1


def test_every_part_has_a_center() -> None:
    mask = np.zeros((20, 20, 20), bool)
    mask[2:4, 2:4, 2:4] = True
    mask[10:12, 10:12, 5:18] = True
    assert _center_line(mask)[:6, :6, :6].any()
    assert _center_line(mask)[8:].any()
