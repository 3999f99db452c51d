"""The audit reads the real records of stock nnU-Net and nnvit; tests/compare plants unfairness in imitations of them."""

import json
from pathlib import Path

import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args as stock_trainer

from nnvit.compare.inputs.arms import Arm, ArmCost
from nnvit.nnunet.plan import plans_file
from nnvit.nnunet.train import run_training
from nnvit.recipe import loading
from tests.compare.planted import examine

CPU = torch.device("cpu")
SHORT = ["training.num_iterations_per_epoch=2", "training.num_val_iterations_per_epoch=1", "training.num_epochs=2"]


@pytest.fixture(scope="module")
def models(folders: Path, crops: str) -> list[Path]:
    """A stock training and one of recipe `unet`, with the same plans, length and data workers as real trainings."""
    base = folders / "preprocessed" / crops / "nnUNetPlans.json"
    plans = json.loads(base.read_text())
    plans["plans_name"] = "nnUNetPlansTiny"
    planned = plans["configurations"]["2d"]
    planned |= {"batch_size": 2, "patch_size": [128, 128]}
    kwargs = planned["architecture"]["arch_kwargs"]
    kwargs["features_per_stage"] = [4] * kwargs["n_stages"]  # seconds rather than minutes
    base.with_name("nnUNetPlansTiny.json").write_text(json.dumps(plans))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_n_proc_DA", "1")
        stock = stock_trainer("103", "2d", 0, "nnUNetTrainer", "nnUNetPlansTiny", device=CPU)
        stock.num_epochs, stock.num_iterations_per_epoch, stock.num_val_iterations_per_epoch = 2, 2, 1
        stock.run_training()
        stock.perform_actual_validation()
        identifier = plans_file.plan(crops, "2d", loading.load_recipe(["unet"], SHORT), "nnUNetPlansTiny").identifier
        run_training.run_training(crops, "2d", 0, "nnUNetTrainer_nnvit", identifier, device=CPU)
    return [Path(stock.output_folder_base), folders / "results" / crops / f"nnUNetTrainer_nnvit__{identifier}__2d"]


def test_a_stock_training_and_ours_are_a_fair_fight(models: list[Path], tmp_path: Path) -> None:
    found = examine(models, out=tmp_path)
    rows = {row.key: row for row in found.rows}
    assert found.verdict == "fair"
    assert {key for key, row in rows.items() if row.equal_expected and row.status != "equal"} == {
        "splits",
        "preprocessed_data",
        "checkpoint",
        "nnunet_version",
    }


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("patch_size", "128 x 128"),
        ("batch_size", "2"),
        ("epochs", "2"),
        ("iterations", "2"),
        ("training_cases", "3"),
        ("mirroring", "axes 0, 1"),
        ("mirroring_at_prediction", "axes 0, 1"),
        ("loss", "DC_and_CE_loss(RobustCrossEntropyLoss, MemoryEfficientSoftDiceLoss)"),
        ("optimizer", "SGD, momentum 0.99, nesterov True"),
        ("learning_rate", "0.01"),
        ("schedule", "poly"),
        ("network", "PlainConvUNet"),
        ("predictions", "yes"),
    ],
)
def test_both_record_the_same(models: list[Path], tmp_path: Path, key: str, expected: str) -> None:
    row = {row.key: row for row in examine(models, out=tmp_path).rows}[key]
    assert set(row.values.values()) == {expected}


def test_the_checkpoint_that_was_validated_is_known_of_ours(models: list[Path], tmp_path: Path) -> None:
    row = {row.key: row for row in examine(models, out=tmp_path).rows}["checkpoint"]
    assert list(row.values.values()) == ["unknown", "final"]


def test_both_have_a_cost(models: list[Path]) -> None:
    stock, ours = ArmCost.of_all(Arm.find(models))
    for cost in (stock, ours):
        assert cost.seconds_per_iteration > 0
        assert cost.train_hours > 0
        assert cost.checkpoint_bytes > 1e4
    assert ours.parameters_total > 1e3
