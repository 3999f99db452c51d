"""The recipe that each train command trains. `--c` on a training that never began names its folder, and writes nothing."""

import sys
from pathlib import Path

import pytest

from nnvit import cli
from nnvit.nnunet.plan import plans_file
from nnvit.recipe import loading
from tests.nnunet.conftest import TINY

MAIN = {
    "nnvit": cli.main,
    "nnUNetv2_train_segformer": cli.train_segformer_main,
    "nnUNetv2_train_vit": cli.train_vit_main,
    "nnUNetv2_train_m2f": cli.train_m2f_main,
}


def folder_of(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """The results folder that a command would train in."""
    monkeypatch.setattr(sys, "argv", [*words, "--c", "-device", "cpu"])
    with pytest.raises(SystemExit) as stop:
        MAIN[words[0]]()
    message = capsys.readouterr().err
    assert stop.value.code == 2, message
    assert "no checkpoint to continue from" in message
    return next(part for part in message.split("/") if "__" in part)


@pytest.mark.parametrize(
    ("name", "auto"),
    [
        ("segformer", "segformer_dinov3_{size}_lora"),
        ("vit", "progressive_dinov3_{size}_lora"),
        ("m2f", "mask2former_dinov3_{size}_lora"),
    ],
)
def test_a_forks_command_trains_its_recipe_under_the_users_yaml_and_keys(
    hippocampus: str,
    name: str,
    auto: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    yaml = tmp_path / "mine.yaml"
    yaml.write_text("model: {backbone_size: base}\n")
    words = [f"nnUNetv2_train_{name}", "102", "2d", "0"]
    trainer = f"nnUNetTrainerNoDeepSupervision_{name}__nnUNetPlans_"
    plain = folder_of(capsys, monkeypatch, *words)
    by_file = folder_of(capsys, monkeypatch, *words, f"--{name}_config", str(yaml))
    by_key = folder_of(capsys, monkeypatch, *words, f"--{name}_config", str(yaml), "model.backbone_size=small")
    assert plain == f"{trainer}{auto.format(size='large')}__2d"
    assert by_file == f"{trainer}{auto.format(size='base')}__2d"
    assert by_key == f"{trainer}{auto.format(size='small')}__2d"
    assert folder_of(capsys, monkeypatch, *words, "lora.r=4").startswith(f"{trainer}{auto.format(size='large')}_h")


@pytest.mark.parametrize("program", MAIN)
def test_plans_that_carry_a_recipe_are_trained_as_they_are(
    hippocampus: str, program: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plans_file.plan(hippocampus, "2d", loading.load_recipe(["unet"], ["name=carried"]))
    words = [*([program, "train"] if program == "nnvit" else [program]), "102", "2d", "0", "-p", made.identifier]
    assert folder_of(capsys, monkeypatch, *words).endswith("__nnUNetPlans_carried__2d")


def test_nnvit_train_without_a_recipe_is_segformer_default_and_merges_those_given(
    hippocampus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    named = tmp_path / "named.yaml"
    named.write_text("name: mine\ntraining: {num_epochs: 3}\n")
    words = ["nnvit", "train", "102", "2d", "0"]
    trainer = "nnUNetTrainer_nnvit__nnUNetPlans_"
    assert folder_of(capsys, monkeypatch, *words) == f"{trainer}segformer_dinov3_large_lora__2d"
    merged = folder_of(capsys, monkeypatch, *words, "-r", "unet", "--recipe", str(named))
    assert merged == f"{trainer}mine__2d"
    assert folder_of(capsys, monkeypatch, *words, *TINY).startswith(f"{trainer}segformer_tiny_vit_frozen_h")
