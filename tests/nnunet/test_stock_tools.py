"""Stock nnU-Net's other tools on our folders: ensembles, the best configuration, zips; and a data set of unusual shape."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from nnunetv2.ensembling.ensemble import ensemble_folders
from nnunetv2.model_sharing.model_export import export_pretrained_model
from nnunetv2.model_sharing.model_import import install_model_from_zip_file
from PIL import Image

from nnvit.nnunet import checkpoint_file

from .conftest import ONE_PROCESS, SHORT, TINY, assert_same_predictions, command, fold_of, masks, plan, predict, train

TRAINER = "nnUNetTrainer_nnvit"
LEARNING = (
    "training.num_epochs=1",
    "training.num_iterations_per_epoch=25",
    "training.lr=5e-3",
    "training.patch_size=[128,112]",
)
MODELS = {
    "segformer": ("segformer_default", TINY),
    "vit": ("vit_default", (*SHORT, "model.decoder_channels=16", "model.stem_channels=4", "lora.enabled=false")),
}


@pytest.fixture(scope="module")
def models(paired: str) -> dict[str, Path]:
    """Two recipes, each trained on both folds with the probabilities that ensembling needs."""
    found = {}
    for name, (recipe, keys) in MODELS.items():
        for fold in (0, 1):
            flags = {"fold": fold, "export_validation_probabilities": True}
            last = train(paired, recipe, *keys, *LEARNING, f"name=tools_{name}", **flags)
        found[name] = last.parent
    return found


def predict_both(models: dict[str, Path], dataset: str, out: Path) -> dict[str, Path]:
    """The output of stock nnUNetv2_predict for each model with both of its folds, probabilities included."""
    for name in models:
        words = ["-i", str(Path(os.environ["nnUNet_raw"]) / dataset / "imagesTr"), "-o", str(out / name)]
        model = ["-d", dataset, "-c", "2d", "-tr", TRAINER, "-p", f"nnUNetPlans_tools_{name}", "-f", "0", "1"]
        command("nnUNetv2_predict", *words, *model, "-device", "cpu", "--save_probabilities", *ONE_PROCESS)
    return {name: out / name for name in models}


def test_ensemble_best_configuration_and_zips(models: dict[str, Path], paired: str, tmp_path: Path) -> None:
    predicted = predict_both(models, paired, tmp_path)
    expected = masks(predicted["segformer"], ".png")
    assert len(expected) == 4

    # ensembling: the mean of the probabilities decides
    ensemble_folders([str(folder) for folder in predicted.values()], str(tmp_path / "both"), num_processes=1)
    for name, mask in masks(tmp_path / "both", ".png").items():
        means = np.mean(
            [np.load(folder / f"{name[:-4]}.npz")["probabilities"] for folder in predicted.values()], axis=0
        )
        assert np.array_equal(mask.squeeze(), means.argmax(0).squeeze())

    # the best configuration: both models and their ensemble are scored on the validation of both folds
    plans = [f"nnUNetPlans_tools_{name}" for name in models]
    flags = ["-c", "2d", "-tr", TRAINER, "-f", "0", "1", "-np", "1"]
    command("nnUNetv2_find_best_configuration", paired[7:10], "-p", *plans, *flags)
    results = Path(os.environ["nnUNet_results"]) / paired
    scored = json.loads((results / "inference_information.json").read_text())["considered_models"]
    assert len(scored) == 2
    assert any(
        "ensemble" in name for name in json.loads((results / "inference_information.json").read_text())["all_results"]
    )

    # a zip: exported, the results deleted, imported, predicted
    archive = tmp_path / "model.zip"
    export_pretrained_model(paired, str(archive), ("2d",), TRAINER, plans[0], (0, 1))
    kept = tmp_path / "kept"
    shutil.move(results, kept)
    try:
        install_model_from_zip_file(str(archive))
        assert not list(results.rglob("nnvit_run.json"))  # nothing of ours beside nnU-Net's own files is needed
        again = predict_both({"segformer": results}, paired, tmp_path / "again")["segformer"]
        got = masks(again, ".png")
    finally:
        shutil.rmtree(results, ignore_errors=True)
        shutil.move(kept, results)
    assert got.keys() == expected.keys()
    assert all(np.array_equal(got[name], expected[name]) for name in expected)


def test_five_channels_an_odd_patch_and_a_batch_of_one(folders: Path, shared_data: Path, tmp_path: Path) -> None:
    name = "Dataset107_FiveChannels"
    raw = folders / "raw" / name
    (raw / "imagesTr").mkdir(parents=True)
    (raw / "labelsTr").mkdir()
    for case in ("Image_04L", "Image_05L", "Image_06L"):
        picture = Image.open(shared_data / "chase_db1" / "imagesTr" / f"{case}.jpg").crop((300, 300, 700, 640))
        colours, grey = np.asarray(picture), np.asarray(picture.convert("L"))
        planes = [*np.moveaxis(colours, -1, 0), grey, 255 - grey]
        for channel, plane in enumerate(planes):
            Image.fromarray(plane).save(raw / "imagesTr" / f"{case}_{channel:04d}.png")
        mask = Image.open(shared_data / "chase_db1" / "labelsTr" / f"{case}_1stHO.png").crop((300, 300, 700, 640))
        Image.fromarray(np.asarray(mask).astype(np.uint8)).save(raw / "labelsTr" / f"{case}.png")
    channels = {str(i): channel for i, channel in enumerate(("R", "G", "B", "grey", "inverted"))}
    content = {"channel_names": channels, "labels": {"background": 0, "vessel": 1}, "file_ending": ".png"}
    plan(folders, name, content)
    keys = [*TINY, "training.patch_size=[500,333]", "training.batch_size=1", "training.num_epochs=1", "name=odd"]
    fold = train(name, "segformer_default", *keys, export_validation_probabilities=True)
    run = json.loads((fold / "nnvit_run.json").read_text())
    assert (run["patch_size"], run["batch_size"]) == ([500, 333], 1)
    weights = checkpoint_file.read(fold / "checkpoint_final.pth")["network_weights"]
    assert any(value.ndim == 4 and value.shape[1] == 5 for value in weights.values())
    predict(fold_of(name, TRAINER, "nnUNetPlans_odd"), name, tmp_path, *ONE_PROCESS)
    assert_same_predictions(fold / "validation", tmp_path, 1, ".png")
