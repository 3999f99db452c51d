"""The command line: every command explains itself, the train commands are one, and nothing heavy is imported for help."""

import argparse
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image

from nnvit import cli
from nnvit.cli.train import FORK_APPS as FORK
from nnvit.weights import licences


def commands(app: typer.Typer = cli.app, name: str = "nnvit") -> Iterator[tuple[str, Any]]:
    """Every command under an app, with the words that call it."""

    def walk(command: Any, words: str) -> Iterator[tuple[str, Any]]:
        below = getattr(command, "commands", None)
        if below is None:
            yield words, command
        for child, inner in (below or {}).items():
            yield from walk(inner, f"{words} {child}")

    yield from walk(typer.main.get_command(app), name)


ALL = dict(commands()) | {
    f"nnUNetv2_train_{name}": next(commands(app, f"nnUNetv2_train_{name}"))[1] for name, app in FORK.items()
}


def flags(command: Any) -> dict[str, Any]:
    return {option: parameter.default for parameter in command.params for option in parameter.opts if option[0] == "-"}


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Runs `nnvit` in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["nnvit", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


@pytest.mark.parametrize("words", ALL)
def test_every_command_explains_itself_by_example(words: str) -> None:
    command = ALL[words]
    assert command.help
    assert command.epilog.startswith("Example")
    assert words in command.epilog
    assert [p.name for p in command.params if not getattr(p, "help", None)] == []


@pytest.mark.parametrize("name", FORK)
def test_the_forks_commands_are_nnvit_train_with_another_recipe_option(name: str) -> None:
    train, fork = flags(ALL["nnvit train"]), flags(ALL[f"nnUNetv2_train_{name}"])
    assert fork.keys() == (train.keys() - {"--recipe", "-r"}) | {f"--{name}_config"}
    assert fork["-tr"] == f"nnUNetTrainerNoDeepSupervision_{name}"
    assert train["-tr"] == "nnUNetTrainer_nnvit"


def test_the_default_trainers_exist_and_bring_the_commands_recipe() -> None:
    from nnvit.nnunet.train.run_training import _find_trainer

    for name in FORK:
        trainer = _find_trainer(flags(ALL[f"nnUNetv2_train_{name}"])["-tr"])
        assert trainer.default_recipe == f"{name}_default"
    _find_trainer("nnUNetTrainer_nnvit")


@pytest.fixture
def options_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], dict[str, Any]]:
    """Flag -> default of a command of nnU-Net's, from its own parser."""
    parsers: list[argparse.ArgumentParser] = []

    def stop(parser: argparse.ArgumentParser, *_: Any) -> None:
        parsers.append(parser)
        raise SystemExit

    def ask(entry: Callable[[], None]) -> dict[str, Any]:
        with monkeypatch.context() as patch:
            patch.setattr(argparse.ArgumentParser, "parse_args", stop)
            with pytest.raises(SystemExit):
                entry()
        found = {flag: action.default for action in parsers[-1]._actions for flag in action.option_strings}
        return {flag: default for flag, default in found.items() if flag not in ("-h", "--help")}

    return ask


def test_every_flag_of_nnunets_own_train_command_is_there(
    options_of: Callable[[Callable[[], None]], dict[str, Any]],
) -> None:
    from nnunetv2.run.run_training import run_training_entry

    theirs = options_of(run_training_entry)
    assert theirs
    assert theirs.keys() <= flags(ALL["nnvit train"]).keys()


def test_nnvit_predict_has_nnunets_flags_and_defaults(
    options_of: Callable[[Callable[[], None]], dict[str, Any]],
) -> None:
    """The exceptions: the folds (those that are trained) and the device (the GPU if there is one)."""
    from nnunetv2.inference.predict_from_raw_data import predict_entry_point, predict_entry_point_modelfolder

    ours = flags(ALL["nnvit predict"])
    for entry in (predict_entry_point, predict_entry_point_modelfolder):
        theirs = options_of(entry)
        assert theirs.keys() <= ours.keys()
        same = theirs.keys() - {"-f", "-device"}
        assert {flag: theirs[flag] for flag in same} == {flag: ours[flag] for flag in same}


def test_folds_are_given_in_a_row_as_to_nnunet() -> None:
    words = ["-i", "in", "-o", "out", "-f", "0", "1", "all", "-c", "2d", "-m", "model"]
    assert list(ALL["nnvit predict"].make_context("predict", words).params["f"]) == ["0", "1", "all"]
    train = ALL["nnvit train"].make_context("train", ["101", "2d", "--folds", "0", "2", "lora.r=4", "--c"])
    assert list(train.params["folds"]) == ["0", "2"]
    assert train.params["fold"] == "lora.r=4"  # told apart by the command


def test_every_installed_command_exists() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert {f"nnUNetv2_train_{name}" for name in FORK} < project["scripts"].keys()
    for target in project["scripts"].values():
        module, _, function = target.partition(":")
        assert callable(getattr(import_module(module), function))


