"""What every backbone, neck and head must do, run over the registry; nothing here knows a component's name."""

import copy
from dataclasses import fields
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


@pytest.mark.parametrize("name", registry.names("backbone"))
def test_every_backbone_file_exports_the_contract(name: str) -> None:
    module = registry.module("backbone", name)
    assert module.Args()
    assert module.LORA_TARGETS
    assert {"resolve_taps", "build", "statistics"} <= set(dir(module))


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

    with pytest.raises(ConfigError, match=r"'query', which this backbone does not have.*qkv"):
        lora.inject(segmenter().backbone.model, r=2, lora_alpha=2, lora_dropout=0.0, target_modules=["query"])


def test_an_unknown_component_names_the_nearest() -> None:
    from nnvit.errors import ConfigError

    with pytest.raises(ConfigError, match="Did you mean 'segformer'"):
        registry.module("head", "segformr")
