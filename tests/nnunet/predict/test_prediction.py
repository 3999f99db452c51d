"""`nnvit predict`: photographs as they are give the masks of their imported twins; nnU-Net's naming gives nnUNetv2_predict's.

To the last pixel with --exact; how far the fast way agrees is held by test_predictors.py.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from PIL import Image

from nnvit.data import mask_drawing
from nnvit.data.image_reading import Photo, read_image
from nnvit.data.importer import import_dataset
from nnvit.errors import DataError, PlansError, WeightsError
from nnvit.nnunet import checkpoint_file
from nnvit.nnunet.model_folder import ModelFolder, TrainedModel
from nnvit.nnunet.predict.cases import CaseFolder
from nnvit.nnunet.predict.mask_legend import MaskLegend, MaskValues
from nnvit.nnunet.predict.photographs import _fitted
from nnvit.nnunet.predict.predictors import FastPredictor
from nnvit.nnunet.train.trainer import nnUNetTrainer_nnvit
from tests.nnunet.conftest import (
    ONE_PROCESS,
    ONE_TILE,
    TINY,
    Run,
    assert_same_predictions,
    command,
    masks,
    predict_here,
    train,
)

UPRIGHT = 6  # EXIF: to be turned by 90 degrees


def pixels(path: Path) -> np.ndarray:
    """(H, W) or (H, W, 3) as stored, whatever EXIF says."""
    return np.asarray(Image.open(path))


# --- photographs -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Twins:
    """Photographs, their masks by `nnvit predict` (out), and stock nnUNetv2_predict's of the imported ones (stock)."""

    photos: dict[str, Path]
    cases: dict[str, str]
    out: Path
    stock: Path
    printed: str


