"""Small real data sets in nnU-Net folders of their own, planned and preprocessed by stock commands, once a session."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
import torch
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_file_ending
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from PIL import Image

from nnvit import cli
from nnvit.nnunet.plan import plans_file
from nnvit.nnunet.train import run_training
from nnvit.recipe import loading
from nnvit.records.json_files import write_json

SHORT = [
    "model.backbone=tiny",
    "model.backbone_size=vit",
    "model.weights=random",
    "training.num_iterations_per_epoch=3",
    "training.num_val_iterations_per_epoch=1",
    "training.num_epochs=2",
    "training.batch_size=2",
    "training.warmup_epochs=0",
    "training.precision=fp32",
]
"""Makes any recipe train in seconds, once its head and neck are made small too."""

TINY = [*SHORT, "model.decoder_hidden_size=16", "model.neck_args.out_channels=16", "lora.enabled=false"]
"""SegFormer's head on a frozen backbone, trained in seconds."""

ONE_TILE = "training.patch_size=[56,48]"
"""Holds a slice of any of the hippocampus volumes, so that prediction is quick."""

VESSELS = [
    *TINY,
    "training.num_iterations_per_epoch=30",
    "training.lr=2e-2",
    "training.patch_size=[128,128]",
    "training.seed=0",
    "name=vessels",
]
"""A short training that segments vessels, although not well. The seed makes it the same network in every run."""

Run = Callable[..., tuple[int, str, str]]
"""Words of a command -> its exit code, output and errors."""

ONE_PROCESS = ("-npp", "0", "-nps", "0")


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """nnU-Net's three folders; its environment variables point there, and there is no nnUNet_extTrainer."""
    root = tmp_path_factory.mktemp("nnunet")
    variables = {f"nnUNet_{name}": str(root / name) for name in ("raw", "preprocessed", "results")}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            Path(value).mkdir()
            patch.setenv(name, value)
        patch.delenv("nnUNet_extTrainer", raising=False)
        threads = torch.get_num_threads()
        torch.set_num_threads(2)
        yield root
        torch.set_num_threads(threads)


def command(*words: str, **environment: str) -> str:
    """Runs a command of this environment as a user would, in an own process; returns all that it printed."""
    program = str(Path(sys.executable).parent / words[0])
    env = {**os.environ, "nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "2", **environment}
    done = subprocess.run([program, *words[1:]], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def train(
    dataset: str, recipe: str, *overrides: str, trainer: str = "nnUNetTrainer_nnvit", fold: int = 0, **flags: Any
) -> Path:
    """Plans a shipped recipe and trains a fold in this process; returns the fold's folder."""
    identifier = plans_file.plan(dataset, "2d", loading.load_recipe([recipe], overrides)).identifier
    run_training.run_training(dataset, "2d", fold, trainer, identifier, device=torch.device("cpu"), **flags)
    return fold_of(dataset, trainer, identifier).with_name(f"fold_{fold}")


def fold_of(dataset: str, trainer: str, identifier: str) -> Path:
    """The folder in which fold 0 of the configuration 2d is trained."""
    return Path(os.environ["nnUNet_results"]) / dataset / f"{trainer}__{identifier}__2d" / "fold_0"


def predict(fold: Path, dataset: str, out: Path, *flags: str) -> None:
    """Stock nnUNetv2_predict on the fold's validation cases; nnvit is merely installed."""
    images = _validation_images(fold, dataset, out)
    trainer, plans, _ = fold.parent.name.split("__")
    words = ["-i", str(images), "-o", str(out), "-f", "0", "-device", "cpu", "--save_probabilities"]
    assert "nnUNet_extTrainer" not in os.environ
    command("nnUNetv2_predict", *words, "-d", dataset, "-c", "2d", "-tr", trainer, "-p", plans, *flags)


def predict_here(fold: Path, dataset: str, out: Path) -> None:
    """The same by stock nnU-Net's predictor in this process, which takes half the time."""
    images = _validation_images(fold, dataset, out)
    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(fold.parent), (0,))
    predictor.predict_from_files_sequential(str(images), str(out), save_probabilities=True)


def _validation_images(fold: Path, dataset: str, out: Path) -> Path:
    cases = {path.name.split(".")[0] for path in (fold / "validation").iterdir() if path.suffix != ".json"}
    images = out / "in"
    images.mkdir(parents=True)
    for path in (Path(os.environ["nnUNet_raw"]) / dataset / "imagesTr").iterdir():
        if re.sub(r"_\d{4}\..*", "", path.name) in cases:
            shutil.copy(path, images)
    return images


def masks(folder: Path, ending: str) -> dict[str, np.ndarray]:
    reader = determine_reader_writer_from_file_ending(ending)()
    return {path.name: reader.read_seg(str(path))[0] for path in folder.glob(f"*{ending}")}


def probabilities(folder: Path) -> dict[str, np.ndarray]:
    """The softmax maps that --npz and --save_probabilities write."""
    return {path.name: np.load(path)["probabilities"] for path in folder.glob("*.npz")}


def assert_same_predictions(expected: Path, got: Path, cases: int, ending: str) -> None:
    """Asserts identical masks and equal probabilities (nnU-Net's softmax may differ in the last bit between two processes)."""
    wanted, found = masks(expected, ending), masks(got, ending)
    assert len(wanted) == cases
    assert wanted.keys() == found.keys()
    assert all(np.array_equal(wanted[name], found[name]) for name in wanted)
    wanted, found = probabilities(expected), probabilities(got)
    assert len(wanted) == cases
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=0, atol=2e-7)


