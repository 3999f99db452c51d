"""What every backbone, neck and head must do, run over the registry; nothing here knows a component's name."""

import copy
import inspect
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnvit import registry
from nnvit.model import Segmenter
from nnvit.schema import ModelConfig
from nnvit.types import Backbone, Head, Neck

TINY = {"name": "tiny", "size": "vit", "taps": [0, 1, 2, 3], "args": {}}
CLASSES, CHANNELS = 3, 2
PAIRS = [(neck, head) for neck in registry.names("neck") for head in registry.names("head")]


def head_keys(name: str) -> dict[str, Any]:
    """A head's own keys at their defaults, as the plans carry them."""
    config = registry.module("head", name).Config
    common = {field.name for field in fields(ModelConfig)}
    return {"name": name} | {f.name: getattr(config(), f.name) for f in fields(config) if f.name not in common}


def segmenter(neck: str = "same_scale", head: str = "linear", tuning: str = "full", size: str = "vit") -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(
        CHANNELS,
        CLASSES,
        arch_version=1,
        backbone=TINY | {"size": size},
        neck={"name": neck, "args": {}},
        head=head_keys(head),
        tuning=tuning,
        lora={"r": 2, "lora_alpha": 4, "lora_dropout": 0.0, "target_modules": ["qkv"]},
        deep_supervision=True,
    )


def image(height: int = 48, width: int = 64) -> Tensor:
    return torch.randn(2, CHANNELS, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("neck", "head"), PAIRS)
class TestEveryNetwork:
    @pytest.mark.parametrize("size", [(32, 32), (48, 64), (50, 61), (17, 90)])
    def test_logits_have_the_images_size_whatever_it_is(self, neck: str, head: str, size: tuple[int, int]) -> None:
        logits = segmenter(neck, head)(image(*size))
        assert logits.shape == (2, CLASSES, *size)
        assert logits.dtype == torch.float32
        assert logits.isfinite().all()

    def test_every_parameter_learns(self, neck: str, head: str) -> None:
        network = segmenter(neck, head)
        network(image()).square().mean().backward()
        assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []

    def test_what_is_frozen_does_not_move(self, neck: str, head: str) -> None:
        network = segmenter(neck, head, "frozen")
        before = copy.deepcopy(network.state_dict())
        network.train()
        optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=0.1)
        network(image()).square().mean().backward()
        optimizer.step()
        moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
        assert moved
        assert not {name for name in moved if name.startswith("backbone.")}

    def test_the_state_dict_rebuilds_the_network(self, neck: str, head: str) -> None:
        network, twin = segmenter(neck, head).eval(), segmenter(neck, head)
        for parameter in twin.parameters():
            nn.init.zeros_(parameter)
        twin.load_state_dict(network.state_dict(), strict=True)
        assert torch.equal(twin.eval()(image()), network(image()))

    def test_eval_is_deterministic_and_independent_of_the_batch(self, neck: str, head: str) -> None:
        network = segmenter(neck, head).eval()
        both = network(image())
        assert torch.equal(both, network(image()))
        torch.testing.assert_close(network(image()[:1]), both[:1], rtol=1e-4, atol=1e-5)

    def test_it_exports(self, neck: str, head: str) -> None:
        network = segmenter(neck, head).eval()
        exported = torch.export.export(network, (image(),))
        torch.testing.assert_close(exported.module()(image()), network(image()), rtol=1e-4, atol=1e-5)

    def test_the_last_layer_is_named_classifier(self, neck: str, head: str) -> None:
        network = segmenter(neck, head)
        assert network.get_parameter("head.classifier.weight").shape[0] == CLASSES


@pytest.mark.parametrize("kind", ["head", "neck"])
def test_own_keys_have_defaults_so_that_older_plans_build(kind: str) -> None:
    for name in registry.names(kind):
        module = registry.module(kind, name)
        if kind == "neck":
            assert module.Args()
            continue
        keywords = [p for p in inspect.signature(module.Head).parameters.values() if p.kind is p.KEYWORD_ONLY]
        assert {p.name: p.default for p in keywords} == {k: v for k, v in head_keys(name).items() if k != "name"}


def backbone_sizes(name: str) -> list[str]:
    module = registry.module("backbone", name)
    return list(
        getattr(module, "SIZES", ["vit_tiny_patch16_224", "eva02_tiny_patch14_224", "vit_small_patch16_dinov3_qkvb"])
    )


@pytest.mark.parametrize(("name", "size"), [(n, s) for n in registry.names("backbone") for s in backbone_sizes(n)])
def test_every_backbone_says_what_it_gives_and_adapters_find_their_layers(name: str, size: str) -> None:
    module = registry.module("backbone", name)
    taps = module.resolve_taps(size, None)
    with torch.device("meta"):  # without memory: ViT-7B fits
        backbone = module.build(size, taps, module.Args())
    assert isinstance(backbone, Backbone)
    assert len(backbone.channels) == len(backbone.strides) == len(taps)
    assert set(backbone.channels) == {backbone.get_parameter("model.patch_embed.proj.weight").shape[0]}
    assert set(backbone.strides) == {backbone.get_parameter("model.patch_embed.proj.weight").shape[-1]}
    assert max(taps) < backbone.num_layers
    depths = {backbone.layer_of(parameter) for parameter, _ in backbone.named_parameters()}
    assert depths == set(range(backbone.num_layers + 2))
    assert {len(v) for v in module.statistics(size, module.Args()).values()} == {3}
    layers = {layer.split(".")[-1] for layer, _ in backbone.named_modules()}
    assert set(module.LORA_TARGETS) <= layers


