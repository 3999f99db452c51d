"""Surface distances against DeepMind's published examples and MONAI's subvoxel form."""

import numpy as np
import pytest
import torch
from monai.metrics import compute_surface_dice
from monai.metrics.utils import create_table_neighbour_code_to_surface_area
from scipy import ndimage

from nnvit.compare.scores.metrics import _element_sizes, _neighbour_codes, _SurfaceDistances


def mean(distances: np.ndarray, sizes: np.ndarray) -> float:
    return float((distances * sizes).sum() / sizes.sum())


def one_voxel(shape: tuple[int, ...], place: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[place] = True
    return mask


def blob(seed: int, shape: tuple[int, ...], *, touching: bool) -> np.ndarray:
    """A smooth random shape, which touches the border of the image or keeps off it."""
    mask = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2) > 0.02
    if not touching:
        inner = np.zeros(shape, bool)
        inner[(slice(3, -3),) * len(shape)] = True
        mask &= inner
    return mask


# DeepMind's surface_distance_test.py, the cases that are not empty


def test_two_pixels_that_are_2_mm_apart() -> None:
    found = _SurfaceDistances.between(one_voxel((128, 128), (50, 70)), one_voxel((128, 128), (50, 72)), (2, 1))
    half_diagonal = 0.5 * np.hypot(2, 1)
    for sizes in (found.reference_sizes, found.prediction_sizes):
        np.testing.assert_array_equal(sizes, [half_diagonal] * 4)
    for distances in (found.from_reference, found.from_prediction):
        np.testing.assert_array_equal(np.sort(distances), [1, 1, 2, 2])
    assert (found.surface_dice(1), found.hausdorff(95), found.hausdorff(100)) == (0.5, 2, 2)


def test_two_squares_of_which_one_is_a_pixel_longer() -> None:
    reference, prediction = np.zeros((2, 6, 6), bool)
    reference[1:3, 1:3] = True
    prediction[1:4, 1:3] = True
    found = _SurfaceDistances.between(reference, prediction, (2, 1))
    vertical, horizontal, corner = 2, 1, 0.5 * np.hypot(2, 1)
    expected = sorted([(0, corner)] * 4 + [(0, vertical)] * 2 + [(0, horizontal), (1, horizontal)])
    got = sorted(zip(found.from_reference, found.reference_sizes, strict=True))
    np.testing.assert_allclose(got, expected)
    close = np.array([0] * 7 + [2] * 3)
    np.testing.assert_array_equal(np.sort(found.from_prediction), close)
    assert found.prediction_sizes.sum() == pytest.approx(4 * corner + 2 * horizontal + 4 * vertical)
    within = found.reference_sizes.sum() + found.prediction_sizes.sum() - (2 * corner + horizontal)
    assert found.surface_dice(1) == pytest.approx(within / (found.reference_sizes.sum() + found.prediction_sizes.sum()))


def test_two_voxels_that_are_2_mm_apart() -> None:
    shape = (128, 128, 128)
    found = _SurfaceDistances.between(one_voxel(shape, (50, 60, 70)), one_voxel(shape, (50, 60, 72)), (3, 2, 1))
    assert mean(found.from_reference, found.reference_sizes) == pytest.approx(1.5)
    assert mean(found.from_prediction, found.prediction_sizes) == pytest.approx(1.5)
    assert (found.surface_dice(1), found.hausdorff(95), found.hausdorff(100)) == (0.5, 2, 2)


def test_two_cubes_of_which_one_is_a_voxel_longer() -> None:
    reference, prediction = np.zeros((2, 100, 100, 100), bool)
    reference[:50] = True
    prediction[:51] = True
    found = _SurfaceDistances.between(reference, prediction, (2, 1, 1))
    assert mean(found.from_reference, found.reference_sizes) == pytest.approx(0.322, abs=5e-4)
    assert mean(found.from_prediction, found.prediction_sizes) == pytest.approx(0.339, abs=5e-4)
    assert (found.hausdorff(95), found.hausdorff(100)) == (2, 2)
    assert found.surface_dice(1) == pytest.approx(0.836, abs=5e-4)


# MONAI, `use_subvoxels=True`


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI's own
@pytest.mark.parametrize("touching", [False, True], ids=["inside", "touching the border"])
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (2.0, 0.5), (1.0, 1.0, 1.0), (3.0, 0.7, 0.5)], ids=str)
def test_surface_dice_equals_monais_subvoxel_form(spacing: tuple[float, ...], touching: bool) -> None:
    for seed in range(3):
        reference, prediction = (blob(10 * seed + i, (24,) * len(spacing), touching=touching) for i in range(2))
        tensors = [torch.tensor(mask)[None, None] for mask in (prediction, reference)]
        expected = compute_surface_dice(*tensors, [1.5], include_background=True, spacing=spacing, use_subvoxels=True)
        assert _SurfaceDistances.between(reference, prediction, spacing).surface_dice(1.5) == pytest.approx(
            float(expected), abs=2e-7
        )


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.7, 0.5)], ids=str)
def test_areas_of_all_256_neighbourhoods_equal_the_published_table(spacing: tuple[float, float, float]) -> None:
    table, kernel = create_table_neighbour_code_to_surface_area(spacing)
    weights = np.asarray(kernel).reshape(2, 2, 2)
    corners = np.arange(256)[:, None] >> np.arange(8) & 1
    published = np.asarray(table)[(corners.reshape(-1, 2, 2, 2) * weights).sum((1, 2, 3)).astype(int)]
    np.testing.assert_allclose(_element_sizes(spacing), published, rtol=1e-6)


def test_contour_of_a_rectangle_is_its_girth_with_corners_cut() -> None:
    mask = np.zeros((8, 9), bool)
    mask[2:5, 1:7] = True
    codes = _neighbour_codes(mask)
    assert codes.shape == (9, 10)
    assert _element_sizes((1.0, 1.0))[codes].sum() == pytest.approx(2 * (2 + 5) + 4 * 0.5 * 2**0.5)


def test_a_mask_against_itself_has_no_distance() -> None:
    mask = blob(0, (20, 20), touching=True)
    found = _SurfaceDistances.between(mask, mask, (1, 1))
    assert (found.surface_dice(0), found.hausdorff(100)) == (1, 0)


def test_percentiles_count_the_size_of_the_surface_and_not_its_elements() -> None:
    distances, sizes = np.array([0.0, 1.0, 9.0]), np.array([1.0, 98.0, 1.0])
    found = _SurfaceDistances(
        from_reference=distances, reference_sizes=sizes, from_prediction=distances[:1], prediction_sizes=sizes[:1]
    )
    assert (found.hausdorff(95), found.hausdorff(100)) == (1, 9)