@pytest.fixture(scope="session")
def chase(folders: Path, shared_data: Path) -> str:
    """Six photographs of three children in one fold: four train, two validate. Three channels in 0..1."""
    few = folders / "few"
    for kind in ("imagesTr", "labelsTr"):
        (few / kind).mkdir(parents=True)
        for child in ("01", "02", "03"):
            for path in (shared_data / "chase_db1" / kind).glob(f"Image_{child}*"):
                shutil.copy(path, few / kind)
    sources = [str(few / "imagesTr"), str(few / "labelsTr")]
    grouping = ["--group-by", r"Image_(\d+)", "--validate-on", "03"]
    command(
        "nnvit", "dataset", "import", *sources, "-d", "101", "-n", "Chase", "--mask-suffix", "_1stHO",
        "--label", "vessel=1", *grouping,
    )  # fmt: skip
    command("nnUNetv2_plan_and_preprocess", "-d", "101", "-c", "2d", "-npfp", "2", "-np", "2")
    return "Dataset101_Chase"


@pytest.fixture(scope="session")
def hippocampus(folders: Path, shared_data: Path) -> str:
    """Five MR volumes with two labels, z-scored, to be sliced by the configuration 2d. One channel."""
    name = "Dataset102_Hippocampus"
    raw = folders / "raw" / name
    for kind, suffix in (("imagesTr", "_0000"), ("labelsTr", "")):
        (raw / kind).mkdir(parents=True)
        for path in sorted((shared_data / "msd_hippocampus" / kind).glob("*.nii.gz"))[4:9]:
            shutil.copy(path, raw / kind / path.name.replace(".nii.gz", f"{suffix}.nii.gz"))
    labels = {"background": 0, "anterior": 1, "posterior": 2}
    content = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": 5, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps(content))
    command("nnUNetv2_plan_and_preprocess", "-d", "102", "-c", "2d", "3d_fullres", "-npfp", "2", "-np", "2")
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (raw / "labelsTr").iterdir())
    split = [{"train": cases[:4], "val": cases[4:]}]
    (folders / "preprocessed" / name / "splits_final.json").write_text(json.dumps(split))
    return name


@pytest.fixture(scope="session")
def crops(folders: Path, shared_data: Path) -> str:
    """Four crops of 220 x 200 pixels, with vessels, of photographs of three children: three train, one validates."""
    name = "Dataset103_Crops"
    raw = folders / "raw" / name
    for kind, suffix, ending in (("imagesTr", "_0000", ".jpg"), ("labelsTr", "", "_1stHO.png")):
        (raw / kind).mkdir(parents=True)
        for case in ("Image_01L", "Image_01R", "Image_02L", "Image_03L"):
            crop = Image.open(shared_data / "chase_db1" / kind / f"{case}{ending}").crop((380, 380, 600, 580))
            pixels = np.asarray(crop)
            assert pixels.any()
            Image.fromarray(pixels.astype(np.uint8)).save(raw / kind / f"{case}{suffix}.png")
    channels = {str(i): "rgb_to_0_1" for i in range(3)}
    plan(folders, name, {"channel_names": channels, "labels": {"background": 0, "vessel": 1}, "file_ending": ".png"})
    return name


@pytest.fixture(scope="session")
def paired(crops: str, folders: Path) -> str:
    """The four crops once more, preprocessed as they are, in two folds that validate on two of them each."""
    name = "Dataset113_Paired"
    for kind in ("raw", "preprocessed"):
        shutil.copytree(folders / kind / crops, folders / kind / name)
    for path in (folders / "preprocessed" / name).glob("nnUNetPlans*.json"):
        plans = json.loads(path.read_text())
        if plans["plans_name"] == "nnUNetPlans":
            path.write_text(json.dumps(plans | {"dataset_name": name}))
        else:
            path.unlink()
    first, second = ["Image_01L", "Image_01R"], ["Image_02L", "Image_03L"]
    splits = [{"train": second, "val": first}, {"train": first, "val": second}]
    (folders / "preprocessed" / name / "splits_final.json").write_text(json.dumps(splits))
    return name


