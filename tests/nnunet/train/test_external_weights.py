"""Trainings whose checkpoints leave the frozen backbone out (`checkpoint.frozen_weights=reference`)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nnvit import registry
from nnvit.nnunet import checkpoint_file
from nnvit.nnunet.model_folder import ModelFolder
from nnvit.nnunet.plan import plans_file
from nnvit.recipe import loading
from nnvit.weights import external
from nnvit.weights.state_dicts import target_tensors
from tests.nnunet.conftest import ONE_TILE, TINY, assert_same_predictions, fold_of, predict, train

from .test_resume import TRAINER, assert_same_training, killed_at

KEYS = (
    *TINY, ONE_TILE, "lora.enabled=true", "lora.r=2", "lora.lora_dropout=0.1", "training.ema=0.9", "training.lr=1e-2",
    "training.seed=5", "training.save_every_iterations=2",
)  # fmt: skip
REFERENCE = "checkpoint.frozen_weights=reference"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of pretrained weights."""
    family, path = registry.family("tiny"), tmp_path_factory.mktemp("base") / "base.safetensors"
    torch.manual_seed(11)
    save_file(target_tensors(family().build("vit", [3]).model), path)
    return path


@pytest.fixture(scope="module")
def keys(base: Path) -> list[str]:
    return [*KEYS, f"model.weights={base}"]


@pytest.fixture(scope="module")
def embedding(hippocampus: str, keys: list[str]) -> Path:
    return train(hippocampus, "segformer_default", *keys, "name=embedding")


@pytest.fixture(scope="module")
def referring(hippocampus: str, keys: list[str]) -> Path:
    return train(
        hippocampus, "segformer_default", *keys, REFERENCE, "name=referring", export_validation_probabilities=True
    )


def held_by(fold: Path) -> dict[str, torch.Tensor]:
    return checkpoint_file.read(fold / "checkpoint_final.pth")["network_weights"]


def test_the_checkpoint_holds_what_was_trained_and_names_the_rest(embedding: Path, referring: Path, base: Path) -> None:
    whole, left = held_by(embedding), held_by(referring)
    described = checkpoint_file.read(referring / "checkpoint_final.pth")["nnvit"]["reference"]
    assert whole.keys() - left.keys() == described["dtypes"].keys()
    assert (described["file"], described["path"]) == (base.name, str(base))
    assert all(torch.equal(whole[name], left[name]) for name in whole.keys() & left.keys())
    external.forget()
    assert all(torch.equal(whole[name], tensor) for name, tensor in external.filled(left).items())
    assert checkpoint_file.read(embedding / "checkpoint_final.pth")["nnvit"]["reference"] is None
    opened = ModelFolder.read(referring.parent).open()  # what nnvit predict runs
    assert all(torch.equal(whole[name], tensor) for name, tensor in opened.parameters[0].items())
    assert opened.parameters[0].keys() == whole.keys()


def test_stock_prediction_finds_the_file_or_says_which_one_it_needs(
    referring: Path, base: Path, hippocampus: str, tmp_path: Path
) -> None:
    predict(referring, hippocampus, tmp_path / "out")
    assert_same_predictions(referring / "validation", tmp_path / "out", 1, ".nii.gz")
    away = base.with_name("away")
    base.rename(away)
    try:
        words = ["-i", str(tmp_path / "out" / "in"), "-o", str(tmp_path / "none"), "-m", str(referring.parent)]
        program = str(Path(sys.executable).parent / "nnUNetv2_predict_from_modelfolder")
        command = [program, *words, "-f", "0", "-device", "cpu"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    finally:
        away.rename(base)
    assert done.returncode != 0
    digest = checkpoint_file.read(referring / "checkpoint_final.pth")["nnvit"]["reference"]["sha256"]
    assert f"base.safetensors ({base.stat().st_size:,} bytes, sha256 {digest}" in done.stderr
    assert not list((tmp_path / "none").glob("*.nii.gz"))


def test_killed_twice_it_ends_as_the_uninterrupted_training(
    embedding: Path, referring: Path, hippocampus: str, keys: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*keys, REFERENCE, "name=killed")
    for step, go_on in ((3, False), (3, True)):
        external.forget()
        with killed_at(step, monkeypatch):
            train(hippocampus, "segformer_default", *words, continue_training=go_on)
    fold = train(hippocampus, "segformer_default", *words, continue_training=True)
    assert len(json.loads((fold / "nnvit_run.json").read_text())["resumed"]) == 2
    assert_same_training(referring, fold)
    logs = [checkpoint_file.read(f / "checkpoint_final.pth")["logging"] for f in (embedding, fold)]
    for key in ("train_losses", "val_losses", "mean_fg_dice"):
        assert logs[0][key] == logs[1][key], key


def test_how_checkpoints_are_kept_may_change_while_a_training_goes_on(
    referring: Path, hippocampus: str, keys: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with killed_at(3, monkeypatch):
        train(hippocampus, "segformer_default", *keys, "name=changed")
    fold = fold_of(hippocampus, TRAINER, "nnUNetPlans_changed_s5")
    assert external.KEY not in checkpoint_file.read(fold / "checkpoint_latest.pth")["network_weights"]
    train(hippocampus, "segformer_default", *keys, REFERENCE, "name=changed", continue_training=True)
    assert external.KEY in held_by(fold)
    assert_same_training(referring, fold)
    recipe = loading.load_recipe(["segformer_default"], [*keys, REFERENCE, "name=changed"])
    assert not plans_file.plan(hippocampus, "2d", recipe).created  # that key alone was rewritten


def test_a_training_from_another_checkpoint_refers_to_that_ones_file(
    referring: Path, hippocampus: str, keys: list[str]
) -> None:
    source = str(referring / "checkpoint_final.pth")
    words = (*keys, REFERENCE, "training.num_epochs=1", "name=transferred")
    fold = train(hippocampus, "segformer_default", *words, pretrained_weights=source)
    name = next(iter(external.ExternalWeights.named_in(held_by(fold)).dtypes))  # type: ignore[union-attr]
    assert torch.equal(external.filled(held_by(fold))[name], external.filled(held_by(referring))[name])


def test_a_backbone_that_no_file_holds_stays_in_the_checkpoint(
    embedding: Path, hippocampus: str, keys: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    content = checkpoint_file.read(embedding / "checkpoint_final.pth")
    name = "backbone.model.pos_embed"
    content["network_weights"][name] = content["network_weights"][name] + np.float32(1)
    checkpoint_file.write(tmp_path / "changed.pth", content)
    words = (*keys, REFERENCE, "training.num_epochs=1", "name=kept")
    fold = train(hippocampus, "segformer_default", *words, pretrained_weights=str(tmp_path / "changed.pth"))
    assert "checkpoints hold the frozen weights, against checkpoint.frozen_weights=reference" in capsys.readouterr().out
    assert torch.equal(held_by(fold)[name], content["network_weights"][name])


def test_frozen_weights_that_were_kept_in_bf16_come_back_as_they_were_trained_on(
    hippocampus: str, keys: list[str]
) -> None:
    words = [*keys, "training.precision=bf16", "training.num_epochs=1"]
    whole = train(hippocampus, "segformer_default", *words, "name=embedding_bf16")
    left = train(hippocampus, "segformer_default", *words, REFERENCE, "name=referring_bf16")
    described = external.ExternalWeights.named_in(held_by(left))
    assert set(described.dtypes.values()) == {"bfloat16", "float32"}  # type: ignore[union-attr]
    external.forget()
    filled = external.filled(held_by(left))
    assert all(torch.equal(tensor, filled[name]) for name, tensor in held_by(whole).items())
