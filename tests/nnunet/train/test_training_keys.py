"""Keys of `training` that act inside nnU-Net's loop: mirroring, ema, grad_checkpointing, drop_path, loss."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.noise import gaussian_blur
from nnunetv2.run.run_training import get_trainer_from_args as stock_trainer
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor

from nnvit.errors import ConfigError
from nnvit.model.training import WeightAverage
from nnvit.nnunet import checkpoint_file
from nnvit.nnunet.plan import plans_file
from nnvit.nnunet.train import recipe_trainer, run_training
from nnvit.nnunet.train.randomness import RandomStreams
from nnvit.nnunet.train.trainer import nnUNetTrainer_nnvit
from nnvit.recipe import loading
from tests.nnunet.conftest import ONE_TILE, SHORT, TINY, assert_same_predictions, fold_of, predict_here, train

blur = gaussian_blur.blur_dimension
CPU = torch.device("cpu")
TRAINER = "nnUNetTrainer_nnvit"
FULL = "model.freeze_backbone=false"


def trainer_of(dataset: str, *overrides: str) -> nnUNetTrainer_nnvit:
    """A trainer that is ready to train SegFormer's recipe with overrides."""
    recipe = loading.load_recipe(["segformer_default"], overrides)
    identifier = plans_file.plan(dataset, "2d", recipe).identifier
    trainer = run_training.get_trainer_from_args(dataset, "2d", 0, TRAINER, identifier, device=CPU)
    trainer.initialize()
    return trainer


# --- mirroring ----------------------------------------------------------------------------------------------------------


def described(variant: type[nnUNetTrainer], trainer: nnUNetTrainer, monkeypatch: pytest.MonkeyPatch) -> str:
    """All transforms of the training data with all their settings, before any is used (some keep state)."""
    descriptions: list[str] = []

    def describing(*args: Any, **settings: Any) -> BasicTransform:
        transforms = original(*args, **settings)
        descriptions.append(repr(transforms))
        return transforms

    original = variant.get_training_transforms
    with monkeypatch.context() as patch:
        patch.setattr(variant, "get_training_transforms", staticmethod(describing))
        trainer.get_dataloaders()
    (found,) = descriptions
    return re.sub(" at 0x[0-9a-f]+", "", found)


# recipe keys, and the class of nnU-Net that they equal
AUGMENTED: dict[str, tuple[tuple[str, ...], str]] = {
    "nnunet": ((), "nnUNetTrainer"),
    "no_mirroring": (("training.mirroring=false",), "nnUNetTrainerNoMirroring"),
    "only_mirror_01": (("training.mirror_axes=[0]",), "nnUNetTrainer_onlyMirror01"),
    "da5": (("training.augmentation=da5",), "nnUNetTrainerDA5"),
    "da5_ord0": (("training.augmentation=da5_ord0",), "nnUNetTrainerDA5ord0"),
    "da5_seg_ord0": (("training.augmentation=da5_seg_ord0",), "nnUNetTrainerDA5Segord0"),
    "da_seg_ord0": (("training.augmentation=da_seg_ord0",), "nnUNetTrainer_DASegOrd0"),
    "da_seg_ord0_no_mirroring": (
        ("training.augmentation=da_seg_ord0", "training.mirroring=false"),
        "nnUNetTrainer_DASegOrd0_NoMirroring",
    ),
    "only_mirror_01_da_seg_ord0": (
        ("training.augmentation=da_seg_ord0", "training.mirror_axes=[0]"),
        "nnUNetTrainer_onlyMirror01_DASegOrd0",
    ),
    "no_dummy_2d": (("training.augmentation=no_dummy_2d",), "nnUNetTrainer_noDummy2DDA"),
    "none": (("training.augmentation=none",), "nnUNetTrainerNoDA"),
}


