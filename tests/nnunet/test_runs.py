"""Real runs: stock planning and preprocessing, our training, stock prediction without any environment variable."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_file_ending
from nnunetv2.paths import nnUNet_results

from nnvit import config
from nnvit.errors import PlansError
from nnvit.nnunet import checkpoint, planning, training
from nnvit.nnunet.trainer import nnUNetTrainer_nnvit

from .conftest import TINY, command

CPU = torch.device("cpu")


def train(dataset: str, *overrides: str, **flags: object) -> Path:
    """Plans and trains fold 0 in this process; returns the fold's folder."""
    recipe = config.load_recipe(["segformer_default"], [*TINY, *overrides])
    identifier = planning.plan(dataset, "2d", recipe).identifier
    training.run_training(dataset, "2d", 0, "nnUNetTrainer_nnvit", identifier, device=CPU, **flags)  # type: ignore[arg-type]
    return Path(str(nnUNet_results)) / dataset / f"nnUNetTrainer_nnvit__{identifier}__2d" / "fold_0"


def predict(fold: Path, dataset: str, out: Path) -> None:
    """Stock nnUNetv2_predict on the fold's validation cases, knowing nothing of nnvit but that it is installed."""
    raw = Path(os.environ["nnUNet_raw"]) / dataset / "imagesTr"
    cases = {path.name.split(".")[0] for path in (fold / "validation").iterdir() if path.suffix != ".json"}
    photos = out / "in"
    photos.mkdir(parents=True)
    for path in raw.iterdir():
        if path.name.split("_0000")[0] in cases:
            shutil.copy(path, photos)
    words = ["-i", str(photos), "-o", str(out), "-f", "0", "-device", "cpu", "-npp", "1", "-nps", "1"]
    dataset_flags = [
        "-d",
        dataset,
        "-c",
        "2d",
        "-tr",
        fold.parent.name.split("__")[0],
        "-p",
        fold.parent.name.split("__")[1],
    ]
    assert "nnUNet_extTrainer" not in os.environ
    command("nnUNetv2_predict", *words, *dataset_flags)


def masks(folder: Path, ending: str) -> dict[str, np.ndarray]:
    reader = determine_reader_writer_from_file_ending(ending)()
    return {path.name: reader.read_seg(str(path))[0] for path in folder.glob(f"*{ending}")}


@pytest.fixture(scope="session")
def trained(chase: str) -> Path:
    """A finished fold, trained by the command as a user would."""
    learning = ["training.num_iterations_per_epoch=25", "training.lr=1e-2"]
    overrides = [*TINY, *learning, "training.patch_size=[252,252]", "name=trained"]
    printed = command("nnvit", "train", chase, "2d", "0", *overrides, "-device", "cpu")
    lines = [line for line in printed.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 2
    assert re.fullmatch(
        r"epoch 2/2  loss -?\d+\.\d{4}  val -?\d+\.\d{4}  pseudo Dice \d\.\d{3} \[\d\.\d{3}\]  "
        r"\d+\.\d\d s/it \(\d+% waiting for data\)  ETA 0 s",
        lines[1],
    )
    return Path(str(nnUNet_results)) / chase / "nnUNetTrainer_nnvit__nnUNetPlans_trained__2d" / "fold_0"


def test_stock_predict_gives_the_validations_masks(trained: Path, chase: str, tmp_path: Path) -> None:
    assert {path.name for path in trained.glob("*.pth")} == {"checkpoint_final.pth", "checkpoint_best.pth"}
    predict(trained, chase, tmp_path)
    expected, got = masks(trained / "validation", ".png"), masks(tmp_path, ".png")
    assert len(expected) == 2
    assert expected.keys() == got.keys()
    assert all(np.array_equal(expected[name], got[name]) for name in expected)
    assert any(mask.any() for mask in expected.values())


def test_the_run_is_accounted_for(trained: Path) -> None:
    run = json.loads((trained / "nnvit_run.json").read_text())
    assert run["DONE"] is True
    assert run["exit"] == "finished"
    assert run["epochs_done"] == 2
    assert run["cases"] == {"train": 4, "val": 2}
    assert run["weights"]["source"] == "random"
    assert 0 < run["parameters"]["trainable"] < run["parameters"]["total"]
    assert run["seconds_per_iteration"]["step"] > 0
    assert run["recipe_hash"] == config.recipe_hash(config.from_dict(run["recipe"]))
    assert {
        "base_plans_hash",
        "split_hash",
        "preprocessed_hash",
        "versions",
        "device",
        "precision",
        "end",
    } <= run.keys()


def test_a_finished_fold_is_not_overwritten(trained: Path, chase: str) -> None:
    before = (trained / "checkpoint_final.pth").stat().st_mtime_ns
    with pytest.raises(PlansError, match=r"was trained before.*--c"):
        training.run_training(chase, "2d", 0, "nnUNetTrainer_nnvit", "nnUNetPlans_trained", device=CPU)
    assert (trained / "checkpoint_final.pth").stat().st_mtime_ns == before


def test_validating_again_gives_the_same_and_probabilities_on_request(trained: Path, chase: str) -> None:
    expected = masks(trained / "validation", ".png")
    training.run_training(
        chase, "2d", 0, "nnUNetTrainer_nnvit", "nnUNetPlans_trained", only_run_validation=True,
        export_validation_probabilities=True, device=CPU,
    )  # fmt: skip
    got = masks(trained / "validation", ".png")
    assert all(np.array_equal(expected[name], got[name]) for name in expected)
    assert len(list((trained / "validation").glob("*.npz"))) == 2


def test_an_interrupted_training_continues(chase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in its third epoch, it goes on from checkpoint_latest and keeps the log of the first two."""
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
    first = checkpoint.read(fold / "checkpoint_latest.pth")["logging"]["train_losses"]
    assert len(first) == 2

    train(chase, *overrides, continue_training=True)
    run = json.loads((fold / "nnvit_run.json").read_text())
    assert (run["exit"], run["DONE"], run["epochs_done"], len(run["resumed"])) == ("finished", True, 4, 1)
    assert checkpoint.read(fold / "checkpoint_final.pth")["logging"]["train_losses"][:2] == first
    assert not (fold / "checkpoint_latest.pth").exists()


@pytest.mark.parametrize("patch", [224, 256])
def test_patches_of_any_size_train_and_predict_in_three_channels(chase: str, patch: int, tmp_path: Path) -> None:
    """224 and 256 are on the grid of 16; 252, which is not, is the patch of every other test here."""
    fold = train(chase, f"training.patch_size=[{patch},{patch}]", "training.num_epochs=1", f"name=patch{patch}")
    predict(fold, chase, tmp_path)
    expected, got = masks(fold / "validation", ".png"), masks(tmp_path, ".png")
    assert all(np.array_equal(expected[name], got[name]) for name in expected)


def test_volumes_train_through_2d_in_one_channel_with_lora(hippocampus: str, tmp_path: Path) -> None:
    fold = train(hippocampus, "lora.enabled=true", "training.batch_size=4", "name=volumes")
    run = json.loads((fold / "nnvit_run.json").read_text())
    architecture = json.loads((fold.parent / "plans.json").read_text())["configurations"]["2d"]["architecture"]
    assert architecture["arch_kwargs"]["input_stats"] is None  # z-scored: the backbone's statistics do not apply
    assert run["patch_size"] == [56, 40]
    predict(fold, hippocampus, tmp_path)
    expected, got = masks(fold / "validation", ".nii.gz"), masks(tmp_path, ".nii.gz")
    assert len(expected) == 1
    assert all(np.array_equal(expected[name], got[name]) for name in expected)


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
