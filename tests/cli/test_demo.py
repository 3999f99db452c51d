import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nnvit.cli import demo
from nnvit.compare.comparison import compare
from nnvit.errors import ConfigError


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def test_the_table_and_the_pictures_are_those_of_the_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four arms of masks, each wrong in its own way, compared by `nnvit compare` itself."""
    raw = tmp_path / "raw" / "Dataset900_Demo"
    reference = np.zeros((40, 60), np.uint8)
    reference[10:30, 10:30] = 1
    reference[10:30, 40:50] = 2
    _save(raw / "imagesTs" / "a_0000.png", np.full((40, 60, 3), 90, np.uint8))
    _save(raw / "labelsTs" / "a.png", reference)
    arms = {}
    for k, arm in enumerate(demo._ARMS):
        mask = reference.copy()
        mask[10:30, 10 : 10 + 5 * k] = 0
        folder = demo._predictions(tmp_path, arm)
        _save(folder / "a.png", mask)
        arms[arm] = folder
    words = [f"{arm}={folder}" for arm, folder in arms.items()]
    compare(
        words, reference=raw / "labelsTs", images=raw / "imagesTs", out=tmp_path / "report", processes=1, quiet=True
    )
    cases = demo._print_table(tmp_path / "report" / "cases.csv")
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if " 1 │" in line]
    found = {row[1]: row[-8:-1:2] for row in rows}
    dice = [np.mean([2 * (20 - 5 * k) / (40 - 5 * k), 1]) for k in range(4)]
    assert found == {arm: [f"{value:.3f}"] * 3 + ["1"] for arm, value in zip(arms, dice, strict=True)}
    pictures = demo._pictures(tmp_path, cases)
    assert [path.name for path in pictures.iterdir()] == ["a.png"]


def test_layers_are_laid_over_each_other() -> None:
    ground, over = Image.new("RGB", (3, 1), "#202020"), Image.new("RGBA", (3, 1))
    over.putpixel((1, 0), (255, 0, 0, 255))
    stacked = demo._stacked(_uri(ground), _uri(over))
    assert [stacked.getpixel((x, 0)) for x in range(3)] == [(32, 32, 32), (255, 0, 0), (32, 32, 32)]


def test_every_fifth_photograph_is_held_out_by_its_whole_name(tmp_path: Path) -> None:
    for i in range(12):
        (tmp_path / f"a+{i:02}.png").touch()
    held_out = [i for i in range(12) if re.fullmatch(demo._every_fifth(tmp_path), f"a+{i:02}")]
    assert held_out == [0, 5, 10]
    (tmp_path / "few").mkdir()
    with pytest.raises(ConfigError, match="holds 0 images"):
        demo._every_fifth(tmp_path / "few")


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    mine = {"images": str(tmp_path / "i"), "masks": str(tmp_path / "m"), "mask_suffix": ""}
    demo._claim(tmp_path / "demo", mine)
    other = mine | {"images": str(tmp_path / "x")}
    demo._claim(tmp_path / "demo", other)  # nothing was imported yet, so a typo can be corrected
    demo._claim(tmp_path / "demo", mine)
    (tmp_path / "demo" / "raw" / "Dataset900_Demo").mkdir(parents=True)
    demo._claim(tmp_path / "demo", mine)  # the same photographs: the demo continues
    with pytest.raises(ConfigError, match="other photographs"):
        demo._claim(tmp_path / "demo", other)
    assert json.loads((tmp_path / "demo" / "demo.json").read_text())["images"] == str(tmp_path / "i")
    with pytest.raises(ConfigError, match="is not a folder"):
        demo._demo(tmp_path / "new", images=tmp_path / "x", masks=tmp_path / "m")
    assert not (tmp_path / "new").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").touch()
    with pytest.raises(ConfigError, match="not empty"):
        demo._claim(tmp_path / "full", mine)


@pytest.mark.parametrize("panels", [4, 5])
def test_pictures_hold_any_number_of_panels(panels: int, tmp_path: Path) -> None:
    demo._save({f"panel {i}": Image.new("RGB", (8, 8)) for i in range(panels)}, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 0