@pytest.fixture(scope="session")
def vessels(crops: str) -> Path:
    """A model folder that segments vessels, but not well."""
    return train(crops, "segformer_default", *VESSELS).parent


@pytest.fixture(scope="session")
def crop(crops: str, folders: Path) -> Image.Image:
    """220 x 200 pixels of a photograph."""
    return Image.open(folders / "raw" / crops / "imagesTr" / "Image_03L_0000.png")


@pytest.fixture(scope="module")
def nnvit() -> Run:
    """Runs `nnvit predict` in this process; returns exit code, output and errors."""

    def run(*words: object) -> tuple[int, str, str]:
        code, out, errors = 0, io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(errors):
            patch.setattr(sys, "argv", ["nnvit", "predict", *map(str, words), "-device", "cpu"])
            try:
                cli.main()
            except SystemExit as stop:
                code = int(stop.code or 0)
        assert "Traceback" not in errors.getvalue()
        return code, out.getvalue(), errors.getvalue()

    return run


@pytest.fixture(scope="session")
def regions(folders: Path, shared_data: Path) -> str:
    """Three hippocampus volumes whose two labels make two overlapping regions."""
    name = "Dataset104_Regions"
    _few_volumes(folders / "raw" / name, shared_data)
    labels = {"background": 0, "whole": [1, 2], "posterior": 2}
    plan(folders, name, {"labels": labels, "regions_class_order": [1, 2]})
    return name


@pytest.fixture(scope="session")
def ignoring(folders: Path, shared_data: Path) -> str:
    """Three hippocampus volumes with a quarter of the slices not annotated: their voxels hold the ignore label 3."""
    name = "Dataset105_Ignoring"
    _few_volumes(folders / "raw" / name, shared_data)
    for path in (folders / "raw" / name / "labelsTr").iterdir():
        image = SimpleITK.ReadImage(str(path))
        labels = SimpleITK.GetArrayFromImage(image)
        labels[::4] = 3
        changed = SimpleITK.GetImageFromArray(labels)
        changed.CopyInformation(image)
        SimpleITK.WriteImage(changed, str(path))
    plan(folders, name, {"labels": {"background": 0, "anterior": 1, "posterior": 2, "ignore": 3}})
    return name


def _few_volumes(raw: Path, shared_data: Path) -> None:
    for kind, suffix in (("imagesTr", "_0000"), ("labelsTr", "")):
        (raw / kind).mkdir(parents=True)
        for path in sorted((shared_data / "msd_hippocampus" / kind).glob("*.nii.gz"))[4:7]:
            shutil.copy(path, raw / kind / path.name.replace(".nii.gz", f"{suffix}.nii.gz"))


def plan(folders: Path, name: str, content: dict[str, Any]) -> None:
    """dataset.json, the stock commands, and a split whose last case validates."""
    raw = folders / "raw" / name
    cases = sorted(path.name.split(".")[0] for path in (raw / "labelsTr").iterdir())
    volumes = {"channel_names": {"0": "MRI"}, "file_ending": ".nii.gz", "numTraining": len(cases)}
    (raw / "dataset.json").write_text(json.dumps(volumes | content))
    command("nnUNetv2_plan_and_preprocess", "-d", name[7:10], "-c", "2d", "-npfp", "1", "-np", "1")
    split = [{"train": cases[:-1], "val": cases[-1:]}]
    (folders / "preprocessed" / name / "splits_final.json").write_text(json.dumps(split))


def untrained(dataset: str, *keys: str, folds: Sequence[int] = (0,)) -> Path:
    """A model folder like that of a training, made without one: its adapters are not zero, and the heads of its folds differ."""
    recipe = loading.load_recipe(["segformer_default"], keys)
    identifier = plans_file.plan(dataset, "2d", recipe).identifier
    for fold in folds:
        trainer = run_training.get_trainer_from_args(
            dataset, "2d", fold, "nnUNetTrainer_nnvit", identifier, device=torch.device("cpu")
        )
        torch.manual_seed(fold)
        trainer.initialize()
        with torch.no_grad():
            for name, parameter in trainer.bare_network.named_parameters():
                if "lora_B" in name or name.endswith("classifier.weight"):
                    parameter.normal_()
        trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    model = Path(trainer.output_folder_base)
    write_json(model / "plans.json", trainer.plans_manager.plans)
    write_json(model / "dataset.json", trainer.dataset_json)
    return model
