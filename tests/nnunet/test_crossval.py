"""A cross-validation by one command, `nnvit train … --folds`, and its evaluation as a whole, `nnvit evaluate`."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from nnunetv2.evaluation.evaluate_predictions import load_summary_json
from PIL import Image

from nnvit import cli
from nnvit.errors import ConfigError, DataError, PlansError
from nnvit.nnunet import checkpoint_file, crossval
from nnvit.nnunet.crossval import _state_of, choose
from nnvit.nnunet.train.trainer import nnUNetTrainer_nnvit
from tests.nnunet.conftest import TINY

Run = Callable[..., tuple[int, str, str]]
KEYS = [
    *TINY,
    "training.mirroring=false",
    "training.patch_size=[128,128]",
    "training.save_every=1",
    "training.lr=2e-2",
    "name=folds",
]


@pytest.fixture
def nnvit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `nnvit` in this process; returns exit code, output and errors."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nnvit", *words])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def model(paired: str, folders: Path) -> Iterator[Path]:
    """The folder in which the first of the tests below trains the folds."""
    folder = folders / "results" / paired / "nnUNetTrainer_nnvit__nnUNetPlans_folds__2d"
    yield folder
    shutil.rmtree(folder.parent)


def test_all_folds_are_trained_and_go_on_where_they_stopped(
    paired: str, model: Path, nnvit: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training is interrupted in the second epoch of fold 1; then fold 0 is left unchanged, and fold 1 continues."""
    steps = []
    original = nnUNetTrainer_nnvit.train_step

    def dying(self: nnUNetTrainer_nnvit, batch: dict) -> dict:
        steps.append(self.fold)
        if steps.count(1) == 4:
            raise KeyboardInterrupt
        return original(self, batch)

    words = ["train", paired, "2d", "--folds", "all", *KEYS, "-device", "cpu"]
    with monkeypatch.context() as patch:
        patch.setattr(nnUNetTrainer_nnvit, "train_step", dying)
        code, printed, errors = nnvit(*words)
    assert code == 130
    assert "the same command continues" in errors
    assert "fold 0: to be trained\nfold 1: to be trained\n" in printed
    assert steps == [0] * 6 + [1] * 4

    before = (model / "fold_0" / "checkpoint_final.pth").stat().st_mtime_ns
    code, printed, _ = nnvit(*words)
    assert code == 0
    assert "fold 0: finished, left as it is (" in printed
    assert "fold 1: interrupted, continues after epoch 1 of 2\n" in printed
    assert f"nnvit evaluate {model}" in printed
    assert (model / "fold_0" / "checkpoint_final.pth").stat().st_mtime_ns == before
    assert len(checkpoint_file.read(model / "fold_1" / "checkpoint_final.pth")["logging"]["train_losses"]) == 2
    for fold in (0, 1):
        assert json.loads((model / f"fold_{fold}" / "nnvit_run.json").read_text())["DONE"] is True

    code, printed, _ = nnvit(*words[:4], "1", "0", *KEYS, "-device", "cpu")
    assert code == 0
    assert printed.count("finished, left as it is (") == 2
    assert "  loss " not in printed


def test_a_validation_that_was_cut_off_is_made_up_for(paired: str, model: Path, nnvit: Run) -> None:
    path = model / "fold_1" / "nnvit_run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"DONE": False}))
    code, printed, _ = nnvit("train", paired, "2d", "--folds", "1", *KEYS, "-device", "cpu")
    assert code == 0
    assert "fold 1: trained, but not validated to the end" in printed
    assert "  loss " not in printed
    assert json.loads(path.read_text())["DONE"] is True


def test_folds_of_another_recipe_or_split_are_left_alone(paired: str, model: Path, folders: Path, nnvit: Run) -> None:
    path = model / "fold_1" / "nnvit_run.json"
    original = path.read_text()
    for key, said in (("recipe_hash", "holds another recipe"), ("split_hash", "trained with another split")):
        path.write_text(json.dumps(json.loads(original) | {key: "0" * 16}))
        code, printed, errors = nnvit("train", paired, "2d", "--folds", "all", *KEYS, "-device", "cpu")
        path.write_text(original)
        assert code == 2
        assert said in errors
        assert printed == ""


def test_a_fold_or_folds(paired: str, nnvit: Run) -> None:
    assert choose(paired, ["all"]) == [0, 1]
    assert choose(paired, ["1", "0", "1"]) == [0, 1]
    with pytest.raises(ConfigError, match="give all as FOLD"):
        choose(paired, ["0", "all"])
    with pytest.raises(PlansError, match="holds folds 0 to 1"):
        choose(paired, ["0", "2"])
    for words, said in (([], "which fold?"), (["0", "--folds", "all"], "not both")):
        code, _, errors = nnvit("train", paired, "2d", *words, "-device", "cpu")
        assert code == 2
        assert said in errors


