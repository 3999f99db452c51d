import json
from dataclasses import asdict
from pathlib import Path

import pytest

from nnvit.errors import ConfigError
from nnvit.recipe import loading
from nnvit.recipe.schema import PlansModelConfig

FORK_YAML = """
model:
  backbone: dinov3
  backbone_size: base
  decoder_hidden_size: 128
  num_encoder_blocks: 4
lora:
  enabled: true
  r: 4
  lora_alpha: 8
  target_modules: [qkv]
"""


@pytest.mark.parametrize("name", loading.SHIPPED)
def test_every_shipped_recipe_loads_and_survives_json(name: str) -> None:
    recipe = loading.load_recipe([name])
    assert loading.from_dict(json.loads(json.dumps(asdict(recipe)))) == recipe


def test_the_default_recipe_is_what_the_defaults_say() -> None:
    assert loading.load_recipe(["segformer_default"]) == loading.load_recipe()
    assert loading.load_recipe().name == "segformer_dinov3_large_lora"


def test_a_yaml_of_the_original_forks_keys_is_valid_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "fork.yaml"
    path.write_text(FORK_YAML)
    recipe = loading.load_recipe([path])
    assert (recipe.model.backbone_size, recipe.model.decoder_hidden_size, recipe.lora.r) == ("base", 128, 4)
    assert recipe.tuning == "lora"
    assert recipe.model.feature_layers == [2, 5, 8, 11]


