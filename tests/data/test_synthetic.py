import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import label

from nnvit.data.importer import import_dataset
from nnvit.data.synthetic import _fundus, generate
from nnvit.errors import DataError

SIZE = 192


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "four"
    generate(out, num=4, size=SIZE)
    return out


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_two_eyes_a_patient_with_binary_masks_of_the_same_names(four: Path) -> None:
    names = ["p01_L.png", "p01_R.png", "p02_L.png", "p02_R.png"]
    assert sorted(p.name for p in (four / "images").iterdir()) == names
    assert sorted(p.name for p in (four / "masks").iterdir()) == names
    assert pixels(four / "images" / names[0]).shape == (SIZE, SIZE, 3)
    assert set(np.unique(pixels(four / "masks" / names[0]))) == {0, 255}


def test_a_picture_depends_on_the_seed_and_not_on_how_many_there_are(four: Path, tmp_path: Path) -> None:
    generate(tmp_path / "two", num=2, size=SIZE)
    generate(tmp_path / "other", num=1, size=SIZE, seed=1)
    for kind in ("images", "masks"):
        first = pixels(four / kind / "p01_L.png")
        assert np.array_equal(first, pixels(tmp_path / "two" / kind / "p01_L.png"))
        assert not np.array_equal(first, pixels(tmp_path / "other" / kind / "p01_L.png"))


def test_the_same_set_is_left_alone_and_another_is_refused(four: Path, tmp_path: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in four.rglob("*")}
    generate(four, num=4, size=SIZE)
    with pytest.raises(DataError, match=r"'seed': 0.*expected.*'seed': 3"):
        generate(four, num=4, size=SIZE, seed=3)
    assert {p: p.stat().st_mtime_ns for p in four.rglob("*")} == before
    (tmp_path / "thesis.docx").write_text("precious")
    with pytest.raises(DataError, match="holds something else"):
        generate(tmp_path, num=1, size=SIZE)


def test_an_interrupted_set_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ctrl_c(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nnvit.data.synthetic._fundus", ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "out", num=1, size=SIZE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("numbers", [{"num": 0}, {"size": 20}, {"seed": -1}])
def test_senseless_numbers(tmp_path: Path, numbers: dict[str, int]) -> None:
    with pytest.raises(DataError, match="expected at least"):
        generate(tmp_path / "out", **numbers)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("eye", ["L", "R"])
def test_anatomy(seed: int, eye: str) -> None:
    image, mask = _fundus(np.random.default_rng(seed), SIZE, eye)
    assert image.shape == (SIZE, SIZE, 3)
    assert image.dtype == np.uint8
    assert mask.dtype == bool
    assert 0.03 < mask.mean() < 0.12
    assert image[:5, :5].max() < 30, "the corners lie outside the field of view"
    assert not mask[:5, :5].any()
    brightest = np.argsort(image[..., 1].ravel())[-200:] % SIZE
    assert (np.median(brightest) < SIZE / 2) == (eye == "L"), "the optic disc lies on the nasal side"
    _, pieces = label(mask, np.ones((3, 3)))
    assert pieces < 25, "vessels hang together"


def test_vessels_are_darker_but_no_threshold_finds_them() -> None:
    image, mask = _fundus(np.random.default_rng(0), 384)
    y, x = np.mgrid[:384, :384] - 191.5
    inside = np.hypot(x, y) < 0.85 * 192
    green, vessel = image[..., 1][inside].astype(int), mask[inside]
    assert green[vessel].mean() < green[~vessel].mean() - 10
    dice = [2 * ((green < t) & vessel).sum() / ((green < t).sum() + vessel.sum()) for t in range(5, 150, 3)]
    assert 0.2 < max(dice) < 0.75


def test_the_importer_takes_them_as_they_are(four: Path, tmp_path: Path) -> None:
    report = import_dataset(
        four / "images",
        four / "masks",
        502,
        "Synthetic",
        raw=tmp_path,
        preprocessed=None,
        group_by=r"^(p\d+)",
        num_folds=2,
        progress=False,
    )
    assert report.fold_sizes == ((2, 2), (2, 2))
    assert report.warnings == ()
    assert json.loads((four / "synthetic.json").read_text())["num"] == 4
