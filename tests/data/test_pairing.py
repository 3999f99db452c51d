"""The pairing of masks and images, where it is not obvious."""

import json

import numpy as np
from PIL import Image

from .conftest import BINARY, Workplace


def test_images_and_masks_may_share_a_folder(place: Workplace) -> None:
    place.pairs()
    (place.root / "masks").rmdir()
    for stem in ("a", "b"):
        place.image(f"{stem}.png")
        place.image(f"{stem}_mask.png", BINARY)
    (place.root / "masks").symlink_to(place.root / "images")
    report = place.run(mask_suffix="_mask")
    assert report.num_cases == 2
    assert report.warnings == ()
    assert np.array_equal(place.label("a"), BINARY // 255)


def test_a_missing_mask_is_taken_as_empty_when_asked(place: Workplace) -> None:
    for stem, name in (("a", "MA"), ("a", "EX"), ("b", "MA")):
        place.image(f"{stem}.png")
        (place.root / name).mkdir(exist_ok=True)
        Image.fromarray(np.roll(BINARY, 3 * (name == "EX"), axis=0)).save(place.root / name / f"{stem}.png")
    folders = {name: place.root / name for name in ("MA", "EX")}
    report = place.run(masks_by_label=folders, allow_missing_masks=True)
    assert report.labels == {"background": 0, "MA": 1, "EX": 2}
    assert "1 images lack some of their masks, which were taken as empty, e.g. b.png" in report.warnings
    assert sorted(np.unique(place.label("a"))) == [0, 1, 2]
    assert np.array_equal(place.label("b"), BINARY // 255)
    sources = json.loads((place.target / "dataset.json").read_text())["nnvit_import"]["sources"]
    assert sources["b"] == {"image": "b.png", "masks": {"MA": "b.png"}}


def test_a_jpeg_beside_the_png_mask_is_passed_over(place: Workplace) -> None:
    place.pairs("a")
    place.mask("a.jpg")
    (warning,) = place.run().warnings
    assert "1 other files" in warning
    assert "a.jpg" in warning
