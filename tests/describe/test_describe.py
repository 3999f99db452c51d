"""`nnvit list` and `nnvit show`, and the text in the shipped recipes."""

import json
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from nnvit import describe, estimate, registry
from nnvit.describe.components import _header
from nnvit.errors import ConfigError
from nnvit.model.precision import Precision
from nnvit.recipe import loading
from nnvit.recipe.schema import ModelConfig
from tests.compare import planted

RECIPES = Path(str(files("nnvit.recipe") / "shipped"))
WITH_NETWORK = [name for name in loading.SHIPPED if isinstance(loading.load_recipe([name]).model, ModelConfig)]
TINY = ["model.backbone=tiny", "model.backbone_size=vit", "model.decoder_hidden_size=16"]


@pytest.mark.parametrize("kind", ["backbone", "head", "neck"])
def test_every_component_is_listed_with_what_it_is(kind: str) -> None:
    lines = describe.listing(f"{kind}s")
    for name in registry.names(kind):
        (line,) = [line for line in lines if line.startswith(f"  {name}: ")]
        assert len(line) > len(f"  {name}: ") + 20


def test_own_keys_are_listed_as_a_recipe_takes_them() -> None:
    lines = [line.strip() for line in describe.listing("heads")]
    assert "model.decoder_hidden_size=256" in lines
    assert "model.pool_scales=[1, 2, 3, 6]" in lines
    assert "model.use_batch_norm=false" in lines
    loading.load_recipe([], ["model.head=upernet", "model.pool_scales=[1, 2, 3, 6]"])
    assert "model.neck_args.out_channels=[96, 192, 384, 768]" in [line.strip() for line in describe.listing("necks")]


def test_every_size_is_listed_with_its_parameters_strides_taps_licence_and_file() -> None:
    rows = {tuple(line.split()[:2]): line.split() for line in describe.listing("sizes")[2:]}
    known = {(name, size) for name in registry.names("backbone") for size in registry.family(name).SIZES}
    assert rows.keys() == known
    # weights.md counts these in the packaged file
    assert rows["dinov2", "small"][2:] == ["22,056,192", "14", "2,5,8,11", "apache-2.0", "dinov2_vits14_pretrain.pth"]
    assert rows["dinov3", "7b"][2] == "6,716,030,976"
    assert rows["mit", "b0"][3:5] == ["4,8,16,32", "0,1,2,3"]


def test_every_recipe_is_listed_with_its_first_words() -> None:
    lines = describe.listing("recipes")[1:]
    assert [line.split()[0] for line in lines] == [*loading.SHIPPED]
    assert all(_header(name)[0] in line for name, line in zip(loading.SHIPPED, lines, strict=True))


@pytest.mark.parametrize("name", loading.SHIPPED)
def test_a_recipe_says_where_it_comes_from_what_it_is_for_and_what_it_costs(name: str) -> None:
    assert list(_header(name)[1]) == ["Source", "Use", "Cost"]
    assert _header(name)[0].endswith(".")


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_NETWORK)
def test_the_cost_in_a_recipes_header_is_what_show_counts(name: str) -> None:
    assert f"cost of a patch: {_header(name)[1]['Cost']}" in [f"{line}." for line in describe.show(name)]


def test_the_page_of_recipes_is_made_from_their_headers() -> None:
    page = (RECIPES / "README.md").read_text(encoding="utf-8")
    assert page == "\n".join(describe.listing("recipes_page")) + "\n", (
        "run: nnvit list recipes --markdown > src/nnvit/recipe/shipped/README.md"
    )
    for name in loading.SHIPPED:
        assert f"## `{name}`" in page


def test_show_prints_a_recipe_that_loads_again() -> None:
    lines = describe.show("segformer_default", [*TINY, "lora.r=3"], patch=(32, 48), batch=1)
    written = "\n".join(lines[: lines.index("")])
    recipe = loading.load_recipe(["segformer_default"], [*TINY, "lora.r=3"])
    assert loading.from_dict(OmegaConf.to_container(OmegaConf.create(written))) == recipe  # type: ignore[arg-type]
    assert lines[0] == f"# {recipe.name} ({recipe.hash[:8]}), tuning lora"


