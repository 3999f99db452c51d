"""The parser of nnU-Net's text records."""

from pathlib import Path

import pytest

from nnvit.compare.inputs.training_records import Fold, Run, _Log
from tests.compare.planted import FOLDS, LOSS, STOCK_LOSS, TRANSFORMS, TRANSFORMS_OF_OURS, log


def recorded(**debug: str | None) -> Fold:
    """A fold with nothing but these texts in its debug.json."""
    run = Run(dataset="", path=Path(), model=None, configuration="2d", plans={}, recipe={}, recipe_hash="")
    fold = Fold(run=run, name="0", folder=Path("nowhere"), predictions={})
    fold.debug = debug
    return fold


def loss_name(text: str | None) -> str | None:
    return recorded(loss=text).loss


def transforms(text: str | None) -> list[str] | None:
    return recorded(**{"dataloader_train.generator.transforms": text}).transforms


def mirror_axes(text: str | None) -> list[int] | None:
    return recorded(**{"dataloader_train.generator.transforms": text}).mirror_axes


COMPILED = """DeepSupervisionWrapper(
  (loss): DC_and_CE_loss(
    (ce): RobustCrossEntropyLoss()
    (dc): OptimizedModule(
      (_orig_mod): MemoryEfficientSoftDiceLoss()
    )
  )
)"""
"""The loss in debug.json if nnU-Net compiles its Dice loss, which it does on CUDA."""


@pytest.mark.parametrize("text", [LOSS, STOCK_LOSS, COMPILED], ids=["plain", "deep supervision", "compiled"])
def test_a_loss_is_the_same_whatever_wraps_it(text: str) -> None:
    assert loss_name(text) == "DC_and_CE_loss(RobustCrossEntropyLoss, MemoryEfficientSoftDiceLoss)"


def test_a_loss_of_one_class() -> None:
    assert loss_name("MemoryEfficientSoftDiceLoss()") == "MemoryEfficientSoftDiceLoss"
    assert loss_name(None) is None


def test_an_augmentation_is_the_same_whatever_the_patch_the_mirroring_and_the_deep_supervision() -> None:
    other = TRANSFORMS_OF_OURS.replace("patch_size = [64, 64]", "patch_size = [512, 448]").replace(
        "MirrorTransform( allowed_axes = (0, 1) ), ", ""
    )
    assert transforms(other) == transforms(TRANSFORMS)
    assert len(transforms(TRANSFORMS) or []) == 5


def test_what_a_transform_remembers_of_its_run_does_not_count() -> None:
    used = TRANSFORMS.replace("_grid_cache = {}", "_grid_cache = {(64, 64): 1}").replace(
        "benchmark_use_fft = {}", "benchmark_use_fft = {(3, 64, 64): True}"
    )
    assert transforms(used) == transforms(TRANSFORMS)


def test_settings_of_a_transform_count() -> None:
    assert transforms(TRANSFORMS.replace("p_scaling = 0.2", "p_scaling = 0.3")) != transforms(TRANSFORMS)


@pytest.mark.parametrize("text", [None, "None", "<nnunetv2.training.dataloading.data_loader.nnUNetDataLoader object>"])
def test_no_transforms_on_record(text: str | None) -> None:
    assert transforms(text) is None
    assert mirror_axes(text) is None


def test_mirror_axes() -> None:
    assert mirror_axes(TRANSFORMS) == [0, 1]
    assert mirror_axes(TRANSFORMS.replace("MirrorTransform( allowed_axes = (0, 1) ), ", "")) == []


def test_a_log_from_start_to_end(tmp_path: Path) -> None:
    (tmp_path / "training_log_2026_3_1_09_00_00.txt").write_text(log("0", FOLDS["0"], ours=True))
    found = _Log(tmp_path)
    assert (found.epochs, found.finished, found.train_cases, found.val_cases) == (3, True, 6, 6)
    assert (found.first_rate, found.checkpoint, found.mirrored, found.overlap) == (0.01, "final", True, False)
    assert found.epoch_seconds == (10.0,) * 3
    assert found.case_seconds == (2.0,) * 5


def test_an_epoch_that_was_done_again_after_an_interruption_counts_once(tmp_path: Path) -> None:
    whole = log("0", FOLDS["0"])
    cut = whole[: whole.index("Epoch 2 ") + len("Epoch 2 \n")]
    (tmp_path / "training_log_2026_3_1_09_00_00.txt").write_text(cut)
    assert (_Log(tmp_path).epochs, _Log(tmp_path).finished) == (2, False)
    (tmp_path / "training_log_2026_3_1_11_00_00.txt").write_text(whole[whole.index("2026-03-01 09:00:1") :])
    found = _Log(tmp_path)
    assert (found.epochs, found.finished, len(found.epoch_seconds)) == (3, True, 3)


def test_no_log(tmp_path: Path) -> None:
    found = _Log(tmp_path)
    assert (found.epochs, found.finished, found.start, found.case_seconds) == (None, False, None, ())
