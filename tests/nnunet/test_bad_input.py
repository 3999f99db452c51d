"""A user's mistakes get one paragraph that says what to do, exit code 2, no traceback, and nothing is overwritten."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nnvit import cli

from .conftest import TINY

Run = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in this process and returns its error message."""

    def run(*words: str) -> str:
        main = {"nnvit": cli.main, "nnUNetv2_train_segformer": cli.train_segformer_main}[words[0]]
        monkeypatch.setattr(sys, "argv", list(words))
        with pytest.raises(SystemExit) as stop:
            main()
        message = capsys.readouterr().err
        assert stop.value.code == 2
        assert message.startswith("error: ")
        assert "Traceback" not in message
        return message

    return run


def test_unset_folders(folders: Path, refused: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("nnUNet_preprocessed", "nnUNet_results"):
        with monkeypatch.context() as patch:
            patch.delenv(variable)
            message = refused("nnvit", "train", "102", "2d", "0", "--recipe", "unet", "-device", "cpu")
            assert f"{variable} is not set" in message
            assert f"export {variable}=" in message
        with monkeypatch.context() as patch:
            patch.setenv(variable, "/nowhere/at/all")
            message = refused("nnvit", "train", "102", "2d", "0", "--recipe", "unet", "-device", "cpu")
            assert f"{variable}=/nowhere/at/all is not a folder" in message


def test_unknown_data_set(hippocampus: str, refused: Run) -> None:
    message = refused("nnvit", "plan", "999", "2d")
    assert hippocampus in message
    assert "nnUNetv2_plan_and_preprocess -d 999" in message
    assert "is not preprocessed" in refused("nnvit", "plan", "Dataset102_Hipocampus", "2d")
    assert "Did you mean" in refused("nnvit", "plan", "Dataset102_Hipocampus", "2d")


def test_a_3d_configuration(hippocampus: str, refused: Run) -> None:
    message = refused("nnUNetv2_train_segformer", "102", "3d_fullres", "0", "-device", "cpu")
    assert "3D" in message
    assert "2d, which slices volumes" in message
    assert "Did you mean '2d'" in refused("nnvit", "plan", "102", "2D")


@pytest.mark.parametrize("patch", ["[50,40]", "[8,8]"])
def test_a_patch_that_the_planned_network_cannot_halve(patch: str, hippocampus: str, refused: Run) -> None:
    message = refused("nnvit", "plan", "102", "2d", "--recipe", "unet", f"training.patch_size={patch}", "name=halved")
    assert "does not fit the planned network, whose strides come to [8, 8]" in message
    assert f"such as {'[48, 40]' if patch == '[50,40]' else '[16, 16]'}" in message


def test_plans_that_do_not_exist(hippocampus: str, refused: Run) -> None:
    message = refused("nnvit", "train", "102", "2d", "0", "-p", "nnUNetPlan", "-device", "cpu")
    assert "Did you mean 'nnUNetPlans" in message


def test_a_plans_file_with_another_recipe(folders: Path, hippocampus: str, refused: Run) -> None:
    cli_plan = ["nnvit", "plan", "102", "2d", *TINY, "name=taken"]
    from nnvit.nnunet.plan import plans_file
    from nnvit.recipe import loading

    made = plans_file.plan(hippocampus, "2d", loading.load_recipe([], cli_plan[4:]))
    before = made.path.read_bytes()
    again = plans_file.plan(hippocampus, "2d", loading.load_recipe([], cli_plan[4:]))
    assert (made.created, again.created) == (True, False)
    message = refused(*cli_plan, "training.lr=0.5")
    assert "holds another recipe" in message
    assert "training.lr: 0.0003 -> 0.5" in message
    assert made.path.read_bytes() == before


def test_plans_made_from_other_base_plans_are_not_overwritten(folders: Path, hippocampus: str, refused: Run) -> None:
    words = ["nnvit", "plan", "102", "2d", *TINY, "name=rebased"]
    from nnvit.nnunet.plan import plans_file
    from nnvit.recipe import loading

    made = plans_file.plan(hippocampus, "2d", loading.load_recipe([], words[4:]))
    base = folders / "preprocessed" / hippocampus / "nnUNetPlans.json"
    original = base.read_text()
    base.write_text(json.dumps(json.loads(original) | {"image_reader_writer": "NibabelIO"}))
    try:
        assert "base plans nnUNetPlans:" in refused(*words)
    finally:
        base.write_text(original)
    assert plans_file.plan(hippocampus, "2d", loading.load_recipe([], words[4:])).path == made.path


def test_continuing_or_validating_what_was_never_trained(hippocampus: str, refused: Run) -> None:
    words = ["nnvit", "train", "102", "2d", "0", *TINY, "name=never", "-device", "cpu"]
    assert "no checkpoint to continue from" in refused(*words, "--c")
    assert "no checkpoint_final.pth" in refused(*words, "--val")
    assert "exclude each other" in refused(*words, "--c", "--val")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["0", "--recipe", "nothing.yaml"], "neither a shipped recipe"),
        (["x"], "fold 'x' must be a number"),
        (["0", "-device", "tpu"], "must be cuda, cpu or mps"),
        (["0", *TINY, "name=a", "-device", "cpu", "-tr", "nnUNetTrainer"], "is not a trainer of nnvit"),
        (["0", *TINY, "name=a", "-device", "cpu", "-tr", "nnUNetTrainer_sgformer"], "no trainer is called"),
        (["0", *TINY, "name=a", "-device", "cpu", "-pretrained_weights", "no.pth"], "no.pth does not exist"),
        (["0", *TINY, "name=a", "-device", "cpu", "--val_best", "--disable_checkpointing"], "--val_best needs"),
        (["0", *TINY, "name=a", "-device", "cpu", "-num_gpus", "2"], "-num_gpus 2 needs"),
        (["0", *TINY, "name=b", "-device", "cpu", "model.weights=default"], "has no default weights"),
        (["0", *TINY, "name=c", "-device", "cpu", "model.weights=/no/such/file.pth"], "/no/such/file.pth"),
        (["0", *TINY, "name=d", "-device", "cpu", "training.patch_size=[3,3,3]"], "must have 2 numbers"),
    ],
)
def test_flags_and_keys(hippocampus: str, refused: Run, words: list[str], expected: str) -> None:
    assert expected in refused("nnvit", "train", "102", "2d", *words)


def test_debug_shows_the_traceback(hippocampus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnvit.errors import NnvitError

    monkeypatch.setattr(sys, "argv", ["nnvit", "plan", "999", "2d", "--debug"])
    with pytest.raises(NnvitError):
        cli.main()
