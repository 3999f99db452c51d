"""Several files at a time, the preview, masks and images in one folder, and nnU-Net's own check of what was written."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import tifffile
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
from PIL import Image

from nnvit.data.parallel import each
from nnvit.data.preview import COLOURS

from .conftest import BINARY, RGB, Workplace


def test_results_come_in_order_and_few_are_held() -> None:
    lock, running, most = threading.Lock(), set(), []

    def slow(item: int) -> int:
        with lock:
            running.add(item)
            most.append(len(running))
        threading.Event().wait(0.005 if item % 2 else 0.001)
        with lock:
            running.remove(item)
        return item * item

    assert list(each(slow, range(40), "", workers=3, progress=False)) == [i * i for i in range(40)]
    assert 2 <= max(most) <= 3


def test_an_error_stops_what_has_not_begun() -> None:
    begun = []

    def fail(item: int) -> None:
        begun.append(item)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        list(each(fail, range(100), "", workers=2, progress=False))
    assert len(begun) <= 5


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_writes_the_same(place: Workplace, workers: int) -> None:
    for i in range(7):
        place.image(f"{i}.png", RGB + np.uint8(i))
        place.mask(f"{i}.png", np.roll(BINARY, i))
    place.run(workers=workers)
    for i in range(7):
        assert np.array_equal(Image.open(place.target / "imagesTr" / f"{i}_0000.png"), RGB + np.uint8(i))
        assert np.array_equal(place.label(str(i)), np.roll(BINARY, i) // 255)


def test_problems_come_in_the_order_of_the_files_whatever_the_workers(place: Workplace) -> None:
    for i in range(9):
        place.image(f"{i}.png", RGB[: 1 + i % 5])
        place.mask(f"{i}.png")
    said = place.refusal(workers=4)
    assert [said.index(f"image {i}.png") for i in range(9) if i != 5] == sorted(
        said.index(f"image {i}.png") for i in range(9) if i != 5
    )


def test_preview_outlines_the_labels_of_random_cases(place: Workplace) -> None:
    mask = np.zeros((60, 80), np.uint8)
    mask[20:40, 20:60] = 1
    mask[45:50, 5:15] = 2
    for stem in "abcdef":
        place.image(f"{stem}.png", np.full((60, 80), 90, np.uint8))
        place.mask(f"{stem}.png", mask)
    place.run(preview=3)
    sheet = np.asarray(Image.open(place.target / "preview.png"))
    first = sheet.tobytes()
    found = {tuple(colour) for colour in np.unique(sheet.reshape(-1, 3), axis=0).tolist()}
    assert {tuple(bytes.fromhex(colour[1:])) for colour in COLOURS[:2]} <= found
    line = (sheet == tuple(bytes.fromhex(COLOURS[0][1:]))).all(axis=-1)
    # three outlines of a rectangle of 240 x 120 pixels of the sheet, and its square in the legend
    assert 3 * 720 < line.sum() < 3 * 740 + 15 * 15
    place.run(preview=3, overwrite=True)
    assert np.asarray(Image.open(place.target / "preview.png")).tobytes() == first


def test_preview_shows_the_fullest_slice_of_a_volume_in_true_proportions(place: Workplace) -> None:
    voxels = np.zeros((6, 20, 40), np.int16)
    voxels[4] = 100
    mask = np.zeros(voxels.shape, np.uint8)
    mask[4, 5:15, 10:30] = 1
    mask[1, 5:6, 10:30] = 1
    for folder, content in (("images", voxels), ("masks", mask)):
        image = SimpleITK.GetImageFromArray(content)
        image.SetSpacing((1.0, 4.0, 5.0))
        SimpleITK.WriteImage(image, str(place.root / folder / "a.nii.gz"))
    place.run(preview=4)
    sheet = np.asarray(Image.open(place.target / "preview.png"))
    line = (sheet[:-40] == tuple(bytes.fromhex(COLOURS[0][1:]))).all(axis=-1)
    rows, columns = np.nonzero(line)
    # 10 x 20 voxels of 4 x 1 mm: twice as high as it is wide, and the sheet shows 80 mm with 480 pixels
    assert np.ptp(rows) == 10 * 4 * 6 + 1
    assert np.ptp(columns) == 20 * 1 * 6 + 1


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


def test_nnunet_itself_verifies_volumes_and_five_channels(
    place: Workplace, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for stem in ("a", "b"):
        tifffile.imwrite(
            place.root / "images" / f"{stem}.tif",
            rng.integers(0, 255, (40, 48, 5), dtype=np.uint8),
            photometric="minisblack",
        )
        place.mask(f"{stem}.png", np.pad(BINARY, ((0, 34), (0, 40))))
    five = place.run(preview=2)
    volumes = Workplace(tmp_path / "volumes")
    for folder, high in (("images", 1000), ("masks", 3)):
        (volumes.root / folder).mkdir(parents=True)
        for stem in ("a", "b"):
            image = SimpleITK.GetImageFromArray(rng.integers(0, high, (6, 8, 9)).astype(np.int16))
            image.SetSpacing((0.7, 0.7, 2.5))
            SimpleITK.WriteImage(image, str(volumes.root / folder / f"{stem}.nii.gz"))
    solid = volumes.run(preview=2)
    assert (five.channels, solid.channels) == (5, 1)
    for report in (five, solid):
        assert (report.folder / "preview.png").is_file()
        verify_dataset_integrity(str(report.folder), num_processes=1)
    said = capfd.readouterr().out
    assert said.count("verify_dataset_integrity Done") == 2
    assert "ismatch" not in said