@pytest.mark.parametrize("size", ["vit_small_patch16_dinov3_qkvb", "eva02_tiny_patch14_224"])
def test_adapters_learn_where_timm_adds_a_separate_bias(size: str) -> None:
    """timm's own forward calls F.linear on the raw weight there, which passes adapters by."""
    module = registry.module("backbone", "timm")
    targets = [
        name
        for name in ("qkv", "q_proj")
        if name in {n.split(".")[-1] for n, _ in module.build(size, [0], module.Args()).named_modules()}
    ]
    network = Segmenter(
        3,
        2,
        arch_version=1,
        backbone={"name": "timm", "size": size, "taps": [1], "args": {}},
        neck={"name": "same_scale", "args": {}},
        head=head_keys("linear"),
        tuning="lora",
        lora={"r": 2, "lora_alpha": 2, "lora_dropout": 0.0, "target_modules": targets},
    )
    network(torch.rand(1, 3, 28, 28)).square().mean().backward()
    trained = {n: p for n, p in network.named_parameters() if p.requires_grad and "lora_B" in n}
    assert len(trained) == 2
    assert all(p.grad is not None and p.grad.any() for p in trained.values())


def test_state_dict_names_stay_what_they_were() -> None:
    """Names are how old checkpoints are read: a change here needs a mapping, and a raised ARCH_VERSION."""
    names = {
        f"{size} {neck} {head} {tuning}": {
            n: list(t.shape) for n, t in segmenter(neck, head, tuning, size).state_dict().items()
        }
        for size in ("vit", "eva")
        for neck, head in PAIRS
        for tuning in ("full", "lora")
    }
    golden = Path(__file__).with_name("state_dict_names.json")
    assert names == json.loads(golden.read_text())


@pytest.mark.parametrize("size", ["vit", "eva"])
def test_backbones_necks_and_heads_speak_the_protocols(size: str) -> None:
    network = segmenter("simple_pyramid", "segformer", size=size)
    assert isinstance(network.backbone, Backbone)
    assert isinstance(network.neck, Neck)
    assert isinstance(network.head, Head)
    maps = network.backbone(network.input(image()))
    for map_BChw, channels, stride in zip(maps, network.backbone.channels, network.backbone.strides, strict=True):
        assert map_BChw.shape == (2, channels, 48 / stride, 64 / stride)
    for map_BChw, channels in zip(network.neck(maps), network.neck.channels, strict=True):
        assert map_BChw.shape[1] == channels


@pytest.mark.parametrize("size", ["vit", "eva"])
class TestTuning:
    def test_the_trainable_set_is_exactly_what_the_tuning_says(self, size: str) -> None:
        def trained(tuning: str) -> set[str]:
            network = segmenter(tuning=tuning, size=size)
            return {n for n, p in network.named_parameters() if p.requires_grad and n.startswith("backbone.")}

        assert trained("frozen") == set()
        assert trained("lora") == {
            f"backbone.model.blocks.{i}.attn.qkv.lora_{m}.default.weight" for i in range(4) for m in "AB"
        }
        everything = {n for n, _ in segmenter(size=size).named_parameters() if n.startswith("backbone.")}
        assert trained("full") == everything

    def test_lora_starts_as_the_identity_and_every_adapter_learns(self, size: str) -> None:
        frozen, lora = segmenter(tuning="frozen", size=size).eval(), segmenter(tuning="lora", size=size).eval()
        lora.load_state_dict(
            {name.replace(".qkv.", ".qkv.base_layer."): value for name, value in frozen.state_dict().items()},
            strict=False,
        )
        assert torch.equal(lora(image()), frozen(image()))
        for name, parameter in lora.named_parameters():
            if "lora_B" in name:
                nn.init.ones_(parameter)
        lora(image()).square().mean().backward()
        adapters = [p for n, p in lora.named_parameters() if "lora_" in n]
        assert len(adapters) == 8
        assert all(p.grad is not None and p.grad.any() for p in adapters)

    def test_frozen_modules_stay_in_eval_mode(self, size: str) -> None:
        for tuning in ("frozen", "lora"):
            network = segmenter(tuning=tuning, size=size).train()
            assert not network.backbone.training
            assert network.head.training
        assert segmenter(tuning="full", size=size).train().backbone.training

    def test_blocks_past_the_last_tap_are_not_trained(self, size: str) -> None:
        network = Segmenter(
            3,
            2,
            arch_version=1,
            backbone=TINY | {"size": size, "taps": [0, 2]},
            neck={"name": "same_scale", "args": {}},
            head=head_keys("linear"),
            tuning="full",
        )
        network(torch.randn(1, 3, 32, 32)).square().mean().backward()
        without = {n for n, p in network.named_parameters() if p.requires_grad and p.grad is None}
        assert without == set()
        assert not network.get_parameter("backbone.model.blocks.3.mlp.fc1.weight").requires_grad


def test_a_lora_target_that_does_not_exist_is_an_error() -> None:
    from nnvit import lora
    from nnvit.errors import ConfigError

    with pytest.raises(ConfigError, match=r"'query', which is no linear layer.*qkv"):
        lora.inject(segmenter().backbone.model, r=2, lora_alpha=2, lora_dropout=0.0, target_modules=["query"])


def test_an_unknown_component_names_the_nearest() -> None:
    from nnvit.errors import ConfigError

    with pytest.raises(ConfigError, match="Did you mean 'segformer'"):
        registry.module("head", "segformr")