@pytest.mark.parametrize("words", [*ALL, "nnvit", "nnvit dataset", "nnvit weights"])
def test_help_loads_nothing_heavy(words: str) -> None:
    function = {f"nnUNetv2_train_{name}": f"train_{name}_main" for name in FORK}.get(words, "main")
    code = (
        f"import sys, atexit, nnvit.cli; sys.argv = {[*words.split(), '--help']!r};"
        "heavy = {'torch', 'nnunetv2', 'timm', 'transformers', 'omegaconf'};"
        "atexit.register(lambda: print('heavy:', sorted(heavy & sys.modules.keys())));"
        f"nnvit.cli.{function}()"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "Usage:" in printed
    assert "heavy: []" in printed


def test_torchvisions_warning_about_torch_is_not_shown() -> None:
    """Holds too for a script and for stock nnU-Net's commands, which build the network without nnvit's command line."""
    code = "import nnvit.model, sys; assert 'torchvision' in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stderr == ""


def test_a_licence_is_accepted_once_for_this_process_and_later_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NNVIT_CACHE", str(tmp_path))
    monkeypatch.setenv(licences.VARIABLE, "")
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    assert not licences._acceptance("dinov3")
    for command in (["plan", "101", "2d"], ["train", "101", "2d", "0"]):
        assert run(monkeypatch, *command, "--accept-license", "dinov3", "--accept-license", "cc-by-nc-4.0") == 2
        assert "nnUNet_preprocessed is not set" in capsys.readouterr().err  # no data set; the licence came first
        assert licences._acceptance("dinov3")
        assert licences._acceptance("cc-by-nc-4.0")
    assert "dinov3" in os.environ[licences.VARIABLE]
    monkeypatch.setenv(licences.VARIABLE, "")
    assert licences._acceptance("dinov3")


def test_lists_shows_and_checks_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nnvit import describe

    assert run(monkeypatch, "list", "necks") == 0
    assert capsys.readouterr().out.splitlines() == describe.listing("necks")
    assert run(monkeypatch, "list", "recipes", "--markdown") == 0
    assert capsys.readouterr().out == "\n".join(describe.listing("recipes_page")) + "\n"
    tiny = ["model.backbone=tiny", "model.backbone_size=vit"]
    assert (
        run(monkeypatch, "show", "segformer_default", *tiny, "--patch", "48", "32", "--channels", "1", "--batch", "1")
        == 0
    )
    printed = capsys.readouterr().out.splitlines()
    assert printed == describe.show("segformer_default", tiny, channels=1, patch=(48, 32), batch=1)
    weights = tmp_path / "weights.pth"
    torch.save({"blocks.0.attn.qkv.weight": torch.zeros(3, 3)}, weights)
    assert run(monkeypatch, "weights", "check", str(weights)) == 0
    assert f"file: {weights}" in capsys.readouterr().out
    assert run(monkeypatch, "weights", "check", str(tmp_path / "none.pth")) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_mistyped_word_is_refused_with_what_is_legal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "list", "head") == 2
    assert "heads" in capsys.readouterr().err
    assert run(monkeypatch, "show", "segformer_defualt") == 2
    assert "Did you mean 'segformer_default'" in capsys.readouterr().err


@pytest.fixture
def photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two images with a red and green mask each, the same as two masks, and nnU-Net's folders."""
    labels = np.zeros((20, 30), np.uint8)
    labels[2:9, 3:20] = 1
    labels[12:15, 3:20] = 2
    for folder in ("images", "masks", "raw", "preprocessed"):
        (tmp_path / folder).mkdir()
    for stem in ("a", "b"):
        Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(tmp_path / "images" / f"{stem}.bmp")
        colours = np.array([(0, 0, 0), (255, 0, 0), (0, 128, 0)], np.uint8)[labels]
        Image.fromarray(colours).save(tmp_path / "masks" / f"{stem}.png")
        Image.fromarray(labels == 1).save(tmp_path / "masks" / f"{stem}_artery.png")
        Image.fromarray(labels == 2).save(tmp_path / "masks" / f"{stem}_vein.png")
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    return tmp_path


def test_masks_in_colours_and_one_per_label_give_the_same_data_set(
    photographs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images, masks = str(photographs / "images"), photographs / "masks"
    per_label = [f"artery={masks}/*_artery", f"vein={masks}/*_vein"]
    common = ["-np", "2", "--preview", "0"]
    words = [
        "dataset",
        "import",
        images,
        "-d",
        "7",
        "-n",
        "Each",
        "--mask",
        per_label[0],
        "--mask",
        per_label[1],
        *common,
    ]
    assert run(monkeypatch, *words) == 0
    for path in masks.glob("*_*"):
        path.unlink()
    labels = ["--label", "artery=#ff0000", "--label", "vein=0,128,0"]
    assert run(monkeypatch, "dataset", "import", images, str(masks), "-d", "8", "-n", "Colour", *labels, *common) == 0
    each, colour = (photographs / "raw" / name for name in ("Dataset007_Each", "Dataset008_Colour"))
    for case in ("a", "b"):
        label = np.asarray(Image.open(each / "labelsTr" / f"{case}.png"))
        assert np.unique(label).tolist() == [0, 1, 2]
        assert np.array_equal(label, Image.open(colour / "labelsTr" / f"{case}.png"))
    capsys.readouterr()
    assert run(monkeypatch, "dataset", "import", images, str(masks), "-d", "8", "-n", "Colour", *labels, *common) == 0
    assert capsys.readouterr().out.startswith("unchanged: ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--label", "vessel=red"], "--label vessel=red must be name=value with a whole number or a colour"),
        (["--label", "a=#ff0000", "--label", "a=#00ff00"], "each name is given once"),
        (["--mask", "vessel"], "--mask vessel must be name=folder"),
        (["--mask", "vessel=masks"], "masks come in one folder, or with --mask NAME=FOLDER for each label"),
        (["--overlap", "last"], "expected one of refuse, first"),
        (["--channel-names", "a,a"], "expected a different name for each channel"),
    ],
)
def test_senseless_words_of_an_import(
    photographs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
) -> None:
    images, masks = str(photographs / "images"), str(photographs / "masks")
    assert run(monkeypatch, "dataset", "import", images, masks, "-d", "7", "-n", "Bad", *words) == 2
    assert said in capsys.readouterr().err
