"""An interrupted training that continues equals the uninterrupted one, to the last bit."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform

from nnvit.errors import PlansError
from nnvit.nnunet import checkpoint_file
from nnvit.nnunet.plan import plans_file
from nnvit.nnunet.train import run_training
from nnvit.nnunet.train.trainer import nnUNetTrainer_nnvit
from nnvit.recipe import loading
from tests.nnunet.conftest import ONE_TILE, TINY, fold_of, train

CPU = torch.device("cpu")
TRAINER = "nnUNetTrainer_nnvit"
ITERATIONS = 6
# full fine-tuning with drop path draws from torch's stream in every step; the running mean has a state of its own
KEYS = (
    *TINY, ONE_TILE, "model.freeze_backbone=false", "training.drop_path=0.2", "training.ema=0.9", "training.lr=1e-2",
    "training.seed=5", f"training.num_iterations_per_epoch={ITERATIONS}", "training.num_val_iterations_per_epoch=2",
)  # fmt: skip


class Killed(BaseException):
    """An error that the trainer does not expect."""


@contextmanager
def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ends the training within it in this step, counted from where it begins."""
    original, steps = nnUNetTrainer_nnvit.train_step, itertools.count(1)

    def dying(self: nnUNetTrainer_nnvit, batch: dict) -> dict:
        if next(steps) == step:
            raise Killed
        return original(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(nnUNetTrainer_nnvit, "train_step", dying)
        try:
            yield
        except Killed:
            return
    pytest.fail("the training was over before it could be killed")


def assert_same_training(one: Path, other: Path) -> None:
    """Asserts equal losses, weights, optimiser and random streams."""
    first, second = (checkpoint_file.read(fold / "checkpoint_final.pth") for fold in (one, other))
    for key in ("train_losses", "val_losses", "mean_fg_dice", "lrs"):
        assert first["logging"][key] == second["logging"][key], key
    for name, value in first["network_weights"].items():
        assert torch.equal(value, second["network_weights"][name]), name
    for name, value in first["nnvit"]["trained"].items():
        assert torch.equal(value, second["nnvit"]["trained"][name]), name
    for index, state in first["optimizer_state"]["state"].items():
        assert torch.equal(state["exp_avg"], second["optimizer_state"]["state"][index]["exp_avg"])
    assert torch.equal(first["nnvit"]["random"]["torch"], second["nnvit"]["random"]["torch"])


@pytest.fixture(scope="module")
def uninterrupted(hippocampus: str) -> Path:
    return train(hippocampus, "segformer_default", *KEYS, "name=uninterrupted")


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_twice_inside_epochs_it_ends_as_if_nothing_had_happened(
    workers: int, uninterrupted: Path, hippocampus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_n_proc_DA", str(workers))
    keys = (*KEYS, "training.save_every_iterations=2", f"name=killed_{workers}")
    for step, go_on in ((6, False), (5, True)):  # the second starts after iteration 4, and ends in the second epoch
        with killed_at(step, monkeypatch):
            train(hippocampus, "segformer_default", *keys, continue_training=go_on)
        fold = fold_of(hippocampus, TRAINER, f"nnUNetPlans_killed_{workers}_s5")
        held = checkpoint_file.read(fold / "checkpoint_latest.pth")
        assert (held["current_epoch"], len(held["nnvit"]["losses"])) == ((1, 2) if go_on else (0, 4))
    fold = train(hippocampus, "segformer_default", *keys, continue_training=True)
    assert_same_training(uninterrupted, fold)
    assert len(json.loads((fold / "nnvit_run.json").read_text())["resumed"]) == 2


def test_batches_are_the_same_with_any_number_of_workers(hippocampus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = loading.load_recipe(["segformer_default"], [*KEYS, "training.augmentation=da5", "name=batches"])
    identifier = plans_file.plan(hippocampus, "2d", recipe).identifier
    seen = []
    for workers, epoch in ((0, 0), (1, 0), (3, 0), (2, 1)):
        monkeypatch.setenv("nnUNet_n_proc_DA", str(workers))
        trainer = run_training.get_trainer_from_args(hippocampus, "2d", 0, TRAINER, identifier, device=CPU)
        trainer.initialize()
        trainer.current_epoch = epoch
        batches, _ = trainer.get_dataloaders()
        stream = torch.get_rng_state(), np.random.get_state()[1].tolist()
        seen.append([next(batches) for _ in range(ITERATIONS * (2 - epoch))])
        assert torch.equal(torch.get_rng_state(), stream[0])  # the network's own random stream is not affected
        assert np.random.get_state()[1].tolist() == stream[1]
        del batches
    assert len({tuple(batch["keys"]) for batch in seen[0]}) > 1
    for other in (seen[1], seen[2], [*seen[0][:ITERATIONS], *seen[3]]):
        for batch, same in zip(seen[0], other, strict=True):
            assert list(batch["keys"]) == list(same["keys"])
            assert torch.equal(batch["data"], same["data"])
            assert torch.equal(batch["target"], same["target"])


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, 2), (signal.SIGINT, 2)])
def test_a_signal_ends_the_training_after_a_checkpoint(
    number: signal.Signals, workers: int, uninterrupted: Path, hippocampus: str
) -> None:
    """Sends the signal to the whole process group, as a terminal and SLURM do; the workers receive it too."""
    name = f"preempted_{number.name}"
    keys = [*KEYS, f"name={name}"]
    fold = fold_of(hippocampus, TRAINER, f"nnUNetPlans_{name}_s5")
    process = begin(hippocampus, workers, *keys)
    wait_for(process, fold / "checkpoint_best.pth")
    os.killpg(process.pid, number)  # somewhere in the second epoch
    printed, _ = process.communicate()
    assert process.returncode == 128 + number, printed[-2000:]
    assert f"{number.name}: a checkpoint is written after this iteration" in printed
    assert "the same command with --c continues" in printed
    assert "Traceback" not in printed
    held = checkpoint_file.read(fold / "checkpoint_latest.pth")
    assert held["current_epoch"] == 1
    assert json.loads((fold / "nnvit_run.json").read_text())["exit"] == f"Interrupted: {number.name}"
    train(hippocampus, "segformer_default", *keys, continue_training=True)
    assert_same_training(uninterrupted, fold)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_nnunets_own_workers_keeps_the_place_too(number: signal.Signals, hippocampus: str) -> None:
    """Without a seed the workers are nnU-Net's: SIGTERM ends them, and SIGINT does not reach them."""
    name = f"preempted_unseeded_{number.name}"
    keys = [*(key for key in KEYS if "seed" not in key), "training.num_epochs=50", f"name={name}"]
    fold = fold_of(hippocampus, TRAINER, f"nnUNetPlans_{name}")
    process = begin(hippocampus, 2, *keys)
    wait_for(process, fold / "checkpoint_best.pth")
    os.killpg(process.pid, number)
    printed, _ = process.communicate()
    assert process.returncode == 128 + number, printed[-2000:]
    assert (fold / "checkpoint_latest.pth").is_file()
    assert number == signal.SIGTERM or "Traceback" not in printed


