"""Small real data sets in nnU-Net folders of their own, planned and preprocessed by stock commands, once a session."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

TINY = [
    "model.backbone=tiny",
    "model.backbone_size=vit",
    "model.weights=random",
    "model.decoder_hidden_size=16",
    "model.neck_args.out_channels=16",
    "lora.enabled=false",
    "training.num_iterations_per_epoch=3",
    "training.num_val_iterations_per_epoch=1",
    "training.num_epochs=2",
    "training.batch_size=2",
    "training.warmup_epochs=0",
    "training.precision=fp32",
]
"""A recipe that trains in seconds."""


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
