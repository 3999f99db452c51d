"""`nnvit plan --gpu-memory` and `nnvit estimate -d`, on a data set that stock nnU-Net planned."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from nnvit import estimate
from nnvit.cli import app
from nnvit.errors import ConfigError
from nnvit.estimate import GIB
from nnvit.nnunet.plan import batch_size
from nnvit.recipe import loading
from tests.nnunet import conftest

TINY = [key for key in conftest.TINY if not key.startswith(("training.batch_size", "training.precision"))]


def run(*words: str) -> None:
    app(list(words), standalone_mode=False)


def taken(dataset: str, batch: int, *keys: str) -> int:
    recipe = loading.load_recipe(["segformer_default"], [*keys, f"training.batch_size={batch}"])
    return batch_size.job_on_dataset(dataset, "2d", recipe).need(torch.bfloat16).on_gpu


def test_plan_writes_the_largest_batch_that_fits(crops: str, capsys: Any) -> None:
    keys = [*TINY, "training.patch_size=[64,64]"]
    budget = (taken(crops, 4, *keys) + taken(crops, 5, *keys)) // 2
    run("plan", crops, "2d", *keys, "name=sized", "--gpu-memory", f"{budget / 2**20:.3f}M")
    path = Path(os.environ["nnUNet_preprocessed"]) / crops / "nnUNetPlans_sized.json"
    planned = json.loads(path.read_text())["configurations"]["2d"]
    assert planned["batch_size"] == planned["nnvit"]["recipe"]["training"]["batch_size"] == 4
    assert "training.batch_size=4, estimated to take " in capsys.readouterr().out


def test_what_fits_nothing_is_told_what_would(crops: str) -> None:
    full = [*TINY, "training.patch_size=[512,512]", "lora.enabled=false", "model.freeze_backbone=false"]
    budget = (taken(crops, 2, *full) + GIB // 2) // 2
    with pytest.raises(
        ConfigError, match=r"the fewest that nnU-Net trains on.*What would fit: .*patch_size=\[256,256\]"
    ):
        run("plan", crops, "2d", *full, "--gpu-memory", f"{budget / 2**20:.3f}M")
    with pytest.raises(ConfigError, match=r"Not even a smaller patch"):
        run("plan", crops, "2d", *full, "--gpu-memory", "100M")


def test_a_batch_size_of_the_recipes_own_leaves_nothing_to_choose(crops: str) -> None:
    with pytest.raises(ConfigError, match=r"the recipe says training.batch_size=4; leave one of the two out"):
        run("plan", crops, "2d", *TINY, "training.batch_size=4", "--gpu-memory", "24G")


def test_estimate_takes_patch_batch_and_labels_from_the_data_set(crops: str, capsys: Any) -> None:
    run("estimate", "segformer_default", *TINY, "-d", crops, "--device", "A40")
    plans = json.loads((Path(os.environ["nnUNet_preprocessed"]) / crops / "nnUNetPlans.json").read_text())
    base = plans["configurations"]["2d"]
    size = " x ".join(map(str, base["patch_size"]))
    assert f"a step on {base['batch_size']} patches of {size}, 3 channels" in capsys.readouterr().out


def test_the_planned_unet_is_estimated_too(crops: str) -> None:
    job = batch_size.job_on_dataset(crops, "2d", loading.load_recipe(["unet"]))
    need = job.need(None)
    network = job.build()
    assert need.parameters == sum(t.numel() * t.element_size() for t in [*network.parameters(), *network.buffers()])
    assert need.activations > need.gradients > 0 or need.optimizer > 0


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_the_most_that_nnunet_plans_is_what_it_planned(hippocampus: str, configuration: str) -> None:
    """Five small volumes: the data set limits nnU-Net's batch, not the GPU; in 3D only the smallest batch is left."""
    folder = Path(os.environ["nnUNet_preprocessed"]) / hippocampus
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    planned = plans["configurations"][configuration]
    most = batch_size._planned_at_most(plans, configuration, planned["patch_size"], 5)
    assert most == planned["batch_size"]
    assert (most > estimate.LEAST_BATCH) == (configuration == "2d")


def test_a_batch_that_nnunet_would_not_plan_is_said_and_kept(hippocampus: str, capsys: Any) -> None:
    keys = [*TINY, "training.patch_size=[56,40]"]
    run("plan", hippocampus, "2d", *keys, "name=wide", "--gpu-memory", "1.2G")
    folder = Path(os.environ["nnUNet_preprocessed"]) / hippocampus
    planned = json.loads((folder / "nnUNetPlans_wide.json").read_text())["configurations"]["2d"]
    most = batch_size._planned_at_most(json.loads((folder / "nnUNetPlans.json").read_text()), "2d", (56, 40), 5)
    printed = capsys.readouterr().out
    (warning,) = [line for line in printed.splitlines() if line.startswith("warning: ")]
    assert f"{planned['batch_size']} patches of [56, 40] are more than the {most} that nnU-Net plans" in warning
    assert warning.endswith(f"leave --gpu-memory out and set training.batch_size={most}.")
    assert planned["batch_size"] > most
    assert batch_size._warning(most, most, (56, 40)) is None
