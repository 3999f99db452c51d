"""Every model of the original fork: a real nnU-Net run, then stock prediction, which gives the validation's masks."""

import json
from pathlib import Path

import pytest
import torch

from nnvit.errors import ConfigError
from nnvit.nnunet import checkpoint_file
from nnvit.nnunet.plan import plans_file
from nnvit.nnunet.train import run_training, trainer_names
from nnvit.recipe import loading

from .conftest import (
    ONE_PROCESS,
    ONE_TILE,
    SHORT,
    TINY,
    assert_same_predictions,
    fold_of,
    masks,
    predict,
    predict_here,
    train,
)

CPU = torch.device("cpu")
WIDTH = "model.decoder_hidden_size=16"
PYRAMID = "model.neck_args.out_channels=16"
QUERIES = (
    "model.decoder_hidden_size=32",
    "model.num_queries=8",
    "model.encoder_layers=1",
    "model.decoder_layers=3",
    "model.encoder_feedforward_dim=32",
    "model.feedforward_dim=32",
    "model.num_attention_heads=2",
    PYRAMID,
)
EOMT = ("model.num_queries=8", "model.num_blocks=2")

# the trainer, the recipe, the patch (on the backbone's grid or not), and the keys that make it small
MODELS: dict[str, tuple[str, str, int, tuple[str, ...]]] = {
    "vit": ("nnUNetTrainer_vit", "vit_default", 140, ("model.decoder_channels=16", "model.stem_channels=4")),
    "segformer": ("nnUNetTrainer_segformer", "segformer_default", 150, (WIDTH, PYRAMID)),
    "m2f": ("nnUNetTrainerNoDeepSupervision_m2f", "m2f_default", 144, QUERIES),
    "m2f with its own loss": ("nnUNetTrainer_m2f", "m2f_native", 135, QUERIES),
    "mit and segformer": ("nnUNetTrainer_nnvit", "mit_b0_segformer", 128, ("model.backbone_size=mit", WIDTH)),
    "eomt": ("nnUNetTrainer_nnvit", "eomt_dinov3", 130, EOMT),
    "eomt with its own loss": ("nnUNetTrainer_nnvit", "eomt_dinov3", 144, (*EOMT, "training.loss=native")),
}


@pytest.mark.parametrize("model", MODELS)
def test_photographs_train_and_stock_predict_gives_the_validations_masks(
    model: str, crops: str, tmp_path: Path
) -> None:
    trainer, recipe, patch, small = MODELS[model]
    overrides = [*SHORT, *small, f"training.patch_size=[{patch},{patch}]", f"name={model.replace(' ', '_')}"]
    fold = train(crops, recipe, *overrides, trainer=trainer, export_validation_probabilities=True)
    run = json.loads((fold / "nnvit_run.json").read_text())
    assert run["DONE"] is True
    assert run["parameters"]["trainable"] > 0
    predict(fold, crops, tmp_path, *ONE_PROCESS)
    assert_same_predictions(fold / "validation", tmp_path, 1, ".png")


@pytest.mark.parametrize("head", ["segformer", "mask2former with its own loss"])
def test_overlapping_regions_train_and_predict(head: str, regions: str, tmp_path: Path) -> None:
    recipe, keys = ("segformer_default", TINY) if head == "segformer" else ("m2f_native", [*SHORT, *QUERIES])
    fold = train(regions, recipe, *keys, ONE_TILE, f"name=regions_{recipe}", export_validation_probabilities=True)
    plans = json.loads((fold.parent / "plans.json").read_text())
    assert plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["regions"] is True
    classifier = checkpoint_file.read(fold / "checkpoint_final.pth")["network_weights"]["head.classifier.bias"]
    assert len(classifier) == {"segformer": 2}.get(head, 3)  # one per region; the set loss adds "no object"
    predict(fold, regions, tmp_path, *ONE_PROCESS)
    assert_same_predictions(fold / "validation", tmp_path, 1, ".nii.gz")


def test_an_ignore_label_is_neither_learned_nor_predicted(ignoring: str, tmp_path: Path) -> None:
    fold = train(ignoring, "segformer_default", *TINY, ONE_TILE, "name=ignoring", export_validation_probabilities=True)
    saved = checkpoint_file.read(fold / "checkpoint_final.pth")
    assert len(saved["network_weights"]["head.classifier.bias"]) == 3
    assert all(torch.tensor(saved["logging"][key]).isfinite().all() for key in ("train_losses", "val_losses"))
    predict(fold, ignoring, tmp_path, *ONE_PROCESS)
    assert_same_predictions(fold / "validation", tmp_path, 1, ".nii.gz")
    (mask,) = masks(tmp_path, ".nii.gz").values()
    assert mask.max() <= 2