def begin(dataset: str, workers: int, *keys: str) -> subprocess.Popen[str]:
    """The command, in a group of processes of its own."""
    program = str(Path(sys.executable).parent / "nnvit")
    words = [program, "train", dataset, "2d", "0", "--recipe", "segformer_default", *keys, "-device", "cpu"]
    environment = {**os.environ, "nnUNet_n_proc_DA": str(workers), "nnUNet_def_n_proc": "1"}
    return subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def wait_for(process: subprocess.Popen[str], path: Path) -> None:
    """Waits until the file is there, or the process has ended."""
    while process.poll() is None and not path.exists():
        time.sleep(0.02)


def test_a_training_that_died_before_its_first_checkpoint_starts_again(
    hippocampus: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = (*TINY, ONE_TILE, "training.num_epochs=1", "name=died_early")
    with pytest.raises(PlansError, match=r"--c: .* holds no checkpoint to continue from"):
        train(hippocampus, "segformer_default", *keys, continue_training=True)
    with killed_at(2, monkeypatch):
        train(hippocampus, "segformer_default", *keys)
    train(hippocampus, "segformer_default", *keys, continue_training=True)
    assert "ended before its first checkpoint, so it starts from the beginning" in capsys.readouterr().out


def test_what_a_killed_process_left_half_written_goes_when_the_training_ends(hippocampus: str) -> None:
    keys = (*TINY, ONE_TILE, "training.num_epochs=1", "name=half_written")
    identifier = plans_file.plan(hippocampus, "2d", loading.load_recipe(["segformer_default"], keys)).identifier
    fold = fold_of(hippocampus, TRAINER, identifier)
    fold.mkdir(parents=True)
    (fold / ".checkpoint_best.pth.partial").write_bytes(b"half")
    train(hippocampus, "segformer_default", *keys)
    assert not list(fold.glob(".*partial"))


def test_with_a_seed_blurring_does_not_depend_on_how_fast_the_machine_is(hippocampus: str) -> None:
    recipe = loading.load_recipe(["segformer_default"], [*KEYS, "name=blurring"])
    identifier = plans_file.plan(hippocampus, "2d", recipe).identifier
    trainer = run_training.get_trainer_from_args(hippocampus, "2d", 0, TRAINER, identifier, device=CPU)
    trainer.initialize()
    batches, _ = trainer.get_dataloaders()
    dataset = batches._dataset  # type: ignore[attr-defined]
    described = repr(dataset.loader.transforms)
    assert GaussianBlurTransform.__name__ in described
    blurs = [t.transform for t in dataset.loader.transforms.transforms if hasattr(t, "transform")]
    assert [blur.benchmark for blur in blurs if isinstance(blur, GaussianBlurTransform)] == [False]
