import json
import re
from pathlib import Path

import numpy as np
import pytest

from nnvit.cli import demonstration
from nnvit.errors import ConfigError


def test_dice_of_known_maps() -> None:
    reference = np.array([[0, 1, 1], [2, 2, 0]])
    assert demonstration.dice(reference, reference) == 1.0
    predicted = np.array([[0, 1, 0], [2, 2, 2]])
    assert demonstration.dice(predicted, reference) == pytest.approx((2 * 1 / 3 + 2 * 2 / 5) / 2)
    assert np.isnan(demonstration.dice(reference, np.zeros((2, 3), int)))


def test_overlays_colour_agreement_excess_and_misses() -> None:
    photo = np.zeros((1, 4, 3), np.uint8)
    shown = demonstration.overlay(photo, np.array([[1, 1, 0, 0]]), np.array([[1, 0, 1, 0]]))
    expected = [0.75 * np.array(colour) for colour in (demonstration.AGREE, demonstration.EXTRA, demonstration.MISSED)]
    assert np.abs(shown[0, :3] - expected).max() <= 1
    assert not shown[0, 3].any()


def test_every_fifth_photograph_is_held_out_by_its_whole_name(tmp_path: Path) -> None:
    for i in range(12):
        (tmp_path / f"a+{i:02}.png").touch()
    held_out = [i for i in range(12) if re.fullmatch(demonstration._every_fifth(tmp_path), f"a+{i:02}")]
    assert held_out == [0, 5, 10]
    (tmp_path / "few").mkdir()
    with pytest.raises(ConfigError, match="holds 0 images"):
        demonstration._every_fifth(tmp_path / "few")


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    mine = demonstration.Photographs(images=tmp_path / "i", masks=tmp_path / "m")
    demonstration._claim(tmp_path / "demo", mine)
    other = demonstration.Photographs(images=tmp_path / "x", masks=tmp_path / "m")
    demonstration._claim(tmp_path / "demo", other)  # nothing was imported yet: a typo can be mended
    demonstration._claim(tmp_path / "demo", mine)
    (tmp_path / "demo" / "raw" / "Dataset900_Demo").mkdir(parents=True)
    demonstration._claim(tmp_path / "demo", mine)  # the same photographs: the demo continues
    with pytest.raises(ConfigError, match="other photographs"):
        demonstration._claim(tmp_path / "demo", other)
    assert json.loads((tmp_path / "demo" / "demo.json").read_text())["images"] == str(tmp_path / "i")
    with pytest.raises(ConfigError, match="is not a folder"):
        demonstration.run(tmp_path / "new", other)
    assert not (tmp_path / "new").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").touch()
    with pytest.raises(ConfigError, match="not empty"):
        demonstration._claim(tmp_path / "full", mine)


@pytest.mark.parametrize("panels", [4, 5])
def test_pictures_hold_any_number_of_panels(panels: int, tmp_path: Path) -> None:
    demonstration._save({f"panel {i}": np.zeros((8, 8, 3), np.uint8) for i in range(panels)}, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 0
