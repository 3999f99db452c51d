"""Scores of a case: equal to nnU-Net's own, and with a rule for every undefined score."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnvit.compare.inputs.mask_files import read_mask
from nnvit.compare.scores.metrics import METRICS, Labels, _LabelPair
from nnvit.compare.scores.scoring import ScoringJob, _score_job
from tests.compare.planted import Study, write_png

REGIONS = Labels(values={"whole": (1, 2), "core": (2,)}, ignore=3)


def score(
    reference: np.ndarray,
    prediction: np.ndarray,
    spacing: tuple[float, ...],
    tolerance: float,
    *,
    tubular: bool = False,
) -> dict[str, Any]:
    return _LabelPair(reference, prediction, spacing, tolerance).row(tubular=tubular)


def masks(shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Reference with labels 0 to 2 and an ignored corner of 3; a prediction that resembles it."""
    rng = np.random.default_rng(seed)
    reference = rng.integers(0, 3, [length // 4 for length in shape]).repeat(4, -1).repeat(4, -2).astype(np.uint8)
    reference = reference.repeat(4, 0) if reference.ndim == 3 else reference
    prediction = np.where(rng.random(shape) < 0.2, rng.integers(0, 3, shape), reference).astype(np.uint8)
    reference[..., :5] = 3
    return reference, prediction


def assert_as_nnunet(entry: dict[str, Any], labels: Labels) -> None:
    """One case of a summary.json against our scores of the same two files."""
    reference, prediction = Path(entry["reference_file"]), Path(entry["prediction_file"])
    scores = _score_job(ScoringJob(reference=reference, prediction=prediction, labels=labels, tolerance=1.0))
    for name, values in labels.values.items():
        expected, got = entry["metrics"][str(values if len(values) > 1 else values[0])], scores[name]
        counts = (got["n_ref"], got["n_pred"], got["n_both"])
        assert counts == (expected["n_ref"], expected["n_pred"], expected["TP"])
        if not expected["n_ref"]:
            assert math.isnan(got["dice"])
            continue
        assert got["dice"] == pytest.approx(expected["Dice"], abs=1e-9)
        assert got["iou"] == pytest.approx(expected["IoU"], abs=1e-9)
        assert got["sensitivity"] == pytest.approx(expected["TP"] / (expected["TP"] + expected["FN"]), abs=1e-9)
        assert got["precision"] == pytest.approx(expected["TP"] / (expected["TP"] + expected["FP"]), abs=1e-9)


def test_scores_of_volumes_with_regions_and_an_ignore_label_equal_nnunets_summary(tmp_path: Path) -> None:
    for kind in ("reference", "prediction"):
        (tmp_path / kind).mkdir()
    for case in range(3):
        for kind, mask in zip(("reference", "prediction"), masks((8, 32, 24), case), strict=True):
            image = SimpleITK.GetImageFromArray(mask)
            image.SetSpacing((0.5, 0.7, 3.0))
            SimpleITK.WriteImage(image, str(tmp_path / kind / f"case_{case}.nii.gz"))
    folders, summary = [str(tmp_path / kind) for kind in ("reference", "prediction")], tmp_path / "summary.json"
    compute_metrics_on_folder(*folders, str(summary), SimpleITKIO(), ".nii.gz", [(1, 2), 2], 3, 1)
    per_case = json.loads(summary.read_text())["metric_per_case"]
    assert len(per_case) == 3
    for entry in per_case:
        assert_as_nnunet(entry, REGIONS)


def test_scores_of_pictures_equal_nnunets_summary(template: Study) -> None:
    summary = template.results / "nnUNetTrainer__nnUNetPlans__2d" / "fold_0" / "validation" / "summary.json"
    per_case = json.loads(summary.read_text())["metric_per_case"]
    assert len(per_case) == 6
    for entry in per_case:
        assert_as_nnunet(entry, Labels(values={"disc": (1,), "vessel": (2,)}))


def empty() -> np.ndarray:
    return np.zeros((30, 40), bool)


def square() -> np.ndarray:
    mask = empty()
    mask[5:15, 5:15] = True
    return mask


def test_an_empty_reference_leaves_all_metrics_out_whatever_was_predicted() -> None:
    """nnU-Net scores NaN or 0, depending on the prediction."""
    for prediction, volume in ((empty(), 0.0), (square(), 100 * 0.5 * 2)):
        row = score(empty(), prediction, (0.5, 2), 2.0, tubular=True)
        assert all(math.isnan(row[metric.key]) for metric in METRICS if not metric.on_empty)
        assert row["fp_volume_mm3"] == volume
        assert not row["missed"]


def test_a_false_positive_volume_is_no_matter_of_cases_that_have_the_structure() -> None:
    assert math.isnan(score(square(), square(), (1, 1), 1.0)["fp_volume_mm3"])


def test_a_missed_structure_has_the_worst_value_of_every_metric() -> None:
    row = score(square(), empty(), (0.5, 2), 2.0, tubular=True)
    assert row["missed"]
    assert row["hd95_mm"] == pytest.approx(math.hypot(30 * 0.5, 40 * 2))
    assert {row[metric] for metric in ("dice", "iou", "sensitivity", "precision", "nsd", "cldice")} == {0}


def test_a_perfect_mask_that_touches_the_border() -> None:
    mask = empty()
    mask[:10, -8:] = True
    row = score(mask, mask, (1, 1), 1.0, tubular=True)
    assert {row[metric] for metric in ("dice", "iou", "sensitivity", "precision", "nsd", "cldice")} == {1}
    assert row["hd95_mm"] == 0


def test_a_single_voxel() -> None:
    reference, prediction = np.zeros((2, 9, 9, 9), bool)
    reference[4, 4, 4] = prediction[4, 4, 5] = True
    row = score(reference, prediction, (3, 1, 1), 1.0, tubular=True)
    assert (row["dice"], row["nsd"], row["hd95_mm"], row["cldice"]) == (0, 1, 1, 0)


def test_anisotropic_voxels_count_in_mm() -> None:
    mask = np.zeros((20, 20, 20), bool)
    mask[5:12, 5:12, 5:12] = True
    along_thick, along_thin = (score(mask, np.roll(mask, 1, axis), (5, 1, 1), 2.0) for axis in (0, 2))
    assert (along_thick["hd95_mm"], along_thin["hd95_mm"]) == (5, 1)
    assert along_thick["nsd"] < along_thin["nsd"] == 1


def test_only_tubular_labels_get_cldice() -> None:
    array = square().astype(np.uint8) + np.roll(square(), 15, axis=1) * np.uint8(2)
    found = Labels(values={"a": (1,), "b": (2,)}, tubular=("b",)).score(array, array, (1, 1), 1.0)
    assert math.isnan(found["a"]["cldice"])
    assert found["b"]["cldice"] == 1


def test_a_structure_that_is_wholly_ignored_counts_as_absent() -> None:
    reference = square().astype(np.uint8) * 3
    row = Labels(values={"a": (1,)}, ignore=3).score(reference, square().astype(np.uint8), (1, 1), 1.0)["a"]
    assert (row["n_ref"], row["n_pred"], row["fp_volume_mm3"]) == (0, 0, 0)


@pytest.mark.parametrize("ending", [".png", ".gif", ".tif", ".bmp", ".nii.gz", ".nii", ".nrrd", ".mha"])
def test_every_format_reads_as_it_was_written(tmp_path: Path, ending: str) -> None:
    mask = masks((32, 40), 0)[1]
    path = tmp_path / f"case{ending}"
    if ending in (".png", ".gif", ".tif", ".bmp"):
        write_png(path, mask)
    else:
        image = SimpleITK.GetImageFromArray(mask[None])
        image.SetSpacing((0.25, 0.5, 9.0))
        SimpleITK.WriteImage(image, str(path))
    found = read_mask(path)
    np.testing.assert_array_equal(found.labels, mask)
    assert found.spacing == ((1, 1) if ending in (".png", ".gif", ".tif", ".bmp") else (0.5, 0.25))
