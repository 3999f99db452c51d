"""The cases that are shown, the marks on them, and the size of the pictures."""

import base64
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK
from PIL import Image

from nnvit.compare.report import overlays
from nnvit.compare.report.overlays import _errors, _outline
from nnvit.errors import CompareError
from tests.compare.sample import disc


def _cases(scores: dict[str, list[float]]) -> pd.DataFrame:
    """One row per arm and case, cases named c0, c1, …"""
    rows = [
        {"dataset": "D", "arm": arm, "run": "", "case": f"c{n}", "label": "vessel", "dice": dice}
        for arm, values in scores.items()
        for n, dice in enumerate(values)
    ]
    return pd.DataFrame(rows)


def _decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1])))


def _png(path: Path, array: np.ndarray) -> Path:
    Image.fromarray(array).save(path)
    return path


def test_best_worst_and_most_disputed_cases_are_chosen() -> None:
    chosen = overlays._choose(_cases({"a": [0.9, 0.2, 0.8, 0.7], "b": [0.8, 0.1, 0.3, 0.7]}), extremes=1, disputed=1)
    assert {case: why for (_, case), (why, _) in chosen.items()} == {
        "c0": ["best"],
        "c1": ["worst"],
        "c2": ["most disputed"],
    }


def test_a_case_that_is_chosen_twice_is_shown_once() -> None:
    chosen = overlays._choose(_cases({"a": [0.9, 0.2], "b": [0.8, 0.9]}), extremes=1, disputed=1)
    assert chosen["D", "c1"] == (["worst", "most disputed"], {"a": 0.2, "b": 0.9})


def test_a_case_with_an_empty_reference_is_not_chosen() -> None:
    assert [case for _, case in overlays._choose(_cases({"a": [float("nan"), 0.5], "b": [float("nan"), 0.4]}))] == [
        "c1"
    ]


def test_false_positives_false_negatives_and_confused_labels_are_told_apart() -> None:
    reference = np.array([[0, 0, 1, 1, 2]])
    mask = np.array([[0, 1, 1, 0, 1]])
    assert _errors(reference, mask).tolist() == [[0, 1, 0, 2, 3]]


def test_the_outline_lies_inside_the_label_and_parts_two_labels() -> None:
    mask = np.zeros((5, 7), np.uint8)
    mask[1:4, 1:4], mask[1:4, 4:6] = 1, 2
    assert _outline(mask)[2].tolist() == [0, 1, 0, 1, 1, 1, 0]
    assert _outline(np.ones((3, 3), np.uint8)).tolist() == [[1, 1, 1], [1, 0, 1], [1, 1, 1]]


def test_a_photograph_lies_under_the_marks(tmp_path: Path) -> None:
    reference, mask = _png(tmp_path / "r.png", disc(24, 32)), _png(tmp_path / "m.png", disc(24, 34))
    photograph = np.full((48, 64, 3), (200, 40, 40), np.uint8)
    _png(tmp_path / "c0_0000.png", photograph)
    (shown,) = overlays.overlays(
        _cases({"a": [0.5], "b": [0.4]}), {"c0": reference}, {"a": {"c0": mask}, "b": {"c0": mask}}, tmp_path
    )
    ground = np.asarray(_decoded(shown.image))
    assert _decoded(shown.image).format == "JPEG"
    assert ground.shape[:2] == (shown.height, shown.width)
    assert np.abs(ground.reshape(-1, 3).mean(axis=0) - (200, 40, 40)).max() < 4
    marked = np.asarray(_decoded(shown.arms["a"]["errors"]).convert("RGBA"))
    colours = {(255, 176, 0), (100, 143, 255), (220, 38, 127)}
    assert {tuple(colour[:3].tolist()) for colour in marked[marked[..., 3] > 0]} == colours
    assert set(np.unique(marked[..., 3])) == {0, overlays.INSIDE, 255}


def test_without_images_the_reference_is_the_ground(tmp_path: Path) -> None:
    reference = _png(tmp_path / "r.png", disc(24, 32))
    (shown,) = overlays.overlays(_cases({"a": [0.5]}), {"c0": reference}, {"a": {"c0": reference}})
    assert len(_decoded(shown.image).convert("RGB").getcolors() or []) == 2
    assert "no image given" in shown.notes[0]


