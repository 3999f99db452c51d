"""Trainings in bf16, whose frozen weights are kept in it, against the same trainings in fp32."""

from pathlib import Path

import numpy as np
import pytest
import torch

from nnvit.nnunet import checkpoint_file
from tests.nnunet.conftest import TINY, assert_same_predictions, predict_here, train

KEYS = [
    *TINY,
    "training.num_iterations_per_epoch=20",
    "training.lr=5e-3",
    "training.seed=0",
    "training.patch_size=[112,112]",
]


def run(crops: str, precision: str, tuning: str) -> Path:
    keys = [*KEYS, f"lora.enabled={str(tuning == 'lora').lower()}", f"training.precision={precision}"]
    return train(crops, "segformer_default", *keys, f"name={tuning}_{precision}", export_validation_probabilities=True)


@pytest.fixture(scope="module", params=["frozen", "lora"])
def pair(request: pytest.FixtureRequest, crops: str) -> tuple[Path, Path]:
    """The folds of a training in bf16 and of one in fp32."""
    return run(crops, "bf16", request.param), run(crops, "fp32", request.param)


def losses(fold: Path) -> np.ndarray:
    """The losses of each epoch, training and validation."""
    logged = checkpoint_file.read(fold / "checkpoint_final.pth")["logging"]
    return np.array([logged["train_losses"], logged["val_losses"]])


def test_the_losses_are_those_of_fp32(pair: tuple[Path, Path]) -> None:
    bf16, fp32 = map(losses, pair)
    learned = fp32[:, 0] - fp32[:, 1]
    assert learned.min() > 0.1
    assert np.abs(bf16 - fp32)[:, 1].max() < learned.min() / 10


def test_what_is_frozen_is_kept_in_bf16_and_what_is_trained_in_fp32(pair: tuple[Path, Path]) -> None:
    bf16, fp32 = (checkpoint_file.read(fold / "checkpoint_final.pth")["network_weights"] for fold in pair)
    halved = {name for name, value in bf16.items() if value.dtype == torch.bfloat16}
    assert halved
    assert all(name.startswith("backbone.") and "lora_" not in name for name in halved)
    assert {value.dtype for name, value in bf16.items() if name not in halved and value.is_floating_point()} == {
        torch.float32
    }
    for name in halved:
        assert torch.equal(bf16[name], fp32[name].bfloat16())


def test_stock_prediction_is_the_final_validation(pair: tuple[Path, Path], crops: str, tmp_path: Path) -> None:
    predict_here(pair[0], crops, tmp_path)
    assert_same_predictions(pair[0] / "validation", tmp_path, 1, ".png")
