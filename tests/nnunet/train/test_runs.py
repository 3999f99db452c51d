"""Real runs: stock planning and preprocessing, our training, stock prediction without any environment variable."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.paths import nnUNet_results
from nnunetv2.run import run_training

from nnvit import describe
from nnvit.errors import PlansError
from nnvit.nnunet import checkpoint_file
from nnvit.nnunet.plan import plans_file
from nnvit.nnunet.train import run_training as training
from nnvit.nnunet.train.iterations import PARTS
from nnvit.nnunet.train.trainer import nnUNetTrainer_nnvit
from nnvit.recipe import loading
from tests.nnunet.conftest import ONE_PROCESS, TINY, assert_same_predictions, command, masks, predict

CPU = torch.device("cpu")


def train(dataset: str, *overrides: str, **flags: object) -> Path:
    """Plans and trains fold 0 in this process; returns the fold's folder."""
    recipe = loading.load_recipe(["segformer_default"], [*TINY, *overrides])
    identifier = plans_file.plan(dataset, "2d", recipe).identifier
    training.run_training(dataset, "2d", 0, "nnUNetTrainer_nnvit", identifier, device=CPU, **flags)  # type: ignore[arg-type]
    return Path(str(nnUNet_results)) / dataset / f"nnUNetTrainer_nnvit__{identifier}__2d" / "fold_0"


