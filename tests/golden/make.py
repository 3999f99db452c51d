"""Writes the golden of a release: `python -m tests.golden.make`, once, before it is tagged. An existing one is left alone.

A minute on two cores: a real training of a tiny network on synthetic photographs, through stock commands, whose
checkpoint is kept byte for byte; and small networks of every head, neck and backbone class, each with its plans' content.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from nnvit import registry
from nnvit.model import Segmenter
from nnvit.records.plans_block import SCHEMA, PlansBlock
from tests.contract import cells
from tests.contract.cells import Cell

from . import form

TINY = {
    "model.backbone": "tiny",
    "model.backbone_size": "eva",
    "model.decoder_hidden_size": 8,
    "lora.r": 2,
    "training.num_epochs": 2,
    "training.num_iterations_per_epoch": 3,
    "training.num_val_iterations_per_epoch": 1,
    "training.batch_size": 2,
    "training.patch_size": "[64,64]",
    "training.warmup_epochs": 0,
    "training.precision": "fp32",
    "name": "golden",
}
"""segformer_fork's network (no neck, so that it stays small), with adapters, trained for six steps."""


def make(folder: Path) -> None:
    """Writes a golden into a folder that does not exist yet."""
    if folder.exists():
        sys.exit(
            f"{folder} exists: the golden of a release is never written again. Raise the version in pyproject.toml."
        )
    with tempfile.TemporaryDirectory() as temporary:
        new = Path(temporary) / "golden"
        new.mkdir()
        form.write_json(new / form.NETWORKS, networks())
        train(Path(temporary), new)
        shutil.copytree(new, folder)


# --- small networks --------------------------------------------------------------------------------------------------


def chosen() -> list[Cell]:
    """Every head on its own neck, every neck, every class of backbone, every tuning, and each kind of auxiliary output."""
    common: dict[str, Any] = {"channels": 3, "size": cells.EVEN}
    heads = [
        Cell(family="eva", neck=cells.neck_for("eva", head), head=head, tuning="lora", **common) for head in cells.HEADS
    ]
    necks = [Cell(family="vit", neck=neck, head="linear", tuning="frozen", **common) for neck in cells.NECKS]
    families = [
        Cell(family=family, neck=cells.neck_for(family, "segformer"), head="segformer", tuning="full", **common)
        for family in cells.FAMILIES
    ]
    supervised = [
        Cell(family="vit", neck="simple_pyramid", head="segformer", tuning="lora", channels=1, supervision="deep"),
        Cell(family="vit", neck="simple_pyramid", head="mask2former", tuning="lora", channels=5, supervision="native"),
    ]
    return [cell for cell in [*heads, *necks, *families, *supervised] if cells.fits(cell.family, cell.neck, cell.head)]


def networks() -> dict[str, Any]:
    """Each network's plans content, layout and logits."""
    layouts, entries = {}, {}
    for cell in chosen():
        recipe, kwargs = cells.recipe(cell), cells.planned(cell)
        network = cells.build(cell, kwargs).eval()
        layouts[str(cell)] = form.layout_of(network)
        network.load_state_dict(form.state_of(layouts[str(cell)]), strict=True)
        entries[str(cell)] = {
            "arch_kwargs": kwargs,
            "schema": SCHEMA,
            "recipe": asdict(recipe),
            "channels": cell.channels,
            "logits": logits(network, cell.channels),
        }
    return {"classes": cells.CLASSES, "networks": entries} | form.packed(layouts)


@torch.no_grad()
def logits(network: Segmenter, channels: int) -> list[float]:
    """Returns the logits of the golden image.

    Raises if the image's last digits change them so much that another machine's rounding would fail the golden.
    """
    image = form.image(channels)
    found, shaken = network(image), network(image * (1 + 2e-7 * torch.randn(image.shape)))
    torch.testing.assert_close(found, shaken, rtol=2e-5, atol=2e-5 * float(found.abs().max()))
    return form.sample(found)


# --- a real training -------------------------------------------------------------------------------------------------


def train(work: Path, new: Path) -> None:
    """Two epochs on synthetic photographs; keeps the checkpoint, the plans, dataset.json and logits."""
    environment = os.environ | {f"nnUNet_{name}": str(work / name) for name in ("raw", "preprocessed", "results")}
    environment |= {"nnUNet_def_n_proc": "1", "nnUNet_n_proc_DA": "1"}
    for name in ("raw", "preprocessed", "results"):
        (work / name).mkdir()
    pretrained = coarse_backbone(work / "backbone.safetensors")
    overrides = [f"{key}={value}" for key, value in (TINY | {"model.weights": pretrained.name}).items()]
    photographs = ["--num", "4", "--size", "96"]
    for words in (
        ["nnvit", "dataset", "synthesize", "photos", *photographs],
        [
            "nnvit",
            "dataset",
            "import",
            "photos/images",
            "photos/masks",
            "-d",
            "901",
            "-n",
            "Golden",
            "--label",
            "vessel=255",
        ],
        ["nnUNetv2_plan_and_preprocess", "-d", "901", "-c", "2d", "-npfp", "1", "-np", "1"],
        ["nnvit", "train", "901", "2d", "all", "--recipe", "segformer_fork", *overrides, "-device", "cpu"],
    ):
        program = str(Path(sys.executable).parent / words[0])
        subprocess.run([program, *words[1:]], cwd=work, env=environment, check=True, stdout=subprocess.DEVNULL)
    (model,) = (work / "results" / "Dataset901_Golden").iterdir()
    for name in ("plans.json", "dataset.json"):
        shutil.copy(model / name, new / name)
    content = (model / "fold_all" / "checkpoint_final.pth").read_bytes()
    assert str(work).encode() not in content, "the checkpoint names a folder of this machine"
    form.write_bytes(new / form.CHECKPOINT, content)
    form.write_json(new / form.EXPECTED, expected(model))


def coarse_backbone(path: Path) -> Path:
    """A file for `model.weights`: values are multiples of 1/16, so that the frozen part of the checkpoint compresses."""
    layout = form.layout_of(registry.family("tiny")().build("eva", [0, 1, 2, 3]).model)
    save_file({name: (16 * value).round() / 16 for name, value in form.state_of(layout).items()}, path)
    return path


def expected(model: Path) -> dict[str, Any]:
    """The trained network's output for the golden image."""
    plans = json.loads((model / "plans.json").read_text())
    configuration = plans["configurations"]["2d"]
    network = Segmenter(3, 2, **configuration["architecture"]["arch_kwargs"]).eval()
    content = torch.load(model / "fold_all" / "checkpoint_final.pth", weights_only=False)
    network.load_state_dict(content["network_weights"], strict=True)
    assert PlansBlock.of(plans, "2d") is not None
    versions = {name: version(name) for name in ("nnvit", "nnunetv2", "torch", "timm", "transformers", "peft")}
    return {"versions": versions, "trainer_name": content["trainer_name"], "logits": logits(network, 3)}


if __name__ == "__main__":
    make(Path(__file__).parent / version("nnvit"))