def test_of_a_volume_the_slice_with_most_disagreement_is_shown(tmp_path: Path) -> None:
    volume = np.stack([disc(24, 32)] * 6)
    other = volume.copy()
    other[4] = disc(30, 38)
    paths = {}
    for name, array in (("r", volume), ("a", volume), ("b", other), ("c0_0000", volume)):
        image = SimpleITK.GetImageFromArray(array)
        image.SetSpacing((0.5, 0.5, 3.0))
        paths[name] = tmp_path / f"{name}.nii.gz"
        SimpleITK.WriteImage(image, str(paths[name]))
    given = {arm: {"c0": paths[arm]} for arm in "ab"}
    (shown,) = overlays.overlays(_cases({"a": [1.0], "b": [0.9]}), {"c0": paths["r"]}, given, tmp_path)
    assert "slice 5 of 6" in shown.notes[0]
    assert not np.asarray(_decoded(shown.arms["a"]["errors"])).any()
    assert np.asarray(_decoded(shown.arms["b"]["errors"])).any()
    assert np.asarray(_decoded(shown.image)).any()


def test_square_millimetres_stay_square(tmp_path: Path) -> None:
    image = SimpleITK.GetImageFromArray(np.stack([disc(24, 32)] * 2))
    image.SetSpacing((2.0, 0.5, 5.0))
    SimpleITK.WriteImage(image, str(tmp_path / "r.nii.gz"))
    given = {"a": {"c0": tmp_path / "r.nii.gz"}}
    (shown,) = overlays.overlays(_cases({"a": [0.5]}), {"c0": tmp_path / "r.nii.gz"}, given)
    drawn = np.argwhere(np.asarray(_decoded(shown.reference)))
    height, width = np.ptp(drawn, axis=0)
    assert width / height == pytest.approx(4, rel=0.08)


def test_the_surroundings_of_a_small_structure_are_cut_out(tmp_path: Path) -> None:
    mask = np.zeros((400, 400), np.uint8)
    mask[100:110, 300:312] = 1
    reference = _png(tmp_path / "r.png", mask)
    (shown,) = overlays.overlays(_cases({"a": [0.5]}), {"c0": reference}, {"a": {"c0": reference}})
    assert "cut to the surroundings" in shown.notes[-1]
    assert np.asarray(_decoded(shown.reference)).any()


def test_ignored_voxels_are_not_marked(tmp_path: Path) -> None:
    reference = disc(24, 32)
    reference[:, 40:] = 3
    predicted = disc(24, 32)
    predicted[5, 50] = 1
    given = {"a": {"c0": _png(tmp_path / "m.png", predicted)}}
    (shown,) = overlays.overlays(
        _cases({"a": [1.0]}), {"c0": _png(tmp_path / "r.png", reference)}, given, ignore_label=3
    )
    assert not np.asarray(_decoded(shown.arms["a"]["errors"])).any()


def test_an_image_of_another_size_is_left_out_and_told(tmp_path: Path) -> None:
    reference = _png(tmp_path / "r.png", disc(24, 32))
    _png(tmp_path / "c0.png", np.zeros((10, 10, 3), np.uint8))
    (shown,) = overlays.overlays(_cases({"a": [0.5]}), {"c0": reference}, {"a": {"c0": reference}}, tmp_path)
    assert "the image is (10, 10), the mask (48, 64)" in shown.notes[0]


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    reference = _png(tmp_path / "r.png", disc(24, 32))
    (tmp_path / "c0.png").write_bytes(b"not a png")
    with pytest.raises(CompareError, match=r"c0\.png can't be read as an image"):
        overlays.overlays(_cases({"a": [0.5]}), {"c0": reference}, {"a": {"c0": reference}}, tmp_path)


def test_pictures_get_smaller_until_all_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    reference = _png(tmp_path / "r.png", rng.integers(0, 2, (300, 300), dtype=np.uint8))
    other = _png(tmp_path / "m.png", rng.integers(0, 2, (300, 300), dtype=np.uint8))
    given = {"a": {"c0": other}}
    large = overlays.overlays(_cases({"a": [0.5]}), {"c0": reference}, given)
    monkeypatch.setattr(overlays, "BUDGET", 60_000)
    small = overlays.overlays(_cases({"a": [0.5]}), {"c0": reference}, given)
    assert (large[0].width, small[0].width) == (640, 240)