@pytest.fixture(scope="session")
def trained(chase: str) -> Path:
    """A finished fold, trained by the command as a user would."""
    # Dice 0.5 to 0.7 here with seeds 0 to 3; at four times this rate one of them predicted nothing
    learning = ["training.num_iterations_per_epoch=50", "training.lr=5e-3", "training.seed=2"]
    overrides = [*TINY, *learning, "training.patch_size=[252,252]", "name=trained"]
    printed = command("nnvit", "train", chase, "2d", "0", *overrides, "-device", "cpu", "--npz")
    lines = [line for line in printed.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 2
    assert re.fullmatch(
        r"epoch 2/2  loss -?\d+\.\d{4}  val -?\d+\.\d{4}  pseudo Dice \d\.\d{3} \[\d\.\d{3}\]  "
        r"\d+\.\d\d s/it \(\d+% waiting for data\)  ETA 0 s",
        lines[1],
    )
    return Path(str(nnUNet_results)) / chase / "nnUNetTrainer_nnvit__nnUNetPlans_trained_s2__2d" / "fold_0"


def test_stock_predict_gives_the_validations_masks(trained: Path, chase: str, tmp_path: Path) -> None:
    assert {path.name for path in trained.glob("*.pth")} == {"checkpoint_final.pth", "checkpoint_best.pth"}
    predict(trained, chase, tmp_path)
    assert_same_predictions(trained / "validation", tmp_path, 2, ".png")
    assert any(mask.any() for mask in masks(tmp_path, ".png").values())


def test_the_folder_predicts_where_nothing_but_the_packages_is_installed(
    trained: Path, chase: str, tmp_path: Path
) -> None:
    """The model folder is moved elsewhere, and no environment variable of nnU-Net is set."""
    model = tmp_path / "model"
    shutil.copytree(trained.parent, model)
    (tmp_path / "in").mkdir()
    for path in (Path(os.environ["nnUNet_raw"]) / chase / "imagesTr").glob("Image_03L*"):
        shutil.copy(path, tmp_path / "in")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            patch.delenv(name)
        words = ["-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-m", str(model), "-f", "0", "-device", "cpu"]
        command("nnUNetv2_predict_from_modelfolder", *words, "-npp", "1", "-nps", "1")
    expected, got = masks(trained / "validation", ".png"), masks(tmp_path / "out", ".png")
    assert list(got) == ["Image_03L.png"]
    assert np.array_equal(expected["Image_03L.png"], got["Image_03L.png"])


def test_the_run_is_accounted_for(trained: Path) -> None:
    run = json.loads((trained / "nnvit_run.json").read_text())
    assert run["DONE"] is True
    assert run["exit"] == "finished"
    assert run["epochs_done"] == 2
    assert run["cases"] == {"train": 4, "val": 2}
    assert run["weights"]["source"] == "random"
    assert 0 < run["parameters"]["trainable"] < run["parameters"]["total"]
    seconds = run["seconds_per_iteration"]
    assert tuple(seconds) == PARTS
    assert min(seconds["forward"], seconds["backward"], seconds["step"]) > 0
    assert run["flops_per_patch"] > 0
    assert run["peak_memory_bytes"] > 2**20
    assert run["recipe_hash"] == loading.from_dict(run["recipe"]).hash
    assert {
        "base_plans_hash",
        "split_hash",
        "preprocessed_hash",
        "versions",
        "device",
        "precision",
        "end",
    } <= run.keys()


def test_show_prints_the_account_of_a_fold_and_of_its_model(trained: Path) -> None:
    run, lines = json.loads((trained / "nnvit_run.json").read_text()), describe.account(trained)
    assert describe.account(trained.parent) == lines
    rows = {words[0]: words[1] for line in lines[1:] if len(words := re.split(r"  +", line)) == 2}
    assert rows["recipe"].startswith(f"{run['recipe']['name']} ({run['recipe_hash'][:8]}), ")
    assert rows["ended"].startswith("finished at ")
    assert rows["epochs"] == "2 of 2"
    assert rows["parameters"] == "{trainable:,} of {total:,} are trained".format(**run["parameters"])
    assert all(f"{run['seconds_per_iteration'][part]:.3f} {part}" in rows["an iteration"] for part in PARTS[1:])
    assert rows["peak memory"].startswith(f"{run['peak_memory_bytes'] / 2**30:.2f} GiB")
    assert rows["FLOPs"].endswith("FLOPs to predict a patch")


def test_a_finished_fold_is_not_overwritten(trained: Path, chase: str) -> None:
    before = (trained / "checkpoint_final.pth").stat().st_mtime_ns
    with pytest.raises(PlansError, match=r"holds a training already.*--c"):
        training.run_training(chase, "2d", 0, "nnUNetTrainer_nnvit", "nnUNetPlans_trained_s2", device=CPU)
    assert (trained / "checkpoint_final.pth").stat().st_mtime_ns == before


def test_a_checkpoint_gives_back_weights_optimiser_and_log(trained: Path, chase: str) -> None:
    saved = checkpoint_file.read(trained / "checkpoint_final.pth")
    trainer = training.get_trainer_from_args(
        chase, "2d", 0, "nnUNetTrainer_nnvit", "nnUNetPlans_trained_s2", device=CPU
    )
    training.maybe_load_checkpoint(trainer, continue_training=True, validation_only=False)
    assert trainer.resumed
    assert trainer.current_epoch == 2
    for name, value in trainer.bare_network.state_dict().items():
        assert torch.equal(value, saved["network_weights"][name]), name
    restored = trainer.optimizer.state_dict()
    assert restored["param_groups"] == saved["optimizer_state"]["param_groups"]
    moments = saved["optimizer_state"]["state"]
    assert restored["state"].keys() == moments.keys()
    assert all(torch.equal(restored["state"][i]["exp_avg"], moments[i]["exp_avg"]) for i in moments)
    assert trainer.logger.get_value("train_losses", None) == saved["logging"]["train_losses"]


@pytest.mark.parametrize("stock", [False, True])
def test_pretrained_weights_start_a_network_whoever_loads_them(trained: Path, chase: str, stock: bool) -> None:
    """Holds for stock nnUNetv2_train too, which initialises the network, then loads, and overwrites nothing afterwards."""
    loader = run_training.maybe_load_checkpoint if stock else training.maybe_load_checkpoint
    file = str(trained / "checkpoint_final.pth")
    trainer = training.get_trainer_from_args(
        chase, "2d", 0, "nnUNetTrainer_nnvit", "nnUNetPlans_trained_s2", device=CPU
    )
    loader(trainer, False, False, file)
    if not trainer.was_initialized:
        trainer.initialize()
    saved = checkpoint_file.read(Path(file))["network_weights"]
    taken = [name for name in saved if not name.startswith("head.classifier.")]
    assert all(torch.equal(trainer.bare_network.state_dict()[name], saved[name]) for name in taken)


def test_the_best_checkpoint_can_be_validated_instead(trained: Path, chase: str) -> None:
    before = masks(trained / "validation", ".png")
    arguments = (chase, "2d", 0, "nnUNetTrainer_nnvit", "nnUNetPlans_trained_s2")
    training.run_training(*arguments, only_run_validation=True, val_with_best=True, device=CPU)
    assert len(masks(trained / "validation", ".png")) == 2
    training.run_training(*arguments, only_run_validation=True, export_validation_probabilities=True, device=CPU)
    again = masks(trained / "validation", ".png")
    assert all(np.array_equal(before[name], again[name]) for name in before)
    assert json.loads((trained / "nnvit_run.json").read_text())["DONE"] is True


def test_another_split_is_not_mixed_in(trained: Path, chase: str) -> None:
    path = Path(os.environ["nnUNet_preprocessed"]) / chase / "splits_final.json"
    original = path.read_text()
    (split,) = json.loads(original)
    path.write_text(json.dumps([{"train": split["train"][1:], "val": split["val"]}]))
    arguments = (chase, "2d", 0, "nnUNetTrainer_nnvit", "nnUNetPlans_trained_s2")
    try:
        with pytest.raises(PlansError, match="trained with another split"):
            training.run_training(*arguments, continue_training=True, device=CPU)
    finally:
        path.write_text(original)
    assert json.loads((trained / "nnvit_run.json").read_text())["cases"] == {"train": 4, "val": 2}


def test_an_interrupted_training_continues(chase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training killed in its third epoch resumes from checkpoint_latest and keeps the log of the first two."""
    overrides = ["name=interrupted", "training.num_epochs=4", "training.save_every=1", "training.patch_size=[252,252]"]
    original, steps = nnUNetTrainer_nnvit.train_step, []

    def dying(self: nnUNetTrainer_nnvit, batch: dict) -> dict:
        steps.append(1)
        if len(steps) == 8:
            raise KeyboardInterrupt
        return original(self, batch)

    monkeypatch.setattr(nnUNetTrainer_nnvit, "train_step", dying)
    with pytest.raises(KeyboardInterrupt):
        train(chase, *overrides)
    fold = Path(str(nnUNet_results)) / chase / "nnUNetTrainer_nnvit__nnUNetPlans_interrupted__2d" / "fold_0"
    run = json.loads((fold / "nnvit_run.json").read_text())
    assert (run["exit"], run["DONE"], run["epochs_done"]) == ("KeyboardInterrupt", False, 2)
    first = checkpoint_file.read(fold / "checkpoint_latest.pth")["logging"]["train_losses"]
    assert len(first) == 2

    train(chase, *overrides, continue_training=True)
    run = json.loads((fold / "nnvit_run.json").read_text())
    assert (run["exit"], run["DONE"], run["epochs_done"], len(run["resumed"])) == ("finished", True, 4, 1)
    assert checkpoint_file.read(fold / "checkpoint_final.pth")["logging"]["train_losses"][:2] == first
    assert not (fold / "checkpoint_latest.pth").exists()


@pytest.mark.parametrize("patch", [224, 256])
def test_patches_of_any_size_train_and_predict_in_three_channels(chase: str, patch: int, tmp_path: Path) -> None:
    """224 and 256 are on the grid of 16; 252, which is not, is the patch of the tests above."""
    keys = [f"training.patch_size=[{patch},{patch}]", "training.num_epochs=1", f"name=patch{patch}"]
    fold = train(chase, *keys, export_validation_probabilities=True)
    predict(fold, chase, tmp_path, *ONE_PROCESS)
    assert_same_predictions(fold / "validation", tmp_path, 2, ".png")


@pytest.mark.parametrize("patch", [224, 252, 256])
def test_patches_of_any_size_train_and_predict_in_one_channel(hippocampus: str, patch: int, tmp_path: Path) -> None:
    keys = [f"training.patch_size=[{patch},{patch}]", "training.num_epochs=1", f"name=grey{patch}"]
    fold = train(hippocampus, *keys, export_validation_probabilities=True)
    predict(fold, hippocampus, tmp_path, *ONE_PROCESS)
    assert_same_predictions(fold / "validation", tmp_path, 1, ".nii.gz")


def test_volumes_train_through_2d_with_lora(hippocampus: str, tmp_path: Path) -> None:
    keys = ["lora.enabled=true", "training.batch_size=4", "name=volumes"]
    fold = train(hippocampus, *keys, export_validation_probabilities=True)
    run = json.loads((fold / "nnvit_run.json").read_text())
    architecture = json.loads((fold.parent / "plans.json").read_text())["configurations"]["2d"]["architecture"]
    assert architecture["arch_kwargs"]["input_stats"] is None  # z-scored: the backbone's statistics do not apply
    assert run["patch_size"] == [56, 40]
    predict(fold, hippocampus, tmp_path, *ONE_PROCESS)
    assert_same_predictions(fold / "validation", tmp_path, 1, ".nii.gz")


def test_the_forks_command_and_config_train(hippocampus: str, tmp_path: Path) -> None:
    yaml = tmp_path / "fork.yaml"
    yaml.write_text("model: {backbone: tiny, backbone_size: eva, decoder_hidden_size: 16}\nlora: {r: 2}\n")
    overrides = [word for word in TINY if not word.startswith(("model.backbone", "lora.", "training.num_epochs"))]
    printed = command(
        "nnUNetv2_train_segformer", "102", "2d", "0", "--segformer_config", str(yaml), *overrides,
        "training.num_epochs=1", "training.batch_size=4", "-device", "cpu", "--disable_checkpointing",
    )  # fmt: skip
    assert "tuning lora" in printed
    results = Path(str(nnUNet_results)) / hippocampus
    (folder,) = results.glob("nnUNetTrainerNoDeepSupervision_segformer__nnUNetPlans_segformer_tiny_eva_lora_h*__2d")
    assert (folder / "fold_0" / "validation" / "summary.json").is_file()


def test_the_trainers_are_found_through_the_shim_on_plain_plans(hippocampus: str) -> None:
    """Stock code finds them by `nnUNet_extTrainer`; the plans' name stays, the network is the recipe's."""
    from nnunetv2.run.run_training import get_trainer_from_args

    shim = command("nnvit", "shim-path").strip()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_extTrainer", shim)
        for name in ("nnUNetTrainer_segformer", "nnUNetTrainerNoDeepSupervision_segformer"):
            trainer = get_trainer_from_args("102", "2d", 0, name, "nnUNetPlans", device=CPU)
            assert type(trainer).__name__ == name
            assert isinstance(trainer, nnUNetTrainer_nnvit)
            assert trainer.plans_manager.plans_name == "nnUNetPlans"
            assert trainer.configuration_manager.network_arch_class_name == "nnvit.model.Segmenter"
            assert trainer.recipe.name == "segformer_dinov3_large_lora"
            assert trainer.enable_deep_supervision is False