@pytest.mark.parametrize("keys", AUGMENTED)
def test_augmentation_is_that_of_nnunets_own_class(
    keys: str, hippocampus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides, name = AUGMENTED[keys]
    ours = trainer_of(hippocampus, *TINY, *overrides, f"name=augmented_{keys}")
    theirs = stock_trainer("102", "2d", 0, name, "nnUNetPlans", device=CPU)
    theirs.enable_deep_supervision = False  # its targets are not compared here
    theirs.initialize()
    theirs.batch_size = ours.batch_size
    variant = recipe_trainer.AUGMENTATIONS[ours.recipe.training.augmentation]
    assert described(variant, ours, monkeypatch) == described(type(theirs), theirs, monkeypatch)
    assert ours.inference_allowed_mirroring_axes == theirs.inference_allowed_mirroring_axes
    monkeypatch.setattr(gaussian_blur.GaussianBlurTransform, "_benchmark_wrapper", lambda _, *args: blur(*args))
    for batch, expected in zip(batches_of(ours), batches_of(theirs), strict=True):
        assert torch.equal(batch["data"], expected["data"])
        assert torch.equal(batch["target"], expected["target"])


def batches_of(trainer: nnUNetTrainer) -> list[dict]:
    """Five batches of the training and two of the validation, from fixed seeds."""
    RandomStreams(3, CPU).start()
    train, val = trainer.get_dataloaders()
    return [next(train) for _ in range(5)] + [next(val) for _ in range(2)]


@pytest.mark.parametrize(
    ("keys", "stock"),
    [
        ((), "nnUNetTrainer"),
        (("training.probabilistic_oversampling=true",), "nnUNetTrainer_probabilisticOversampling"),
        (
            ("training.probabilistic_oversampling=true", "training.oversample_foreground_percent=0.33"),
            "nnUNetTrainer_probabilisticOversampling_033",
        ),
        (
            ("training.probabilistic_oversampling=true", "training.oversample_foreground_percent=0.1"),
            "nnUNetTrainer_probabilisticOversampling_010",
        ),
    ],
)
def test_oversampling_is_that_of_nnunets_own_class(keys: tuple[str, ...], stock: str, hippocampus: str) -> None:
    # the class counts with the batch size of its plans, 2d's own here
    ours = trainer_of(hippocampus, *(key for key in TINY if "batch_size" not in key), *keys)
    theirs = stock_trainer("102", "2d", 0, stock, "nnUNetPlans", device=CPU)
    assert ours.oversample_foreground_percent == theirs.oversample_foreground_percent
    assert ours.probabilistic_oversampling == theirs.probabilistic_oversampling
    train, _ = ours.get_dataloaders()
    loader = train.data_loader
    assert loader.oversample_foreground_percent == theirs.oversample_foreground_percent
    assert (loader.get_do_oversample == loader._probabilistic_oversampling) == theirs.probabilistic_oversampling


def test_without_mirroring_stock_prediction_does_not_mirror_either(hippocampus: str, tmp_path: Path) -> None:
    keys = ["training.mirroring=false", ONE_TILE, "training.num_epochs=1", "name=unmirrored"]
    fold = train(hippocampus, "segformer_default", *TINY, *keys, export_validation_probabilities=True)
    assert checkpoint_file.read(fold / "checkpoint_final.pth")["inference_allowed_mirroring_axes"] is None
    predict_here(fold, hippocampus, tmp_path)
    assert_same_predictions(fold / "validation", tmp_path, 1, ".nii.gz")


# --- ema ----------------------------------------------------------------------------------------------------------------

EMA = ("training.ema=0.6", "training.lr=1e-2", FULL, ONE_TILE)


class Recording:
    """Records the trained weights after each step, and while each epoch and the last validation predict."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.start: dict[str, Tensor] = {}
        self.steps: list[dict[str, Tensor]] = []
        self.validated: list[dict[str, Tensor]] = []
        self._around(patch, "train_step", self._before_and_after_step)
        self._around(patch, "validation_step", self._before_validation)

    def mean(self, start: dict[str, Tensor], steps: int, decay: float, already: int = 0) -> dict[str, Tensor]:
        """The running mean computed by hand from `start`, which already holds `already` updates."""
        mean = {name: value.clone() for name, value in start.items()}
        for n, values in enumerate(self.steps[:steps], start=already):
            share = 1 - min(decay, (1 + n) / (10 + n))
            for name, value in values.items():
                mean[name] = mean[name].lerp(value, share)
        return mean

    @staticmethod
    def _around(patch: pytest.MonkeyPatch, name: str, run: Callable[..., dict]) -> None:
        original = getattr(nnUNetTrainer_nnvit, name)
        patch.setattr(nnUNetTrainer_nnvit, name, lambda trainer, batch: run(trainer, lambda: original(trainer, batch)))

    def _before_and_after_step(self, trainer: nnUNetTrainer_nnvit, step: Callable[[], dict]) -> dict:
        if not self.steps:
            self.start = trained(trainer)
        else:
            assert_equal(trained(trainer), self.steps[-1])  # validation gave the network its own weights back
        output = step()
        self.steps.append(trained(trainer))
        return output

    def _before_validation(self, trainer: nnUNetTrainer_nnvit, step: Callable[[], dict]) -> dict:
        self.validated.append(trained(trainer))
        return step()


def trained(trainer: nnUNetTrainer_nnvit) -> dict[str, Tensor]:
    """A copy of the trainable parameters, and of the decode head's batch norm statistics."""
    state = trainer.bare_network.state_dict()
    names = {name for name, parameter in trainer.bare_network.named_parameters() if parameter.requires_grad}
    names |= {name for name in state if name.endswith(("running_mean", "running_var"))}
    return {name: state[name].clone() for name in names}


def assert_equal(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Asserts equality to the last bit, for each expected tensor."""
    assert expected
    for name, value in expected.items():
        assert torch.equal(got[name], value), name


def test_the_running_mean_is_validated_saved_and_predicted(
    hippocampus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Recording(monkeypatch)
    fold = train(hippocampus, "segformer_default", *TINY, *EMA, "name=ema", export_validation_probabilities=True)
    assert (len(seen.steps), len(seen.validated)) == (6, 2)
    assert any(name.startswith("backbone.") for name in seen.start)
    assert any(name.endswith("running_var") for name in seen.start)
    assert_equal(seen.validated[0], seen.mean(seen.start, 3, decay=0.6))
    assert_equal(seen.validated[1], seen.mean(seen.start, 6, decay=0.6))

    saved = checkpoint_file.read(fold / "checkpoint_final.pth")
    assert_equal(saved["network_weights"], seen.validated[1])
    assert_equal(saved["nnvit"]["trained"], seen.steps[-1])
    assert not torch.equal(saved["network_weights"]["head.classifier.weight"], seen.steps[-1]["head.classifier.weight"])

    predict_here(fold, hippocampus, tmp_path)
    assert_same_predictions(fold / "validation", tmp_path, 1, ".nii.gz")


def test_an_interrupted_training_takes_up_the_mean_and_the_weights(
    hippocampus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = (*TINY, *EMA, "training.num_epochs=3", "training.save_every=1", "name=ema_again")
    with monkeypatch.context() as patch:
        before = Recording(patch)
        patch.setattr(WeightAverage, "update", dying_after(4))
        with pytest.raises(KeyboardInterrupt):
            train(hippocampus, "segformer_default", *keys)
    latest = checkpoint_file.read(fold_of(hippocampus, TRAINER, "nnUNetPlans_ema_again") / "checkpoint_latest.pth")
    held = {name: latest["network_weights"][name] for name in before.start}
    assert_equal(held, before.mean(before.start, 3, decay=0.6))
    assert_equal(latest["nnvit"]["trained"], before.steps[2])

    after = Recording(monkeypatch)
    fold = train(hippocampus, "segformer_default", *keys, continue_training=True)
    assert_equal(after.start, before.steps[2])
    final = checkpoint_file.read(fold / "checkpoint_final.pth")
    assert len(after.steps) == 6
    assert_equal(final["network_weights"], after.mean(held, 6, decay=0.6, already=3))


def dying_after(updates: int) -> Callable[[WeightAverage], None]:
    """An update that is interrupted once, after the given number of updates."""
    original, count = WeightAverage.update, iter(range(updates))

    def update(self: WeightAverage) -> None:
        if next(count, None) is None:
            raise KeyboardInterrupt
        original(self)

    return update


# --- the backbone -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["vit", "eva", "mit"])
def test_grad_checkpointing_changes_no_loss(size: str, hippocampus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Holds with the adapters' dropout too: the second forward pass of a block draws the same numbers as the first."""
    keys = [*TINY, f"model.backbone_size={size}"]
    if size == "mit":
        keys = [*SHORT, "model.backbone_size=mit", "model.neck=same_scale", "lora.target_modules=[q_proj,v_proj]"]
    keys += ["lora.enabled=true", "lora.lora_dropout=0.3", "training.seed=7", "model.decoder_hidden_size=16"]
    losses = [
        losses_of(
            hippocampus, monkeypatch, *keys, f"training.grad_checkpointing={on}", f"name=checkpointing_{size}_{on}"
        )
        for on in ("false", "true")
    ]
    assert len(losses[0]) == 6
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


def losses_of(dataset: str, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> list[float]:
    """Returns the loss of each training step."""
    trainer, losses = trainer_of(dataset, *overrides), []
    step = type(trainer).train_step

    def recording(self: nnUNetTrainer_nnvit, batch: dict) -> dict:
        output = step(self, batch)
        losses.append(float(output["loss"]))
        return output

    with monkeypatch.context() as patch:
        patch.setattr(type(trainer), "train_step", recording)
        trainer.run_training()
    return losses


def test_drop_path_acts_while_training_and_never_in_prediction(hippocampus: str, tmp_path: Path) -> None:
    keys = [*TINY, FULL, ONE_TILE, "training.drop_path=0.5", "name=drop_path"]
    trainer = trainer_of(hippocampus, *keys)
    network, image = trainer.network.train(), torch.rand(2, 1, 64, 48)
    rates = [getattr(module, "drop_prob", None) for module in network.backbone.modules()]
    assert max(rate for rate in rates if rate) == 0.5
    torch.manual_seed(0)
    assert not torch.equal(
        network.backbone(image.expand(-1, 3, -1, -1))[-1], network.backbone(image.expand(-1, 3, -1, -1))[-1]
    )
    network.eval()
    assert torch.equal(network(image), network(image))

    fold = train(hippocampus, "segformer_default", *keys, export_validation_probabilities=True)
    predict_here(fold, hippocampus, tmp_path)
    assert_same_predictions(fold / "validation", tmp_path, 1, ".nii.gz")


# --- what is refused before anything is written -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["training.drop_path=0.1"], r"training.drop_path=0.1 .* tuning 'frozen' it does nothing"),
        (["training.drop_path=0.1", "lora.enabled=true"], r"training.drop_path=0.1 .* tuning 'lora' it does nothing"),
        (["training.grad_checkpointing=true"], r"training.grad_checkpointing=true .* a frozen one keeps none"),
        (["training.augmentation=DA5"], r"training.augmentation='DA5' is not known; use one of nnunet, da5, "),
        (["training.mirror_axes=[0]", "training.mirroring=false"], r"mirror_axes=\[0\] needs training.mirroring=true"),
        (
            ["training.oversample_foreground_percent=33"],
            r"oversample_foreground_percent=33.0 must be a share from 0 to 1",
        ),
        (["training.loss=native"], r"training.loss=native: head 'segformer' has no loss of its own"),
    ],
)
def test_keys_that_would_do_nothing_are_refused(overrides: list[str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        loading.load_recipe(["segformer_default"], [*TINY, *overrides])


def test_a_heads_own_loss_and_deep_supervision_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match=r"training.loss=native supervises every layer by itself"):
        loading.load_recipe(["m2f_native"], ["training.deep_supervision=true"])


@pytest.mark.parametrize("recipe", ["m2f_native", "eomt_dinov3"])
def test_a_heads_own_loss_refuses_an_ignore_label_when_it_is_planned(recipe: str, ignoring: str) -> None:
    own_loss = ["training.loss=native", "model.backbone=tiny", "model.backbone_size=vit", "name=own_loss"]
    with pytest.raises(ConfigError, match=r"training.loss=native .*ignore label 3; set training.loss=nnunet"):
        plans_file.plan(ignoring, "2d", loading.load_recipe([recipe], own_loss))
    folder = fold_of(ignoring, TRAINER, "nnUNetPlans_own_loss")
    assert not folder.exists()