def test_show_describes_the_network_for_the_data_set_at_hand() -> None:
    lines = describe.show("segformer_default", TINY, channels=5, classes=4, patch=(50, 64), batch=3)
    text = "\n".join(lines)
    assert "network: 5 channels, 4 classes, patch 50 x 64, batch 3" in text
    (head,) = [line.split() for line in lines if line.startswith("head ")]
    assert head[-1] == "3x4x16x16"
    (mix,) = [line.split() for line in lines if "input.mix.weight" in line]
    assert mix[1:] == ["1", "tensor", "15"]
    (memory,) = [line for line in lines if line.startswith("memory of a training step on 3 patches")]
    parts = [float(line.split()[-2]) for line in lines[lines.index(memory) + 1 :] if line.endswith(" GiB")]
    assert float(memory.split()[-2]) == pytest.approx(sum(parts), abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_show_and_estimate_say_the_same_memory(precision: str) -> None:
    """A frozen ViT-B, whose weights need half the memory in 16 bits."""
    keys = [
        "model.backbone=dinov3",
        "model.backbone_size=base",
        "lora.enabled=false",
        f"training.precision={precision}",
    ]
    recipe = loading.load_recipe(["segformer_default"], keys)
    job = estimate.Job.of(recipe, channels=3, classes=2, patch=(256, 256), batch=2)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}[precision]
    said = [line.split() for line in describe.show("segformer_default", keys, patch=(256, 256))]
    there = [line.split() for line in describe.needs(job, Precision(dtype=dtype, reason=""), [], torch.device("cpu"))]
    parts = [
        words
        for words in there
        if words[-1:] == ["GiB"] and words[0] in ("parameters", "states", "gradients", "activations,")
    ]
    assert len(parts) == 4
    assert all(words in said for words in parts)


def test_show_says_that_the_plans_network_needs_a_data_set() -> None:
    lines = describe.show("unet")
    assert "  head: plans" in lines
    assert "nnvit plan DATASET CONFIGURATION --recipe unet" in lines[-1]


def test_show_refuses_parts_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"model\.num_encoder_blocks=4"):
        describe.show("segformer_default", [*TINY, "model.num_encoder_blocks=3"])


def fold(folder: Path, **changes: object) -> Path:
    """A fold of 0.1.0, which split an iteration in two."""
    run = planted.manifest("0", ["a"], planted.recipe(), "ab" * 32) | changes
    (folder / "fold_0").mkdir(parents=True)
    (folder / "fold_0" / "nnvit_run.json").write_text(json.dumps({key: v for key, v in run.items() if v is not None}))
    return folder / "fold_0"


def test_show_reads_the_account_of_an_older_version(tmp_path: Path) -> None:
    lines = describe.account(fold(tmp_path / "model", seconds_per_iteration={"data_wait": 0.1, "step": 0.9}))
    (iteration,) = [line for line in lines if line.startswith("an iteration")]
    assert iteration.endswith(
        "1.000 s = 0.100 waiting for data + 0.900 forward, backward and step (medians of the last epoch)"
    )
    (ended,) = [line for line in lines if line.startswith("ended")]
    assert ended.endswith(
        "finished at 2026-03-01T10:00:00+00:00, begun at 2026-03-01T09:00:00+00:00; checkpoint_final.pth is validated"
    )


def test_show_says_how_far_a_training_is_that_runs_or_was_killed(tmp_path: Path) -> None:
    model = tmp_path / "model"
    fold(
        model,
        exit="running",
        end=None,
        validation=None,
        seconds_per_iteration=None,
        peak_memory_bytes=None,
        epochs_done=1,
    )
    text = "\n".join(describe.account(model))
    assert "running since 2026-03-01T09:00:00+00:00\n" in text
    assert "1 of 3" in text
    assert text.count("not recorded") == 2


def test_show_refuses_a_folder_without_a_complete_record(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no nnvit_run.json"):
        describe.account(tmp_path)
    with pytest.raises(
        ConfigError, match=r"nnvit_run.json is not a complete record of a training \(KeyError: 'device'\)"
    ):
        describe.account(fold(tmp_path / "a", device=None))
    (fold(tmp_path / "b") / "nnvit_run.json").write_text("{")
    with pytest.raises(ConfigError, match=r"not a complete record"):
        describe.account(tmp_path / "b")
