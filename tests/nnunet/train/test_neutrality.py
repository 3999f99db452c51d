"""Recipe `unet` through nnvit's harness is stock nnU-Net, number for number."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.noise import gaussian_blur
from nnunetv2.run.run_training import get_trainer_from_args as stock_trainer
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnvit.nnunet.plan import plans_file
from nnvit.nnunet.train import run_training
from nnvit.recipe import loading

blur = gaussian_blur.blur_dimension
CPU = torch.device("cpu")
EPOCHS, ITERATIONS = 2, 10


@pytest.fixture(scope="module")
def small_plans(folders: Path, hippocampus: str) -> str:
    """The stock plans with a batch that a test can train on."""
    base = folders / "preprocessed" / hippocampus / "nnUNetPlans.json"
    plans = json.loads(base.read_text())
    plans["plans_name"] = "nnUNetPlansSmall"
    plans["configurations"]["2d"]["batch_size"] = 4
    base.with_name("nnUNetPlansSmall.json").write_text(json.dumps(plans))
    return "nnUNetPlansSmall"


def losses(trainer: nnUNetTrainer, monkeypatch: pytest.MonkeyPatch) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Every iteration's training loss from fixed seeds, and the final weights."""
    seen: list[float] = []
    step = type(trainer).train_step

    def recording(self: nnUNetTrainer, batch: dict) -> dict:
        output = step(self, batch)
        seen.append(float(output["loss"]))
        return output

    monkeypatch.setattr(type(trainer), "train_step", recording)
    # nnU-Net blurs by convolution or by Fourier transform, whichever was faster when it tried: two runs may differ by that alone
    monkeypatch.setattr(gaussian_blur.GaussianBlurTransform, "_benchmark_wrapper", lambda _, *args: blur(*args))
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = EPOCHS, ITERATIONS, 2
    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)
    trainer.run_training()
    monkeypatch.undo()
    return seen, trainer.network.state_dict()


@pytest.mark.usefixtures("folders")
def test_twenty_losses_and_all_weights_equal_stock_nnunets(hippocampus: str, small_plans: str) -> None:
    # `unet` with fewer epochs, as the stock trainer below is told: the schedule sees the number of epochs
    recipe = loading.load_recipe(["unet"], [f"training.num_epochs={EPOCHS}"])
    identifier = plans_file.plan(hippocampus, "2d", recipe, small_plans).identifier
    ours = run_training.get_trainer_from_args("102", "2d", 0, "nnUNetTrainer_nnvit", identifier, device=CPU)
    stock = stock_trainer("102", "2d", 0, "nnUNetTrainer", small_plans, device=CPU)
    with pytest.MonkeyPatch.context() as patch:
        expected, expected_weights = losses(stock, patch)
    with pytest.MonkeyPatch.context() as patch:
        got, weights = losses(ours, patch)
    assert len(expected) == EPOCHS * ITERATIONS
    assert got == expected
    assert weights.keys() == expected_weights.keys()
    assert all(torch.equal(weights[name], expected_weights[name]) for name in weights)
