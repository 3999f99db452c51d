import json
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from nnvit.data.importer import import_dataset

from .conftest import BINARY, GREY, RGB, H, W, Workplace, with_palette


def rgb16_png() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", W, H, 16, 2, 0, 0, 0)
    rows = (b"\0" + bytes(W * 6)) * H
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


# --- what is written -----------------------------------------------------------------------------------------------


def test_pixels_and_dataset_json_are_what_nnunet_reads(place: Workplace) -> None:
    place.pairs("a", "b")
    report = place.run()
    written = np.asarray(Image.open(place.target / "imagesTr" / "a_0000.png"))
    assert np.array_equal(written, RGB)
    assert np.array_equal(place.label("a"), BINARY // 255)
    dataset = json.loads((place.target / "dataset.json").read_text())
    assert dataset["channel_names"] == {"0": "rgb_to_0_1", "1": "rgb_to_0_1", "2": "rgb_to_0_1"}
    assert dataset["labels"] == {"background": 0, "foreground": 1}
    assert dataset["numTraining"] == 2
    assert dataset["file_ending"] == ".png"
    assert dataset["overwrite_image_reader_writer"] == "NaturalImage2DIO"
    assert dataset["nnvit_import"]["sources"]["b"] == {"image": "b.png", "mask": "b.png"}
    assert dataset["nnvit_import"]["stored_values"] == {"foreground": 255}
    assert report.label_fractions["foreground"] == pytest.approx(6 / 48)
    assert report.num_groups is None
    assert report.splits is None
    assert not (place.root / "preprocessed").exists()


def test_no_hidden_folder_stays_behind(place: Workplace) -> None:
    place.pairs("a")
    place.run()
    assert [p.name for p in (place.root / "raw").iterdir()] == ["Dataset501_Eyes"]


def test_suffix_in_capitals_and_mask_suffix(place: Workplace) -> None:
    place.image("Eye 1.JPG")
    place.mask("Eye 1_manual.TIF")
    place.run(mask_suffix="_manual")
    assert np.array_equal(place.label("Eye_1"), BINARY // 255)


def test_zscore_names_channels_so_that_nnunet_takes_zscore(place: Workplace) -> None:
    place.pairs("a")
    assert place.run(normalization="zscore").channel_names == {"0": "R", "1": "G", "2": "B"}


def test_a_channel_called_ct_is_normalised_by_its_name_and_that_is_said(place: Workplace) -> None:
    place.pairs("a")
    report = place.run(normalization="zscore", channel_names=("CT", "PET", "dose"))
    assert report.channel_names == {"0": "CT", "1": "PET", "2": "dose"}
    assert report.warnings == ("nnU-Net will normalise channel 'CT' as that name says to it, not by z-score",)


def test_ct_normalization_names_every_channel_so(place: Workplace) -> None:
    place.pairs("a")
    assert place.run(normalization="ct").channel_names == {"0": "CT", "1": "CT", "2": "CT"}


def test_grey16_keeps_its_values(place: Workplace) -> None:
    deep = GREY.astype(np.uint16) * 1000
    place.image("a.tif", deep)
    place.mask("a.png")
    report = place.run(normalization="zscore")
    assert report.channel_names == {"0": "grey"}
    assert np.array_equal(np.asarray(Image.open(place.target / "imagesTr" / "a_0000.png")), deep)


def test_colours_of_8_and_16_bits_are_written_alike_and_warned_of(place: Workplace) -> None:
    deep = RGB.astype(np.uint16) * 200
    place.image("a.png")
    tifffile.imwrite(place.root / "images" / "b.tif", deep)
    place.mask("a.png")
    place.mask("b.png")
    report = place.run(normalization="zscore")
    assert "the images differ in depth: 1 with 8 bits and 1 with 16 bits; their values were kept" in report.warnings
    for case, pixels in (("a", RGB), ("b", deep)):
        for channel in range(3):
            written = Image.open(place.target / "imagesTr" / f"{case}_000{channel}.png")
            assert np.array_equal(written, pixels[..., channel])


def test_opaque_alpha_is_dropped(place: Workplace) -> None:
    place.image("a.png", np.dstack([RGB, np.full((H, W), 255, np.uint8)]))
    place.mask("a.png")
    assert place.run().channels == 3


def test_exif_orientation_is_applied_and_reported(place: Workplace) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: a viewer shows the picture turned 90 degrees clockwise
    place.image("a.png", RGB, exif=exif)
    place.mask("a.png", np.rot90(BINARY, -1).copy())
    report = place.run()
    written = np.asarray(Image.open(place.target / "imagesTr" / "a_0000.png"))
    assert np.array_equal(written, np.rot90(RGB, -1))
    assert "turned upright" in report.warnings[0]
    assert "a.png" in report.warnings[0]


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("a.png", Image.fromarray(BINARY).convert("1")),
        ("a.tif", Image.fromarray(BINARY).convert("1")),
        ("a.png", BINARY // 255),
        ("a.tif", BINARY.astype(np.uint16)),
        ("a.png", np.dstack([BINARY] * 3)),
        ("a.png", np.dstack([BINARY] * 3 + [np.full((H, W), 255, np.uint8)])),
        ("a.gif", with_palette(BINARY // 255, 0, 0, 0, 255, 255, 255)),
        ("a.png", with_palette(BINARY // 255, 0, 0, 0, 255, 255, 255)),
        ("a.gif", with_palette(BINARY // 255, 0, 0, 0, 255, 0, 0)),
    ],
    ids=["1-bit png", "1-bit tif", "0/1", "16-bit", "rgb", "rgba", "grey gif", "grey palette", "red palette"],
)
def test_every_spelling_of_a_binary_mask_gives_the_same_labels(place: Workplace, name: str, stored: Any) -> None:
    place.image("a.png")
    place.mask(name, stored)
    place.run()
    assert np.array_equal(place.label("a"), BINARY // 255)


def test_grey_palette_gives_grey_values_not_indices(place: Workplace) -> None:
    place.image("a.png")
    place.mask("a.gif", with_palette(BINARY // 255, 255, 255, 255, 0, 0, 0))  # white ground: index 0 is 255
    place.run()
    assert np.array_equal(place.label("a"), 1 - BINARY // 255)


def test_consecutive_values_are_kept(place: Workplace) -> None:
    mask = BINARY // 255
    mask[4, 4] = 2
    place.image("a.png")
    place.mask("a.png", mask)
    assert place.run().labels == {"background": 0, "label_1": 1, "label_2": 2}
    assert np.array_equal(place.label("a"), mask)


def test_declared_values_become_consecutive_labels(place: Workplace) -> None:
    mask = BINARY.copy()
    mask[4, 4] = 90
    place.image("a.png")
    place.mask("a.png", mask)
    report = place.run(labels={"vein": 255, "artery": 90})
    assert report.labels == {"background": 0, "artery": 1, "vein": 2}
    assert place.label("a")[4, 4] == 1
    assert place.label("a")[1, 2] == 2


def test_ignore_gets_the_highest_label_as_nnunet_wants(place: Workplace) -> None:
    mask = BINARY.copy()
    mask[4, 4] = 9
    place.image("a.png")
    place.mask("a.png", mask)
    assert place.run(labels={"ignore": 9, "vessel": 255}).labels == {"background": 0, "vessel": 1, "ignore": 2}


# --- what is refused -----------------------------------------------------------------------------------------------


def test_unpaired_files_are_all_counted_and_the_ending_is_suggested(place: Workplace) -> None:
    for i in range(12):
        place.image(f"eye{i:02d}.png")
        place.mask(f"eye{i:02d}_1stHO.png")
    words = place.refusal()
    assert "12 of 12 images and 12 of 12 masks have no partner" in words
    assert "image eye09.png: no mask 'eye09'" in words
    assert "eye10" not in words
    assert "and 14 more" in words
    assert "--mask-suffix '_1stHO'" in words


def test_unpaired_in_either_direction(place: Workplace) -> None:
    place.pairs("a")
    place.image("b.png")
    place.mask("c.png")
    words = place.refusal()
    assert "image b.png: no mask 'b'" in words
    assert "mask c.png: no image" in words


def test_several_endings_are_listed(place: Workplace) -> None:
    place.image("a.png")
    place.mask("a_1st.png")
    place.mask("a_2nd.png")
    assert "'_1st' (1 masks), '_2nd' (1 masks)" in place.refusal(mask_suffix="_1st")


@pytest.mark.parametrize("twin", ["a b.jpg", "a_b.jpg"])
def test_two_images_for_one_case(place: Workplace, twin: str) -> None:
    place.pairs("a b")
    place.image(twin)
    words = place.refusal()
    assert "a b.png" in words
    assert twin in words
    assert "case 'a_b'" in words


def test_two_masks_of_one_name(place: Workplace) -> None:
    place.pairs("a")
    place.mask("a.gif")
    assert "a.gif and a.png: name 'a'" in place.refusal()


def test_lossy_mask_names_file_value_and_count(place: Workplace) -> None:
    place.pairs("good")
    smudged = BINARY.copy()
    smudged[5, :2], smudged[5, 2] = 3, 250
    place.image("bad.png")
    place.mask("bad.png", smudged)
    words = place.refusal()
    assert "mask bad.png: value 3 (2 pixels), value 250 (1 pixels); expected 0, 255" in words
    assert "mask good.png" not in words
    assert "--label vessel=255" in words


def test_undeclared_value_names_file_value_and_count(place: Workplace) -> None:
    mask = BINARY.copy()
    mask[5, :4] = 7
    place.image("a.png")
    place.mask("a.png", mask)
    assert "mask a.png: value 7 (4 pixels); expected 0, 255" in place.refusal(labels={"vessel": 255})


def test_one_value_that_is_neither_1_nor_255_needs_a_name(place: Workplace) -> None:
    place.image("a.png")
    place.mask("a.png", BINARY // 2)
    assert "value 127 (6 pixels)" in place.refusal()
    assert place.run(labels={"vessel": 127}).labels["vessel"] == 1


def test_gap_between_values(place: Workplace) -> None:
    mask = BINARY // 255
    mask[5, 5] = 3
    place.image("a.png")
    place.mask("a.png", mask)
    assert "hold 0, 1, 3 but not 2" in place.refusal()


def test_masks_without_any_label(place: Workplace) -> None:
    place.image("a.png")
    place.mask("a.png", BINARY * 0)
    assert "none of the 1 masks has a nonzero pixel" in place.refusal()


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"background": 3}, "value 0 is the background"),
        ({"vessel": 0}, "value 0 is the background"),
        ({"artery": 1, "vein": 1}, "several names"),
    ],
)
def test_senseless_labels(place: Workplace, labels: dict[str, int], words: str) -> None:
    place.pairs("a")
    assert words in place.refusal(labels=labels)


def test_sizes_colours_and_values_are_reported_together(place: Workplace) -> None:
    place.pairs("good")
    place.image("small.png", RGB[:3])
    place.mask("small.png")
    place.image("colour.png")
    place.mask("colour.png", RGB)
    place.image("stray.png")
    place.mask("stray.png", BINARY + np.eye(H, W, dtype=np.uint8))
    words = place.refusal()
    assert "3 problems" in words
    assert "image small.png has 8x3 pixels, but mask small.png has 8x6" in words
    assert "mask colour.png is in colour: its channels differ in 48 pixels" in words
    assert "mask stray.png: value 1 (" in words


def test_only_ten_problems_are_shown(place: Workplace) -> None:
    for i in range(13):
        place.image(f"{i:02d}.png", RGB[:3])
        place.mask(f"{i:02d}.png")
    words = place.refusal()
    assert "13 problems" in words
    assert "mask 09.png" in words
    assert "mask 10.png" not in words
    assert "and 3 more" in words


def test_grey_among_colour_images(place: Workplace) -> None:
    place.pairs("a", "b")
    place.image("c.png", GREY)
    place.mask("c.png")
    words = place.refusal()
    assert "1 with 1 (e.g. c.png) and 2 with 3 (e.g. a.png)" in words


def test_transparent_image_and_mask(place: Workplace) -> None:
    clear = np.dstack([RGB, GREY * 0 + 255])
    clear[0, :5, 3] = 9
    place.image("a.png", clear)
    place.mask("a.png")
    place.image("b.png")
    place.mask("b.png", np.dstack([BINARY * 0] * 3 + [BINARY]))
    words = place.refusal()
    assert "a.png has 5 pixels that are not opaque" in words
    assert "b.png has 42 pixels that are not opaque" in words


def test_16_bit_images(place: Workplace) -> None:
    place.image("grey.tif", GREY.astype(np.uint16))
    place.mask("grey.png")
    (place.root / "images" / "colour.png").write_bytes(rgb16_png())
    place.mask("colour.png")
    words = place.refusal()
    assert "1 images have 16 bits (e.g. grey.tif)" in words
    assert "--normalization zscore" in words
    assert "colour.png has 16 bits per colour channel" in words


def test_unreadable_paged_and_exotic_files(place: Workplace) -> None:
    place.pairs("cut", "pages", "cmyk", "real")
    cut = place.root / "images" / "cut.png"
    cut.write_bytes(cut.read_bytes()[:50])
    page = Image.fromarray(BINARY)
    (place.root / "masks" / "pages.png").unlink()
    page.save(place.root / "masks" / "pages.tif", save_all=True, append_images=[page])
    (place.root / "images" / "cmyk.png").unlink()
    place.image("cmyk.jpg", Image.new("CMYK", (W, H)))
    (place.root / "masks" / "real.png").unlink()
    place.mask("real.tif", BINARY.astype(np.float32))
    words = place.refusal()
    assert "cut.png cannot be read" in words
    assert "pages.tif holds 2 pages" in words
    assert "image cmyk.jpg has pixels of type 'CMYK'" in words
    assert "mask real.tif has pixels of type 'F'" in words


def test_absent_and_empty_folders(place: Workplace) -> None:
    assert "holds no image" in place.refusal()
    place.image("a.png")
    (place.root / "masks").rmdir()
    assert "folder of masks" in place.refusal()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dataset_id": 0}, "1 to 999"),
        ({"dataset_id": 1000}, "1 to 999"),
        ({"name": "My Eyes"}, "'My Eyes'"),
        ({"name": "My__Eyes"}, "'My__Eyes'"),
        ({"normalization": "minmax"}, "expected one of rgb01, zscore"),
        ({"validate_on": "a"}, "--group-by"),
        ({"group_by": "("}, "--group-by '(' is not a regular expression"),
    ],
)
def test_senseless_options(place: Workplace, options: dict[str, Any], words: str) -> None:
    place.pairs("a")
    assert words in place.refusal(**options)


# --- groups, folds and test cases ----------------------------------------------------------------------------------


def test_groups_never_straddle_and_folds_are_balanced(place: Workplace) -> None:
    visits = {"p1": 5, "p2": 3, "p3": 2, "p4": 2, "p5": 1, "p6": 1}
    place.pairs(*(f"{p}_{k}" for p, n in visits.items() for k in range(n)))
    report = place.run(group_by=r"^(p\d)_", num_folds=3)
    splits = json.loads(place.splits.read_text())
    assert (place.target / "splits_final.json").read_text() == place.splits.read_text()
    assert report.splits == place.splits
    assert report.num_groups == 6
    for split in splits:
        assert {c[:2] for c in split["train"]}.isdisjoint(c[:2] for c in split["val"])
        assert len(split["train"]) + len(split["val"]) == 14
    assert sorted(len(split["val"]) for split in splits) == [4, 5, 5]
    assert sorted(c for split in splits for c in split["val"]) == sorted({c for s in splits for c in s["train"]})


def test_whole_match_is_the_group_without_a_capture_group(place: Workplace) -> None:
    place.pairs("p1_a", "p1_b", "p2_a", "p2_b")
    place.run(group_by=r"p\d", num_folds=2)
    assert json.loads(place.splits.read_text())[0] == {"train": ["p2_a", "p2_b"], "val": ["p1_a", "p1_b"]}


def test_images_without_a_group(place: Workplace) -> None:
    place.pairs("p1_a", "p2_a", "unknown")
    words = place.refusal(group_by=r"^(p\d)", num_folds=2)
    assert "finds no group in 1 of 3 images" in words
    assert "unknown.png" in words


@pytest.mark.parametrize("num_folds", [1, 3])
def test_folds_must_fit_the_groups(place: Workplace, num_folds: int) -> None:
    place.pairs("p1_a", "p1_b", "p2_a")
    assert f"{num_folds} folds asked for with 2 groups" in place.refusal(group_by=r"p\d", num_folds=num_folds)


def test_validate_on_gives_one_split(place: Workplace) -> None:
    place.pairs("p1_a", "p1_b", "p12_a", "p2_a")
    report = place.run(group_by=r"(p\d+)", validate_on="p1")
    assert json.loads(place.splits.read_text()) == [{"train": ["p12_a", "p2_a"], "val": ["p1_a", "p1_b"]}]
    assert report.fold_sizes == ((2, 2),)
    assert any("train fold 0 only" in line for line in report.lines())


@pytest.mark.parametrize("option", ["validate_on", "hold_out"])
@pytest.mark.parametrize(("expression", "amount"), [("p9", "none"), ("p.", "all"), ("p", "none")])
def test_expressions_must_match_some_groups(place: Workplace, option: str, expression: str, amount: str) -> None:
    place.pairs("p1_a", "p2_a")
    words = place.refusal(group_by=r"p\d", num_folds=2, **{option: expression})
    assert f"'{expression}' matches {amount} of the 2 groups (p1, p2)" in words


def test_held_out_groups_take_no_part_in_training(place: Workplace) -> None:
    place.pairs("p1_a", "p1_b", "p2_a", "p3_a")
    report = place.run(group_by=r"p\d", num_folds=2, hold_out="p1")
    assert (report.num_cases, report.num_test, report.num_groups) == (2, 2, 2)
    assert sorted(p.name for p in (place.target / "imagesTs").iterdir()) == ["p1_a_0000.png", "p1_b_0000.png"]
    assert sorted(p.name for p in (place.target / "labelsTs").iterdir()) == ["p1_a.png", "p1_b.png"]
    assert sorted(p.name for p in (place.target / "labelsTr").iterdir()) == ["p2_a.png", "p3_a.png"]
    assert "p1" not in place.splits.read_text()
    assert json.loads((place.target / "dataset.json").read_text())["numTraining"] == 2


def test_hold_out_matches_stems_when_there_are_no_groups(place: Workplace) -> None:
    place.pairs("test 1", "train 1")
    assert place.run(hold_out="test .*").num_test == 1
    assert (place.target / "labelsTs" / "test_1.png").is_file()


# --- what was there before -----------------------------------------------------------------------------------------


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_existing_id_is_refused_and_untouched(place: Workplace) -> None:
    place.pairs("a")
    place.run()
    before = content(place.root)
    words = place.refusal(name="Other")
    assert "Dataset501_Eyes" in words
    assert "--overwrite" in words
    assert content(place.root) == before


def test_overwrite_replaces_every_file(place: Workplace) -> None:
    place.pairs("a", "b")
    place.run(name="Old")
    (place.root / "images" / "b.png").unlink()
    (place.root / "masks" / "b.png").unlink()
    place.run(overwrite=True)
    assert [p.name for p in (place.root / "raw").iterdir()] == ["Dataset501_Eyes"]
    assert [p.name for p in (place.target / "labelsTr").iterdir()] == ["a.png"]


def test_failing_overwrite_leaves_the_old_data_set(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    place.pairs("a", "b")
    place.run(group_by="[ab]", num_folds=2)
    before = content(place.root)

    def full_disk(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("nnvit.data.importer._write_splits", full_disk)
    with pytest.raises(OSError, match="No space"):
        place.run(group_by="[ab]", num_folds=2, overwrite=True)
    assert content(place.root) == before
    assert [p.name for p in (place.root / "raw").iterdir()] == ["Dataset501_Eyes"]


def test_interrupted_import_leaves_nothing(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    place.pairs("a")

    def ctrl_c(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nnvit.data.importer._write_splits", ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        place.run()
    assert list((place.root / "raw").iterdir()) == []


def test_old_data_set_comes_back_if_the_new_one_cannot_take_its_place(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.pairs("a")
    place.run()
    before = content(place.root)
    rename = Path.rename

    def refuse_partial(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise PermissionError("not now")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse_partial)
    with pytest.raises(PermissionError):
        place.run(overwrite=True)
    assert content(place.root) == before


def test_other_splits_are_kept_unless_overwritten(place: Workplace) -> None:
    place.pairs("a", "b")
    place.splits.parent.mkdir(parents=True)
    place.splits.write_text("[]")
    assert "holds other splits" in place.refusal(group_by="[ab]", num_folds=2)
    assert place.splits.read_text() == "[]"
    place.run(group_by="[ab]", num_folds=2, overwrite=True)
    assert len(json.loads(place.splits.read_text())) == 2


def test_preprocessed_data_under_another_name_are_refused(place: Workplace) -> None:
    place.pairs("a")
    (place.root / "preprocessed" / "Dataset501_Old").mkdir(parents=True)
    words = place.refusal(overwrite=True)
    assert "Dataset501_Old" in words
    assert "another id" in words


def test_stale_preprocessed_data_and_splits_are_warned_of(place: Workplace) -> None:
    place.pairs("a")
    place.splits.parent.mkdir(parents=True)
    place.splits.write_text("[]")
    (place.splits.parent / "nnUNetPlans.json").write_text("{}")
    preprocessed, splits = place.run().warnings
    assert "re-run nnUNetv2_plan_and_preprocess" in preprocessed
    assert "delete it" in splits


def test_files_of_other_kinds_and_empty_masks_are_warned_of(place: Workplace) -> None:
    place.pairs("a", "b")
    place.mask("b.png", BINARY * 0)
    (place.root / "images" / "Thumbs.db").write_text("")
    (place.root / "images" / "._a.png").write_text("")
    ignored, unused, empty = place.run(labels={"vessel": 255, "drusen": 3}).warnings
    assert "1 other files" in ignored
    assert "Thumbs.db" in ignored
    assert "1 masks hold background alone, e.g. b.png" in empty
    assert "no mask holds the label 'drusen' (value 3)" in unused


def test_without_a_preprocessed_folder_the_splits_lie_with_the_raw_data(place: Workplace) -> None:
    place.pairs("a", "b")
    report = place.run(group_by="[ab]", num_folds=2, preprocessed=None)
    assert report.splits == place.target / "splits_final.json"
    assert not (place.root / "preprocessed").exists()


# --- the report, and real data -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("normalization", "words"), [("rgb01", "applied inside the network"), ("zscore", "are not applied")]
)
def test_report_says_what_the_normalization_means(place: Workplace, normalization: str, words: str) -> None:
    place.pairs("a")
    lines = place.run(normalization=normalization).lines()
    assert any(normalization in line and words in line for line in lines)
    assert lines[-1].endswith("nnUNetv2_plan_and_preprocess -d 501 -c 2d --verify_dataset_integrity")


def test_chase_db1_is_split_by_child(shared_data: Path, tmp_path: Path) -> None:
    chase = shared_data / "chase_db1"
    report = import_dataset(
        chase / "imagesTr",
        chase / "labelsTr",
        501,
        "CHASE",
        raw=tmp_path / "raw",
        preprocessed=tmp_path / "preprocessed",
        mask_suffix="_1stHO",
        labels={"vessel": 1},
        group_by=r"Image_(\d+)",
        validate_on="1[1-4]",
        progress=False,
    )
    assert report.fold_sizes == ((20, 8),)
    assert report.num_groups == 14
    assert 0.06 < report.label_fractions["vessel"] < 0.08
    (split,) = json.loads((tmp_path / "preprocessed" / "Dataset501_CHASE" / "splits_final.json").read_text())
    assert {re.sub(r"\D", "", case) for case in split["val"]} == {"11", "12", "13", "14"}
    with Image.open(report.folder / "imagesTr" / "Image_01L_0000.png") as image:
        assert (image.mode, image.size) == ("RGB", (999, 960))