@pytest.fixture(scope="module")
def twins(vessels: Path, crops: str, crop: Image.Image, nnvit: Run, tmp_path_factory: pytest.TempPathFactory) -> Twins:
    root = tmp_path_factory.mktemp("twins")
    photos, drawn = root / "my photos", root / "masks"
    photos.mkdir()
    drawn.mkdir()
    exif = Image.Exif()
    exif[0x0112] = UPRIGHT
    crop.crop((0, 0, 180, 120)).save(photos / "Œil gauche, 3.5.JPG", "JPEG", quality=90, exif=exif)
    crop.save(photos / "IMG_0001.jpeg")
    crop.crop((10, 10, 150, 190)).save(photos / "scan.v2.TIFF", "TIFF")
    crop.convert("RGBA").save(photos / "with alpha.png")
    crop.quantize(64).save(photos / "few_colours.png")
    for path in photos.iterdir():
        half = np.zeros(read_image(path).pixels.shape[:2], np.uint8)
        half[: len(half) // 2] = 255
        Image.fromarray(half).save(drawn / f"{path.stem}.png")
    import_dataset(photos, drawn, 150, "Twins", raw=root, preprocessed=None, progress=False)
    sources = json.loads((root / "Dataset150_Twins" / "dataset.json").read_text())["nnvit_import"]["sources"]
    words = [
        "-i",
        str(root / "Dataset150_Twins" / "imagesTr"),
        "-o",
        str(root / "stock"),
        "-d",
        crops,
        "-c",
        "2d",
        "-f",
        "0",
    ]
    words += ["-tr", "nnUNetTrainer_nnvit", "-p", "nnUNetPlans_vessels_s0", "-device", "cpu", "--save_probabilities"]
    command("nnUNetv2_predict", *words, *ONE_PROCESS)
    code, printed, errors = nnvit(
        "-i", photos, "-o", root / "out", "-m", vessels, "--overlay", "--probabilities", "--exact"
    )
    assert (code, errors) == (0, "")
    return Twins(
        photos={path.name: path for path in photos.iterdir()},
        cases={source["image"]: case for case, source in sources.items()},
        out=root / "out",
        stock=root / "stock",
        printed=printed,
    )


def test_photographs_of_any_name_get_the_masks_of_their_imported_twins(twins: Twins) -> None:
    names = {path.name for path in twins.out.glob("*.png")}
    assert names == {"Œil gauche, 3.5.png", "IMG_0001.png", "scan.v2.png", "with alpha.png", "few_colours.png"}
    assert len(twins.cases) == 5
    for photo, case in twins.cases.items():
        mask = pixels(twins.out / f"{Path(photo).stem}.png")
        assert 0 < np.count_nonzero(mask) < mask.size
        np.testing.assert_array_equal(mask, pixels(twins.stock / f"{case}.png"), photo)


def test_a_mask_lies_as_a_viewer_shows_the_photograph(twins: Twins) -> None:
    assert pixels(twins.photos["Œil gauche, 3.5.JPG"]).shape == (120, 180, 3)
    assert pixels(twins.out / "Œil gauche, 3.5.png").shape == (180, 120)
    assert "Œil gauche, 3.5.JPG -> Œil gauche, 3.5.png (turned upright, as its EXIF entry says)" in twins.printed


def test_probabilities_are_a_picture_per_label(twins: Twins) -> None:
    assert [path.name for path in (twins.out / "probabilities").iterdir()] == ["vessel"]
    for photo, case in twins.cases.items():
        got = pixels(twins.out / "probabilities" / "vessel" / f"{Path(photo).stem}.png")
        wanted = np.load(twins.stock / f"{case}.npz")["probabilities"][1, 0]
        assert got.dtype == np.uint16
        np.testing.assert_allclose(got / 65535, wanted, rtol=0, atol=1e-5)


def test_an_overlay_shows_the_photograph_with_the_area_tinted_and_its_contour_drawn(twins: Twins) -> None:
    photo = read_image(twins.photos["with alpha.png"]).pixels
    mask, drawn = pixels(twins.out / "with alpha.png") > 0, pixels(twins.out / "overlays" / "with alpha.png")
    colour = np.array(mask_drawing.COLOURS["sky blue"])
    assert drawn.shape == photo.shape
    assert np.array_equal(drawn[~mask], photo[~mask])
    left = mask & ~np.roll(mask, 1, axis=1)
    left[:, 0] = False
    assert left.any()
    assert (drawn[left] == colour).all()
    inside = mask & (drawn != colour).any(axis=-1)
    expected = photo[inside] + mask_drawing.FILL * (colour - photo[inside].astype(float))
    np.testing.assert_allclose(drawn[inside], expected, atol=0.51)
    assert "colours in the overlays: vessel sky blue" in twins.printed


def test_one_file_that_cannot_be_read_costs_only_itself(
    vessels: Path, crop: Image.Image, nnvit: Run, tmp_path: Path
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    crop.save(photos / "c.png")
    (photos / "b.png").write_bytes((photos / "c.png").read_bytes()[:2000])
    Image.fromarray(np.asarray(crop.convert("L")).astype(np.uint16) * 257).save(photos / "a.tif")
    (photos / "notes.txt").write_text("")
    code, printed, errors = nnvit("-i", photos, "-o", out, "-m", vessels)
    assert code == 1
    assert "1 predicted, 2 FAILED" in printed
    assert "other files are left out: notes.txt" in printed
    assert "failed: a.tif: it has 16 bits" in errors
    assert "failed: b.png: cannot be read" in errors
    assert [path.name for path in out.glob("*.png")] == ["c.png"]

    first = (out / "c.png").stat().st_mtime_ns
    crop.save(photos / "b.png")
    (photos / "a.tif").unlink()
    code, printed, _ = nnvit("-i", photos, "-o", out, "-m", vessels, "--continue_prediction")
    assert code == 0
    assert "1 of 2 are predicted already and kept" in printed
    assert (out / "c.png").stat().st_mtime_ns == first
    assert np.array_equal(pixels(out / "b.png"), pixels(out / "c.png"))

    code, _, errors = nnvit("-i", photos, "-o", out, "-m", vessels, "--continue_prediction", "--disable_tta")
    assert code == 2
    assert "was predicted with mirroring True, now False" in errors
    code, printed, _ = nnvit("-i", photos / "c.png", "-o", out, "-m", vessels, "--values", "visible")
    assert code == 0
    assert "1 of 1 are predicted already and overwritten; --continue_prediction keeps them" in printed
    assert (out / "c.png").stat().st_mtime_ns > first
    assert set(np.unique(pixels(out / "c.png"))) == {0, 255}
    code, _, errors = nnvit("-i", photos, "-o", out, "-m", vessels, "--continue_prediction")
    assert code == 2
    assert (
        "c.png was predicted with values {'background': 0, 'vessel': 255}, now {'background': 0, 'vessel': 1}" in errors
    )


@pytest.fixture
def masks_of_another_run(vessels: Path, crop: Image.Image, nnvit: Run, tmp_path: Path) -> tuple[Path, Path]:
    """Three photographs and their masks, in which vessels are 1. Tests go on with 255: a mask shows which run wrote it."""
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for name in "abc":
        crop.crop((0, 0, 128, 128)).save(photos / f"{name}.png")
    assert nnvit("-i", photos, "-o", out, "-m", vessels, "--overlay")[0] == 0
    return photos, out


def values_in(out: Path) -> dict[str, set[int]]:
    return {path.stem: set(np.unique(pixels(path)).tolist()) for path in out.glob("*.png")}


def test_after_an_interruption_no_mask_of_another_run_is_kept_as_this_ones(
    vessels: Path, masks_of_another_run: tuple[Path, Path], nnvit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, out = masks_of_another_run
    words = ["-i", photos, "-o", out, "-m", vessels, "--overlay", "--values", "visible"]
    original, calls = FastPredictor.predict_logits_from_preprocessed_data, []

    def stopped(self: FastPredictor, data: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(FastPredictor, "predict_logits_from_preprocessed_data", stopped)
        assert nnvit(*words)[0] == 130
    assert values_in(out) == {"a": {0, 255}}
    assert [path.name for path in (out / "overlays").iterdir()] == ["a.png"]
    code, printed, _ = nnvit(*words, "--continue_prediction")
    assert code == 0
    assert "1 of 3 are predicted already and kept" in printed
    assert values_in(out) == {name: {0, 255} for name in "abc"}


def test_where_a_photograph_fails_no_mask_of_another_run_is_kept_as_this_ones(
    vessels: Path, masks_of_another_run: tuple[Path, Path], nnvit: Run
) -> None:
    photos, out = masks_of_another_run
    words = ["-i", photos, "-o", out, "-m", vessels, "--overlay", "--values", "visible"]
    whole = (photos / "b.png").read_bytes()
    (photos / "b.png").write_bytes(whole[:2000])
    assert nnvit(*words)[0] == 1
    assert values_in(out) == {"a": {0, 255}, "c": {0, 255}}
    (photos / "b.png").write_bytes(whole)
    assert nnvit(*words, "--continue_prediction")[0] == 0
    assert values_in(out) == {name: {0, 255} for name in "abc"}


def test_what_a_failure_left_half_written_does_not_pass_for_anothers(
    vessels: Path, crop: Image.Image, nnvit: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The overlay was written, the mask was not."""
    crop.crop((0, 0, 128, 128)).save(tmp_path / "eye.png")
    words = ["-i", tmp_path / "eye.png", "-o", tmp_path / "out", "-m", vessels, "--overlay"]

    def full(self: MaskLegend, labels: np.ndarray) -> np.ndarray:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(MaskLegend, "translate", full)
        assert nnvit(*words)[0] == 1
    assert nnvit(*words)[0] == 0
    assert values_in(tmp_path / "out") == {"eye": {0, 1}}


def test_files_of_others_are_never_overwritten(vessels: Path, crop: Image.Image, nnvit: Run, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    out.mkdir()
    crop.save(photos / "eye.jpg")
    (out / "eye.png").write_text("drawn by hand")
    for flags in ((), ("--continue_prediction",)):
        code, _, errors = nnvit("-i", photos, "-o", out, "-m", vessels, *flags)
        assert code == 2
        assert "that nnvit predict did not write, e.g. eye.png" in errors
    assert (out / "eye.png").read_text() == "drawn by hand"
    code, _, errors = nnvit("-i", photos, "-o", photos, "-m", vessels)
    assert code == 2
    assert "a folder of their own" in errors


def test_two_photographs_of_one_name_are_refused(vessels: Path, crop: Image.Image, nnvit: Run, tmp_path: Path) -> None:
    for name in ("eye.jpg", "Eye.png", "other.png"):
        crop.save(tmp_path / name)
    code, _, errors = nnvit("-i", tmp_path, "-o", tmp_path / "out", "-m", vessels)
    assert code == 2
    assert "Eye.png and eye.jpg: both would become eye.png" in errors
    assert not (tmp_path / "out").exists()


def test_folders_within_are_taken_in_if_asked(vessels: Path, crop: Image.Image, nnvit: Run, tmp_path: Path) -> None:
    """The output folder within the photographs' own is left out."""
    (tmp_path / "patient 1" / "left").mkdir(parents=True)
    crop.save(tmp_path / "patient 1" / "left" / "eye.png")
    words = ["-i", tmp_path, "-o", tmp_path / "out", "-m", vessels]
    code, _, errors = nnvit(*words)
    assert code == 2
    assert "--recursive takes them in: patient 1, patient 1/left" in errors
    for _ in range(2):
        code, printed, _ = nnvit(*words, "--recursive", "--overlay")
        assert code == 0
        assert "1/1 patient 1/left/eye.png -> patient 1/left/eye.png" in printed
    assert (tmp_path / "out" / "overlays" / "patient 1" / "left" / "eye.png").is_file()


def test_a_model_of_stock_nnunet_predicts_photographs_as_it_predicts_cases(
    crops: str, crop: Image.Image, folders: Path, nnvit: Run, tmp_path: Path
) -> None:
    """A small U-Net, trained by stock nnU-Net in a few steps; its checkpoint holds what stock nnU-Net saves."""
    path = folders / "preprocessed" / crops / "nnUNetPlans.json"
    plans = json.loads(path.read_text()) | {"plans_name": "nnUNetPlans_small"}
    planned = plans["configurations"]["2d"]
    planned["patch_size"], planned["batch_size"] = [64, 64], 2
    network = planned["architecture"]["arch_kwargs"]
    network |= {"n_stages": 3, "features_per_stage": [8, 8, 8]}
    network |= {key: network[key][:3] for key in ("kernel_sizes", "strides", "n_conv_per_stage")}
    network["n_conv_per_stage_decoder"] = network["n_conv_per_stage_decoder"][:2]
    path.with_name("nnUNetPlans_small.json").write_text(json.dumps(plans))
    trainer = get_trainer_from_args(crops, "2d", 0, "nnUNetTrainer", "nnUNetPlans_small", device=torch.device("cpu"))
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 1, 3, 1
    trainer.run_training()
    (tmp_path / "in").mkdir()
    (tmp_path / "stock").mkdir()
    crop.save(tmp_path / "in" / "eye_0000.png")
    stock_here(
        folders / "results" / crops / "nnUNetTrainer__nnUNetPlans_small__2d", (0,), tmp_path / "in", tmp_path / "stock"
    )
    crop.save(tmp_path / "My eye.PNG")
    code, printed, _ = nnvit(
        "-i",
        tmp_path / "My eye.PNG",
        "-o",
        tmp_path / "out",
        "-d",
        crops,
        "-c",
        "2d",
        "-p",
        "nnUNetPlans_small",
        "--exact",
    )
    assert code == 0
    assert "vessel=1 (nnU-Net's labels)" in printed
    mask = pixels(tmp_path / "out" / "My eye.png")
    assert 0 < np.count_nonzero(mask) < mask.size
    assert np.array_equal(mask, pixels(tmp_path / "stock" / "eye.png"))


# --- what fits a model --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(vessels: Path) -> TrainedModel:
    return ModelFolder.read(vessels).open()


def with_channels(model: TrainedModel, count: int) -> TrainedModel:
    return replace(
        model, dataset_json=model.dataset_json | {"channel_names": {str(i): "rgb_to_0_1" for i in range(count)}}
    )


def test_grey_is_three_equal_channels_and_the_reverse(model: TrainedModel) -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    colour = np.stack([grey] * 3, axis=-1)
    wanted = colour.transpose(2, 0, 1)[:, None].astype(np.float32)
    photo, notes = _fitted(model, Photo(pixels=grey))
    assert np.array_equal(photo.as_nnunet()[0], wanted)
    assert notes == ["grey, taken as three equal channels"]
    photo, notes = _fitted(with_channels(model, 1), Photo(pixels=colour))
    assert np.array_equal(photo.as_nnunet()[0], wanted[:1])
    assert notes == ["three equal channels, taken as grey"]


def test_pictures_that_do_not_fit_are_refused(model: TrainedModel) -> None:
    colour = np.zeros((2, 2, 3), np.uint8)
    colour[0, 0, 1] = 7
    with pytest.raises(DataError, match=r"in colour \(its channels differ in 1 pixels\)"):
        _fitted(with_channels(model, 1), Photo(pixels=colour))
    with pytest.raises(DataError, match="has 3 channels, the model takes 4"):
        _fitted(with_channels(model, 4), Photo(pixels=colour))
    with pytest.raises(DataError, match=r"16 bits \(up to 300\)"):
        _fitted(model, Photo(pixels=np.full((2, 2), 300, np.uint16)))


def labelled(model: TrainedModel, labels: dict[str, Any], **more: Any) -> TrainedModel:
    return replace(model, dataset_json=model.dataset_json | {"labels": labels} | more)


def test_masks_hold_the_values_of_the_imported_ones_where_they_are_known(model: TrainedModel) -> None:
    labels = {"background": 0, "artery": 1, "vein": 2, "ignore": 3}
    imported = labelled(model, labels, nnvit_import={"stored_values": {"artery": 300, "vein": 12, "ignore": 255}})
    maps = np.array([[0, 1], [2, 1]])
    assert MaskLegend.of(imported, None).translate(maps).tolist() == [[0, 300], [12, 300]]
    assert MaskLegend.of(imported, MaskValues.LABELS).translate(maps).tolist() == maps.tolist()
    visible = MaskLegend.of(imported, MaskValues.VISIBLE).translate(maps)
    assert (visible.tolist(), visible.dtype) == ([[0, 128], [255, 128]], np.uint8)
    stock = labelled(model, labels)
    assert MaskLegend.of(stock, None).kind is MaskValues.LABELS
    assert "look black in a viewer" in MaskLegend.of(stock, None).lines()[1]
    with pytest.raises(DataError, match="--values labels or visible"):
        MaskLegend.of(stock, MaskValues.STORED)


def test_regions_are_predicted_as_by_stock_nnunet(vessels: Path, crop: Image.Image, nnvit: Run, tmp_path: Path) -> None:
    """A network of two outputs, read as two overlapping regions."""
    folder = tmp_path / "model"
    shutil.copytree(vessels, folder)
    described = json.loads((folder / "dataset.json").read_text())
    described |= {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]}
    (folder / "dataset.json").write_text(json.dumps(described))
    model = ModelFolder.read(folder).open()
    assert MaskLegend.of(model, None).names == {1: "whole", 2: "core"}
    assert MaskLegend.of(model, None).channels == {0: "whole", 1: "core"}
    (tmp_path / "in").mkdir()
    crop.save(tmp_path / "in" / "eye_0000.png")
    (tmp_path / "stock").mkdir()
    stock_here(folder, (0,), tmp_path / "in", tmp_path / "stock")
    crop.save(tmp_path / "eye.png")
    assert nnvit("-i", tmp_path / "eye.png", "-o", tmp_path / "out", "-m", folder, "--probabilities", "--exact")[0] == 0
    wanted = np.load(tmp_path / "stock" / "eye.npz")["probabilities"]
    assert {1, 2} <= set(np.unique(pixels(tmp_path / "stock" / "eye.png")))
    assert np.array_equal(pixels(tmp_path / "out" / "eye.png"), pixels(tmp_path / "stock" / "eye.png"))
    for channel, name in enumerate(("whole", "core")):
        got = pixels(tmp_path / "out" / "probabilities" / name / "eye.png")
        np.testing.assert_allclose(got / 65535, wanted[channel, 0], rtol=0, atol=1e-5)


NOISE = np.random.default_rng(0).integers(0, 256, (5, 70, 90), np.uint8)


def save_pages(folder: Path) -> Path:
    tifffile.imwrite(folder / "eye.tif", NOISE, photometric="minisblack")
    return folder / "eye.tif"


def save_with_measured_alpha(folder: Path) -> Path:
    Image.fromarray(NOISE[:4].transpose(1, 2, 0)).save(folder / "eye.png")
    return folder / "eye.png"


@pytest.mark.parametrize(("save", "channels"), [(save_pages, 5), (save_with_measured_alpha, 4)])
def test_channels_that_were_named_at_the_import_are_channels_of_a_photograph(
    save: Callable[[Path], Path], channels: int, vessels: Path, nnvit: Run, tmp_path: Path
) -> None:
    """The network need not be trained: its mask of the imported twin is the expected one."""
    for part in ("photos", "drawn", "stock"):
        (tmp_path / part).mkdir()
    photo = save(tmp_path / "photos")
    Image.fromarray((NOISE[0] > 99).astype(np.uint8)).save(tmp_path / "drawn" / "eye.png")
    names = tuple("abcde"[:channels])
    import_dataset(
        photo.parent, tmp_path / "drawn", 151, "Named", raw=tmp_path, preprocessed=None, progress=False,
        channel_names=names,
    )  # fmt: skip
    model = untrained(vessels, tmp_path / "Dataset151_Named" / "dataset.json", tmp_path / "model")
    stock_here(model, (0,), tmp_path / "Dataset151_Named" / "imagesTr", tmp_path / "stock")
    words = ["-i", photo, "-o", tmp_path / "out", "-m", model, "--probabilities", "--overlay", "--exact"]
    code, _, errors = nnvit(*words)
    assert (code, errors) == (0, "")
    (stock,) = (tmp_path / "stock").glob("*.npz")
    wanted = np.load(stock)["probabilities"][1, 0]
    assert np.ptp(wanted) > 1e-3
    (got,) = (tmp_path / "out" / "probabilities").glob("*/eye.png")
    np.testing.assert_allclose(pixels(got) / 65535, wanted, rtol=0, atol=1e-5)
    assert pixels(tmp_path / "out" / "overlays" / "eye.png").shape == (70, 90, 3)


def untrained(model: Path, dataset_json: Path, out: Path) -> Path:
    """A model folder like another, for the channels of another data set, z-scored."""
    (out / "fold_0").mkdir(parents=True)
    shutil.copy(dataset_json, out)
    described, plans = (json.loads(path.read_text()) for path in (dataset_json, model / "plans.json"))
    channels = len(described["channel_names"])
    plans["configurations"]["2d"] |= {
        "normalization_schemes": ["ZScoreNormalization"] * channels,
        "use_mask_for_norm": [False] * channels,
    }
    intensities = "foreground_intensity_properties_per_channel"  # which z-scores do not depend on
    plans[intensities] = {str(i): plans[intensities]["0"] for i in range(channels)}
    (out / "plans.json").write_text(json.dumps(plans))
    manager = PlansManager(plans)
    torch.manual_seed(0)
    network = nnUNetTrainer_nnvit.build_network_architecture(
        manager, manager.get_configuration("2d"), channels, 2, enable_deep_supervision=False
    )
    content = checkpoint_file.read(model / "fold_0" / "checkpoint_final.pth") | {
        "network_weights": network.state_dict()
    }
    checkpoint_file.write(out / "fold_0" / "checkpoint_final.pth", content)
    return out


def test_masks_of_an_earlier_training_are_not_kept(
    vessels: Path, crop: Image.Image, nnvit: Run, tmp_path: Path
) -> None:
    """The same folder, fold and checkpoint name, other weights."""
    model = tmp_path / "model"
    shutil.copytree(vessels, model)
    crop.crop((0, 0, 128, 128)).save(tmp_path / "eye.png")
    words = ["-i", tmp_path / "eye.png", "-o", tmp_path / "out", "-m", model]
    assert nnvit(*words)[0] == 0
    assert nnvit(*words, "--continue_prediction")[0] == 0
    content = checkpoint_file.read(model / "fold_0" / "checkpoint_final.pth")
    weights = {name: 2 * tensor for name, tensor in content["network_weights"].items()}
    checkpoint_file.write(model / "fold_0" / "checkpoint_final.pth", content | {"network_weights": weights})
    code, _, errors = nnvit(*words, "--continue_prediction")
    assert code == 2
    assert "was predicted with checkpoint_sha256 [" in errors


# --- nnU-Net's naming ---------------------------------------------------------------------------------------------------


def stock_here(model: Path, folds: tuple[int, ...], images: Path, out: Path) -> None:
    """Stock nnU-Net's predictor, which loads the checkpoints itself."""
    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), folds)
    predictor.predict_from_files_sequential(str(images), str(out), save_probabilities=True)


@pytest.mark.parametrize(
    ("names", "cases"),
    [
        (["a_0000.png", "b c_0000.png"], True),
        (["a_0000.png", "a_0001.png", "notes.txt", ".hidden.png"], True),
        (["IMG_0001.png", "IMG_0002.png"], False),  # a camera's
        (
            ["IMG_0000.png", "IMG_0001.png", "IMG_0002.png", "IMG_0003.png"],
            False,
        ),  # more files than the model has channels
        (["a_0000.png", "b.png"], False),
        (["a_0000.png", "b_0000.jpg"], False),
    ],
)
def test_nnunets_naming_is_told_from_a_cameras(
    names: list[str], cases: bool, model: TrainedModel, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert CaseFolder(tmp_path, model).has_nnunets_naming() is cases


def test_an_ensemble_of_all_trained_folds_is_nnunets(
    vessels: Path, crop: Image.Image, crops: str, folders: Path, nnvit: Run, tmp_path: Path
) -> None:
    """Runs in nnU-Net's own processes, and with overlays. A fold that is still in training is left out."""
    model, images = tmp_path / "model", tmp_path / "in"
    shutil.copytree(vessels, model)
    for fold, name in ((1, "checkpoint_final.pth"), (2, "checkpoint_latest.pth")):
        (model / f"fold_{fold}").mkdir()
        shutil.copy(model / "fold_0" / "checkpoint_best.pth", model / f"fold_{fold}" / name)
    images.mkdir()
    crop.save(images / "eye_0000.png")
    stock_here(model, (0, 1), images, tmp_path)
    code, printed, _ = nnvit(
        "-i", images, "-o", tmp_path / "out", "-m", model, "--overlay", "--exact", "-npp", 1, "-nps", 1
    )
    assert code == 0
    assert "folds 0, 1, checkpoint_final.pth" in printed
    assert "1/1 predicted, ETA 0 s" in printed
    assert np.array_equal(pixels(tmp_path / "out" / "eye.png"), pixels(tmp_path / "eye.png"))
    assert pixels(tmp_path / "out" / "overlays" / "eye.png").shape == (*crop.size[::-1], 3)
    with pytest.raises(WeightsError, match=r"fold_2 of .* lacks checkpoint_final.pth.*fold_2: checkpoint_latest.pth"):
        ModelFolder.read(model).open([0, 2])


def test_regions_of_volumes_are_nnunets_with_nnunets_flags(regions: str, nnvit: Run, tmp_path: Path) -> None:
    quick = ["training.num_epochs=1", "training.mirroring=false", ONE_TILE]
    fold = train(regions, "segformer_default", *TINY, *quick, "name=flags")
    predict_here(fold, regions, tmp_path / "stock")
    images, out = tmp_path / "stock" / "in", tmp_path / "out"
    named = ["-d", 104, "-c", "2d", "-tr", "nnUNetTrainer_nnvit", "-p", "nnUNetPlans_flags"]
    words = ["-i", images, "-o", out, *named, "-f", 0, "--save_probabilities", "--exact", *ONE_PROCESS]
    assert nnvit(*words)[0] == 0
    assert_same_predictions(tmp_path / "stock", out, 1, ".nii.gz")
    assert {"dataset.json", "plans.json", "predict_from_raw_data_args.json"} <= {path.name for path in out.iterdir()}
    (mask,) = out.glob("*.nii.gz")
    first = mask.stat().st_mtime_ns
    code, printed, _ = nnvit(*words, "--continue_prediction")
    assert code == 0
    assert "1 of 1 cases are predicted already and kept" in printed
    assert mask.stat().st_mtime_ns == first
    assert nnvit(*words, "-num_parts", 2, "-part_id", 1)[1].endswith(f"0 predicted: {out}\n")
    code, _, errors = nnvit("-i", images, "-o", out, *named, "--as", "photographs")
    assert code == 2
    assert "was trained on .nii.gz files" in errors
    assert len(masks(out, ".nii.gz")) == 1


def test_a_folder_that_is_no_model_is_told_apart(vessels: Path, nnvit: Run, tmp_path: Path) -> None:
    with pytest.raises(PlansError, match=r"it looks like a fold of one: give .*__2d and -f 0"):
        ModelFolder.read(vessels / "fold_0").open()
    with pytest.raises(PlansError, match=f"give one of those within: .*{vessels.name}"):
        ModelFolder.read(vessels.parent).open()
    code, _, errors = nnvit("-i", tmp_path, "-o", tmp_path, "-d", "103", "-c", "2d")
    assert code == 2
    assert "-tr nnUNetTrainer_nnvit -p nnUNetPlans_vessels_s0 -c 2d" in errors
    code, _, errors = nnvit("-i", tmp_path, "-o", tmp_path, "-d", "999", "-c", "2d")
    assert code == 2
    assert "has no trained model" in errors
