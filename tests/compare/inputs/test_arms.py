"""Folders become arms, with their folds, runs and names."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from nnvit.compare.inputs.arms import Arm
from nnvit.errors import CompareError
from tests.compare.planted import CASES, FOLDS, PLANS, Study, recipe, set_debug, write_json, write_png


def stock(study: Study) -> Path:
    return study.results / "nnUNetTrainer__nnUNetPlans__2d"


def vit(study: Study, seed: int = 0) -> Path:
    return study.results / f"nnUNetTrainer_nnvit__nnUNetPlans_vit_s{seed}__2d"


def seeds(study: Study, *numbers: int) -> list[Path]:
    for seed in numbers:
        study.nnvit(f"vit_s{seed}", recipe(name=f"vit_s{seed}", training={"seed": seed}), noise=seed + 3)
    return [vit(study, seed) for seed in (0, *numbers)]


def test_results_folders_of_any_trainer(study: Study) -> None:
    found = Arm.find([stock(study), vit(study)])
    assert [arm.name for arm in found] == ["nnUNetTrainer", "vit"]
    for arm in found:
        (run,) = arm.runs
        assert (run.dataset, run.name, run.configuration) == ("Dataset777_Planted", "", "2d")
        assert {fold.name: sorted(fold.predictions) for fold in run.folds} == FOLDS
        assert sorted(run.predictions) == CASES


def test_chosen_folds(study: Study) -> None:
    (arm,) = Arm.find([stock(study)], folds=["1"])
    assert [fold.name for fold in arm.runs[0].folds] == ["1"]


def test_one_fold_folder(study: Study) -> None:
    (arm,) = Arm.find([stock(study) / "fold_1"])
    assert [fold.name for fold in arm.runs[0].folds] == ["1"]
    assert arm.runs[0].model == stock(study)


def test_folds_of_masks_without_any_record(study: Study, tmp_path: Path) -> None:
    for fold in FOLDS:
        shutil.copytree(stock(study) / f"fold_{fold}" / "validation", tmp_path / "theirs" / f"fold_{fold}")
    (arm,) = Arm.find([tmp_path / "theirs"])
    assert arm.name == "theirs"
    assert arm.runs[0].model is None
    assert {fold.name: sorted(fold.predictions) for fold in arm.runs[0].folds} == FOLDS


def test_a_plain_folder_of_masks(study: Study) -> None:
    (arm,) = Arm.find([f"observer={study.references}"])
    assert arm.name == "observer"
    assert [fold.name for fold in arm.runs[0].folds] == [""]


def test_predictions_inside_a_results_folder_know_their_model(study: Study) -> None:
    shutil.copytree(study.references, vit(study) / "predicted")
    (arm,) = Arm.find([vit(study) / "predicted"])
    assert arm.name == "vit"
    assert arm.runs[0].model == vit(study)
    assert [fold.name for fold in arm.runs[0].folds] == [""]


def test_the_plans_that_nnunetv2_predict_copies_do_not_hide_the_results_folder(study: Study, tmp_path: Path) -> None:
    inside, elsewhere = vit(study) / "predicted", tmp_path / "elsewhere"
    for folder in (inside, elsewhere):
        shutil.copytree(study.references, folder)
        for name in ("plans.json", "dataset.json"):
            shutil.copy(vit(study) / name, folder)
    assert Arm.find([inside])[0].runs[0].model == vit(study)
    (arm,) = Arm.find([elsewhere])
    assert (arm.name, arm.runs[0].model, arm.runs[0].seed) == ("vit", elsewhere, 0)


def test_a_validation_folder_is_its_fold(study: Study) -> None:
    (arm,) = Arm.find([vit(study) / "fold_1" / "validation"])
    assert [fold.name for fold in arm.runs[0].folds] == ["1"]
    assert arm.runs[0].model == vit(study)


def test_seeds_of_one_recipe_are_runs_of_one_arm(study: Study) -> None:
    found = Arm.find([stock(study), *reversed(seeds(study, 1, 2))])
    assert [arm.name for arm in found] == ["nnUNetTrainer", "vit"]
    assert [run.name for run in found[1].runs] == ["0", "1", "2"]


def test_runs_of_a_stock_trainer_are_grouped_by_their_name(study: Study) -> None:
    again = study.stock("nnUNetTrainer__nnUNetPlans__2d_again", noise=4)
    (arm,) = Arm.find([f"unet={stock(study)}", f"unet={again}"])
    assert [run.name for run in arm.runs] == ["0", "1"]


def test_equal_folder_names_are_no_proof_of_one_arm(study: Study) -> None:
    """Two forks may give their trainers the same name."""
    other = study.root / "elsewhere" / "Dataset777_Planted" / stock(study).name
    shutil.copytree(stock(study), other)
    with pytest.raises(CompareError, match=r"would all be called 'nnUNetTrainer__nnUNetPlans__2d'.*NAME=PATH"):
        Arm.find([stock(study), other])
    assert [arm.name for arm in Arm.find([stock(study), f"theirs={other}"])] == ["nnUNetTrainer", "theirs"]


def test_different_recipes_under_one_name_are_refused(study: Study) -> None:
    other = study.nnvit("other_s0", recipe(name="other_s0"), recipe_hash="12" * 32)
    with pytest.raises(CompareError, match="the arm 'a' is given runs of different recipes"):
        Arm.find([f"a={vit(study)}", f"a={other}"])


def test_runs_of_nnvit_and_of_another_trainer_under_one_name_are_refused(study: Study) -> None:
    with pytest.raises(CompareError, match="mixes runs of nnvit with runs of another trainer"):
        Arm.find([f"a={vit(study)}", f"a={stock(study)}"])


@pytest.mark.parametrize("word", ["vit", "nnUNetTrainer_nnvit__nnUNetPlans_vit_s0", "nnUNetPlans_vit_s0", "vit_s0"])
def test_names_under_nnunet_results(study: Study, word: str) -> None:
    (arm,) = Arm.find([word], datasets=["Dataset777_Planted"])
    assert arm.path == vit(study)


def test_a_recipes_name_means_all_its_seeds(study: Study) -> None:
    seeds(study, 1, 2)
    unet, arm = Arm.find(["unet=nnUNetTrainer", "vit"], datasets=["777"])
    assert (unet.name, unet.path) == ("unet", stock(study))
    assert [run.name for run in arm.runs] == ["0", "1", "2"]


def test_an_arm_on_several_data_sets(study: Study) -> None:
    other = study.results.parent / "Dataset778_Other"
    shutil.copytree(study.results, other)
    for model in other.iterdir():
        held = PLANS | {"dataset_name": other.name}
        write_json(model / "plans.json", held)
    (arm,) = Arm.find(["nnUNetTrainer"], datasets=["777", "778"])
    assert arm.datasets == ["Dataset777_Planted", "Dataset778_Other"]
    assert [run.name for run in arm.runs] == ["", ""]


def test_short_names_that_clash_give_way_to_long_ones(study: Study) -> None:
    other = study.results.parent / "elsewhere" / "theirs"
    one = study.results.parent / "here" / "theirs"
    for folder in (one, other):
        shutil.copytree(study.references, folder)
    assert [arm.name for arm in Arm.find([one, other])] == ["here/theirs", "elsewhere/theirs"]


def test_a_fold_that_is_still_trained_is_left_out_and_noted(study: Study) -> None:
    """progress.png, which nnU-Net writes into the fold from the first epoch on, is not a mask."""
    shutil.rmtree(vit(study) / "fold_1" / "validation")
    set_debug(vit(study))
    write_png(vit(study) / "fold_1" / "progress.png", np.zeros((4, 4)))
    (arm,) = Arm.find([vit(study)])
    assert arm.runs[0].unfinished == ("1",)
    with pytest.raises(CompareError, match="holds neither fold_0"):
        Arm.find([vit(study) / "fold_1"])