def test_a_fold_with_a_checkpoint_and_no_account_of_its_run_can_be_described(tmp_path: Path) -> None:
    """A fold whose nnvit_run.json was lost, or that stock nnU-Net trained."""
    (tmp_path / "checkpoint_latest.pth").touch()
    _, said = _state_of(tmp_path)
    assert said.startswith("interrupted, continues from its checkpoint")
    assert "no nnvit_run.json" in said


# --- evaluation ---------------------------------------------------------------------------------------------------------


def dice(predicted: np.ndarray, reference: np.ndarray) -> float:
    return float(2 * (predicted & reference).sum() / (predicted.sum() + reference.sum()))


def test_the_folds_are_evaluated_together(paired: str, model: Path, folders: Path, nnvit: Run) -> None:
    code, printed, _ = nnvit(
        "evaluate", "-d", paired, "-c", "2d", "-tr", "nnUNetTrainer_nnvit", "-p", "nnUNetPlans_folds"
    )
    assert code == 0
    merged = model / "crossval_results_folds_0_1"
    cases = {0: ["Image_01L", "Image_01R"], 1: ["Image_02L", "Image_03L"]}
    by_hand = {}
    for fold, names in cases.items():
        for name in names:
            predicted = np.asarray(Image.open(model / f"fold_{fold}" / "validation" / f"{name}.png")) > 0
            by_hand[name] = dice(
                predicted, np.asarray(Image.open(folders / "raw" / paired / "labelsTr" / f"{name}.png")) > 0
            )
    assert {path.stem for path in merged.glob("*.png")} == by_hand.keys()
    summary = load_summary_json(str(merged / "summary.json"))
    np.testing.assert_allclose(summary["mean"][1]["Dice"], np.mean(list(by_hand.values())))
    for row, names in (("fold 0", cases[0]), ("fold 1", cases[1]), ("all", [*by_hand])):
        values = [by_hand[name] for name in names]
        (line,) = [line for line in printed.splitlines() if f" {row} " in line]
        assert f" {np.mean(values):.4f} ± {np.std(values, ddof=1):.3f} ({len(values)}) " in line
    assert f"nnU-Net's summary: {merged / 'summary.json'}" in printed


def test_missing_and_left_over_masks_and_folds_are_named(model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    (copy / "fold_0" / "validation" / "Image_01L.png").rename(copy / "fold_0" / "validation" / "Image_02L.png")
    with pytest.raises(DataError) as refused:
        crossval.evaluate_model(copy)
    assert "fold 0: no mask of Image_01L" in str(refused.value)
    assert "fold 0: Image_02L.png is not one of its validation cases" in str(refused.value)
    shutil.rmtree(copy / "fold_0" / "validation")
    with pytest.raises(PlansError, match=r"lacks the validation of fold 0\. .*--folds 0.*or evaluate --folds 1"):
        crossval.evaluate_model(copy)
    with pytest.raises(PlansError, match="holds folds 0 to 1"):
        crossval.evaluate_model(copy, [0, 7])


def test_all_folds_and_some_of_them_at_once_are_refused(nnvit: Run, tmp_path: Path) -> None:
    code, _, errors = nnvit("evaluate", str(tmp_path), "--folds", "all", "0")
    assert code == 2
    assert "--folds all 0: give numbers, or 'all' alone" in errors


def test_empty_references_are_counted_and_kept_out_of_the_mean(model: Path, tmp_path: Path) -> None:
    """Two labels in three cases; label 2 is in one reference alone, and is predicted in one of the others."""
    predictions, references = tmp_path / "predictions", tmp_path / "references"
    predictions.mkdir()
    references.mkdir()
    drawn = {"a": ([1, 1, 2, 0], [1, 1, 2, 2]), "b": ([1, 0, 2, 0], [1, 1, 0, 0]), "c": ([1, 0, 0, 0], [1, 0, 0, 0])}
    for name, (predicted, reference) in drawn.items():
        Image.fromarray(np.array([predicted], np.uint8)).save(predictions / f"{name}.png")
        Image.fromarray(np.array([reference], np.uint8)).save(references / f"{name}.png")
    shutil.copy(model / "plans.json", predictions)
    described = json.loads((model / "dataset.json").read_text())
    described["labels"] = {"background": 0, "artery": 1, "vein": 2}
    with pytest.raises(DataError, match=r"lacks dataset.json"):
        crossval.evaluate_folder(predictions, references)
    (predictions / "dataset.json").write_text(json.dumps(described))
    (references / "d.png").write_bytes((references / "c.png").read_bytes())
    with pytest.raises(DataError, match=r"d.png: no prediction"):
        crossval.evaluate_folder(predictions, references)
    os.remove(references / "d.png")
    result = crossval.evaluate_folder(predictions, references)
    artery, vein = (result.rows["all"][label] for label in result.names)
    np.testing.assert_allclose(artery.values, [1, 2 / 3, 1])
    np.testing.assert_allclose(vein.values, [2 / 3])
    assert (vein.empty, vein.false_alarms) == (2, 1)
    assert str(vein) == "0.6667 ± – (1)\n2 empty, 1 with a false alarm"
    assert result.lines()[1].endswith("the means differ: vein 0.3333")