def test_later_sources_and_overrides_win(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("training: {lr: 1.0e-3, num_epochs: 5}")
    recipe = loading.load_recipe(["unet", path], ["training.num_epochs=7"])
    assert isinstance(recipe.model, PlansModelConfig)
    assert (recipe.training.lr, recipe.training.num_epochs, recipe.training.momentum) == (1e-3, 7, 0.99)


@pytest.mark.parametrize(
    ("sources", "overrides", "name"),
    [
        ([], [], "segformer_dinov3_large_lora"),
        ([], ["lora.enabled=false"], "segformer_dinov3_large_frozen"),
        ([], ["lora.enabled=false", "model.freeze_backbone=false"], "segformer_dinov3_large_full"),
        ([], ["model.backbone=dinov2", "model.backbone_size=small"], "segformer_dinov2_small_lora"),
        (
            [],
            ["model.backbone=timm", "model.backbone_size=vit_tiny_patch16_224"],
            "segformer_timm_vit_tiny_patch16_224_lora",
        ),
        ([], ["training.seed=3"], "segformer_dinov3_large_lora_s3"),
        (["unet"], [], "unet"),
        (["unet"], ["training.seed=0"], "unet_s0"),
        (["segformer_packaged"], ["name=mine", "lora.enabled=true"], "mine"),
        (["segformer_packaged"], ["name=mine", "training.seed=1"], "mine_s1"),
    ],
)
def test_names(sources: list[str], overrides: list[str], name: str) -> None:
    assert loading.load_recipe(sources, overrides).name == name


def test_what_is_written_on_top_of_a_name_is_told_apart_from_it(tmp_path: Path) -> None:
    mine, named = tmp_path / "mine.yaml", tmp_path / "named.yaml"
    mine.write_text("training: {lr: 1.0e-3}")
    named.write_text("name: fast\ntraining: {lr: 1.0e-3}")
    by_file, by_key = loading.load_recipe(["unet", mine]), loading.load_recipe(["unet"], ["training.lr=1e-3"])
    assert by_file.name == by_key.name
    assert by_file.name.startswith("unet_h")
    assert loading.load_recipe(["unet", named]).name == "fast"
    assert loading.load_recipe(["unet", named], ["training.lr=2e-3"]).name.startswith("fast_h")
    assert loading.load_recipe([], ["training.lr=1e-3", "name=auto"]).name.startswith("segformer_dinov3_large_lora_h")
    assert loading.load_recipe(["unet"], ["name=2024"]).name == "2024"


def test_overrides_never_share_a_name() -> None:
    names = {loading.load_recipe(["unet"], [f"training.num_epochs={n}"]).name for n in (10, 20, 1000)}
    assert len(names) == 3
    assert "unet" in names  # 1000 is the recipe's own value
    assert all("__" not in name for name in names)


def test_the_hash_leaves_out_name_and_seed() -> None:
    plain = loading.load_recipe().hash
    assert loading.load_recipe([], ["name=x", "training.seed=5"]).hash == plain
    assert loading.load_recipe([], ["lora.r=9"]).hash != plain


def test_hashes_stay_what_they_were() -> None:
    """If the hash changes, users' plans no longer match; change it only with SCHEMA."""
    hashes = {name: loading.load_recipe([name]).hash[:12] for name in loading.SHIPPED}
    assert hashes == {
        "dinov2_dpt": "e6cc4abeb7a0",
        "dinov2_linear": "0d64a49544f5",
        "dinov2_upernet": "27791f8e3016",
        "eomt_dinov3": "720b1b8e700b",
        "linear_probe": "c27aa7892403",
        "m2f_default": "5be6cb830bab",
        "m2f_native": "553460383b23",
        "mit_b0_segformer": "9a14ee815feb",
        "mit_b2_segformer": "f1ad3fc11c36",
        "retfound_segformer": "b73e690e22f3",
        "segformer_default": "39ee51910e54",
        "segformer_detail": "81ab812d1a8f",
        "segformer_fork": "9b74602007d2",
        "segformer_packaged": "5f97e8755592",
        "unet": "acd70518f7fc",
        "visionfm_segformer": "5c857b9673aa",
        "vit_default": "aa39b245a600",
    }


def test_a_key_at_its_default_leaves_the_hash_alone() -> None:
    """A key that a later release adds then keeps old plans, folders and checkpoints valid."""
    recipe = loading.load_recipe()
    with_defaults = loading.load_recipe([], ["training.save_every=50", "model.neck_args.out_channels=256"])
    assert with_defaults.hash == recipe.hash
    assert loading.load_recipe(["unet"]).hash != loading.load_recipe([], ["lora.enabled=false"]).hash


def test_a_key_that_an_older_block_lacks_takes_its_default() -> None:
    block = asdict(loading.load_recipe())
    del block["training"]["save_every"]
    assert loading.from_dict(block) == loading.load_recipe()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["modl.head=linear"], ["'modl'", "Did you mean 'model'?"]),
        (["model.decoder_hiden_size=3"], ["'model.decoder_hiden_size'", "Did you mean 'decoder_hidden_size'?"]),
        (["model.head=segfomer"], ["use one of", "Did you mean 'segformer'?"]),
        (["model.backbone=dinov4"], ["is not a backbone", "Did you mean 'dinov3'?"]),
        (["model.backbone_size=lage"], ["is not a size of dinov3", "Did you mean 'large'?"]),
        (["model.neck=simple"], ["is not a neck", "simple_pyramid"]),
        (["model.neck_args.width=3"], ["'model.neck_args.width'", "out_channels"]),
        (["model.backbone_args.registers=true"], ["model.backbone_args.registers", "qkv_bias"]),
        (["training.lr=fast"], ["training.lr", "fast"]),
        (["training.lr=-1"], ["training.lr", "at least 0"]),
        (["training.lr=inf"], ["training.lr", "number"]),
        (["training.grad_clip=0"], ["training.grad_clip", "above 0"]),
        (["training.layer_decay=2"], ["training.layer_decay", "at most 1"]),
        (["training.momentum=3"], ["training.momentum", "less than 1"]),
        (["lora.target_modules=[]"], ["adapts nothing"]),
        (["lora.lora_dropout=7"], ["lora.lora_dropout", "less than 1"]),
        (["model.decoder_hidden_size=0"], ["model.decoder_hidden_size", "at least 1"]),
        (["training.precision=half"], ["training.precision='half'", "bf16"]),
        (["training.patch_size=[0,3]"], ["training.patch_size", "positive"]),
        (["model.feature_layers=[3,40]"], ["blocks from 0 to 23"]),
        (["model.feature_layers=[5,3]"], ["ascending"]),
        (["model.freeze_backbone=false"], ["model.freeze_backbone=true", "lora.enabled=false"]),
        (["training.loss=native"], ["'segformer' has no loss of its own", "nnunet"]),
        (["training.loss=dice"], ["training.loss='dice'", "native"]),
        (["training.drop_path=0.1"], ["trained in full", "lora.enabled=false"]),
        (["training.grad_checkpointing=true", "lora.enabled=false"], ["gradients flow through"]),
        (["training.ema=1"], ["training.ema", "less than 1"]),
        (["model.neck=detail", "model.neck_args.stem_stride=4"], ["stem_stride=4 must be 1 or 2"]),
        (["name=a__b"], ["double"]),
        (["lora.r"], ["key=value"]),
        (["lora=3"], ["section"]),
        (["model.backbone=timm", "model.backbone_size=resnet50"], ["not a plain vision transformer"]),
        (["model.backbone=timm", "model.backbone_size=vit_base_patch16_24"], ["not a timm model", "Did you mean"]),
    ],
)
def test_what_does_not_fit_is_refused_with_the_way_out(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        loading.load_recipe(["segformer_default"], overrides)
    for word in words:
        assert word in str(error.value)


def test_a_head_is_chosen_without_knowing_the_others_keys() -> None:
    assert loading.load_recipe([], ["model.head=linear"]).name == "linear_dinov3_large_lora"
    assert loading.load_recipe([], ["model.head=plans", "lora.enabled=false"]).name == "plans"


def test_the_plans_network_takes_no_backbone_keys() -> None:
    with pytest.raises(ConfigError, match="base plans' own network"):
        loading.load_recipe(["unet"], ["model.backbone=dinov2"])
    with pytest.raises(ConfigError, match=r"lora\.enabled=false"):
        loading.load_recipe(["unet"], ["lora.enabled=true"])


def test_a_recipe_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'segformer_default'"):
        loading.load_recipe(["segformer_defaults"])


@pytest.mark.parametrize("text", ["- a\n- b", "a: [1", "model: 3"])
def test_a_broken_yaml_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        loading.load_recipe([path])
