"""A place to import from and to, for the tests of the importer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nnvit.data.importer import ImportReport, import_dataset
from nnvit.errors import DataError

H, W = 6, 8
RGB = np.arange(H * W * 3, dtype=np.uint8).reshape(H, W, 3)
GREY = RGB[..., 0]
BINARY = np.zeros((H, W), np.uint8)
BINARY[1:3, 2:5] = 255  # 6 pixels


@dataclass
class Workplace:
    """An images and a masks folder, nnU-Net's folders, and the import between them."""

    root: Path

    @property
    def target(self) -> Path:
        return self.root / "raw" / "Dataset501_Eyes"

    @property
    def splits(self) -> Path:
        return self.root / "preprocessed" / "Dataset501_Eyes" / "splits_final.json"

    def image(self, name: str, pixels: Any = RGB, **options: Any) -> None:
        self._save(self.root / "images" / name, pixels, options)

    def mask(self, name: str, pixels: Any = BINARY, **options: Any) -> None:
        self._save(self.root / "masks" / name, pixels, options)

    def pairs(self, *stems: str) -> None:
        for stem in stems:
            self.image(f"{stem}.png")
            self.mask(f"{stem}.png")

    def run(self, **options: Any) -> ImportReport:
        arguments = {"dataset_id": 501, "name": "Eyes", "progress": False, "preview": 0} | options
        folders = {"raw": self.root / "raw", "preprocessed": self.root / "preprocessed"} | arguments
        masks = None if "masks_by_label" in options else self.root / "masks"
        return import_dataset(self.root / "images", masks, **folders)

    def refusal(self, **options: Any) -> str:
        """Returns the message of the refusal, and asserts that the import left nothing behind."""
        before = sorted(self.root.rglob("*"))
        with pytest.raises(DataError) as caught:
            self.run(**options)
        assert [p for p in sorted(self.root.rglob("*")) if p not in before and p.name != "raw"] == []
        return str(caught.value)

    def label(self, case: str) -> np.ndarray:
        return np.asarray(Image.open(self.target / "labelsTr" / f"{case}.png"))

    def _save(self, path: Path, pixels: Any, options: dict[str, Any]) -> None:
        path.parent.mkdir(exist_ok=True)
        picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        picture.save(path, **options)


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    return Workplace(tmp_path)


def with_palette(indices: np.ndarray, *colours: int) -> Image.Image:
    picture = Image.fromarray(indices.astype(np.uint8))
    picture.putpalette(list(colours))
    return picture