@pytest.mark.parametrize("head", ["segformer", "mask2former"])
def test_deep_supervision_trains_auxiliary_outputs_and_predicts_without_them(
    head: str, hippocampus: str, tmp_path: Path
) -> None:
    recipe, keys = ("segformer_default", TINY) if head == "segformer" else ("m2f_default", [*SHORT, *QUERIES])
    keys = [*keys, ONE_TILE, "training.deep_supervision=true", f"name=supervised_{head}"]
    fold = train(hippocampus, recipe, *keys, export_validation_probabilities=True)
    configuration = json.loads((fold.parent / "plans.json").read_text())["configurations"]["2d"]
    scales = configuration["nnvit"]["deep_supervision_scales"]
    assert scales[0] == [1, 1]
    assert configuration["architecture"]["arch_kwargs"]["aux"] == scales[1:-1] != []
    predict_here(fold, hippocampus, tmp_path)
    assert_same_predictions(fold / "validation", tmp_path, 1, ".nii.gz")


def test_auxiliary_outputs_enter_the_loss(hippocampus: str) -> None:
    """nnU-Net's weights 1, 1/2, 1/4, …, 0, normalised, of its loss on each scale; every classifier learns from them."""
    recipe = loading.load_recipe(["segformer_default"], [*TINY, "training.deep_supervision=true", "name=weighted"])
    identifier = plans_file.plan(hippocampus, "2d", recipe).identifier
    trainer = run_training.get_trainer_from_args(hippocampus, "2d", 0, "nnUNetTrainer_nnvit", identifier, device=CPU)
    trainer.initialize()
    trainer.set_deep_supervision_enabled(True)
    trainer.dataloader_train, trainer.dataloader_val = trainer.get_dataloaders()
    batch = next(trainer.dataloader_train)
    outputs = trainer.network(batch["data"])
    shapes = [tuple(output.shape[2:]) for output in outputs]
    assert shapes == [tuple(target.shape[2:]) for target in batch["target"]][: len(shapes)]
    assert len(batch["target"]) == len(shapes) + 1  # the last of nnU-Net's scales has weight 0
    weights = torch.tensor([1 / 2**i for i in range(len(shapes))])
    parts = [trainer.loss.loss(output, target) for output, target in zip(outputs, batch["target"], strict=False)]
    expected = sum(weight * part for weight, part in zip(weights / weights.sum(), parts, strict=True))
    loss = trainer.loss(outputs, batch["target"])
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    loss.backward()
    classifiers = trainer.bare_network.auxiliary.classifiers  # type: ignore[union-attr]
    assert len(classifiers) == len(shapes) - 1
    assert all(layer.weight.grad.abs().sum() > 0 for layer in classifiers)


@pytest.mark.parametrize("model", ["segformer", "vit", "m2f"])
def test_names_without_deep_supervision_refuse_a_recipe_that_asks_for_it(model: str, hippocampus: str) -> None:
    name = f"nnUNetTrainerNoDeepSupervision_{model}"
    recipe = loading.load_recipe(["segformer_default"], [*TINY, "training.deep_supervision=true", "name=refused"])
    identifier = plans_file.plan(hippocampus, "2d", recipe).identifier
    with pytest.raises(
        ConfigError, match=rf"-tr {name} trains without deep supervision.*take -tr nnUNetTrainer_{model}, or"
    ):
        run_training.get_trainer_from_args(hippocampus, "2d", 0, name, identifier, device=CPU)
    assert not fold_of(hippocampus, name, identifier).exists()


@pytest.mark.parametrize("supervised", [True, False])
def test_the_trainers_name_decides_on_plain_plans(
    supervised: bool, hippocampus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same default recipe, with and without auxiliary outputs; a tiny one in the place of ViT-L's."""
    recipe = tmp_path / "tiny.yaml"
    lines = ["name: tiny", "model: {backbone: tiny, backbone_size: vit, weights: random, decoder_hidden_size: 16}"]
    recipe.write_text(
        "\n".join([*lines, "training: {deep_supervision: true, num_epochs: 1, num_iterations_per_epoch: 2}"])
    )
    monkeypatch.setattr(trainer_names.nnUNetTrainer_segformer, "default_recipe", str(recipe))
    name = "nnUNetTrainer_segformer" if supervised else "nnUNetTrainerNoDeepSupervision_segformer"
    trainer = run_training.get_trainer_from_args(hippocampus, "2d", 0, name, "nnUNetPlans", device=CPU)
    trainer.num_val_iterations_per_epoch = 1
    trainer.run_training()
    weights = checkpoint_file.read(fold_of(hippocampus, name, "nnUNetPlans") / "checkpoint_final.pth")[
        "network_weights"
    ]
    assert any(key.startswith("auxiliary.") for key in weights) is supervised
