"""The contract of every backbone, neck and head, run over the registry; nothing here knows a component's name."""

import copy
import inspect
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnvit import registry
from nnvit.errors import ConfigError
from nnvit.heads._queries import QueryHead
from nnvit.model import Segmenter
from nnvit.types import Backbone, BaseFamily, BaseHead, BaseNeck

from . import cells

CLASSES, CHANNELS = 3, 2
PAIRS = [(neck, head) for neck in cells.NECKS for head in cells.HEADS if cells.fits("vit", neck, head)]
SCALES = [[0.5, 0.5], [0.25, 0.25]]
GOLDEN = Path(__file__).with_name("state_dict_names")


def segmenter(
    neck: str = "same_scale",
    head: str = "linear",
    tuning: str = "full",
    size: str = "vit",
    narrow: Callable[[dict[str, Any]], dict[str, Any]] = cells.small,
    **others: Any,
) -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(
        CHANNELS,
        CLASSES,
        **{
            "arch_version": 1,
            "backbone": {"name": "tiny", "size": size, "taps": [0, 1, 2, 3], "args": {}},
            "neck": {"name": neck, "args": narrow(cells.neck_args(neck))},
            "head": {"name": head} | narrow(cells.head_keys(head)),
            "tuning": tuning,
            "lora": {"r": 2, "lora_alpha": 4, "lora_dropout": 0.0, "target_modules": cells.lora_targets(size)},
            "deep_supervision": True,
        }
        | others,
    )


def image(height: int = 48, width: int = 64) -> Tensor:
    return torch.randn(2, CHANNELS, height, width, generator=torch.Generator().manual_seed(1))


def awake(network: Segmenter) -> Segmenter:
    """Gives random values to parameters that start at zero (adapters, offsets): they pass no gradient on."""
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return network


def without_gradient(network: nn.Module) -> list[str]:
    return [n for n, p in network.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]


@pytest.mark.parametrize(("neck", "head"), PAIRS)
class TestEveryNetwork:
    @pytest.mark.parametrize("size", [(32, 32), (48, 64), (50, 61), (17, 90)])
    def test_logits_have_the_images_size_whatever_it_is(self, neck: str, head: str, size: tuple[int, int]) -> None:
        logits = segmenter(neck, head)(image(*size))
        assert logits.shape == (2, CLASSES, *size)
        assert logits.dtype == torch.float32
        assert logits.isfinite().all()

    def test_every_parameter_learns(self, neck: str, head: str) -> None:
        network = awake(segmenter(neck, head))
        network(image()).square().mean().backward()
        assert without_gradient(network) == []

    def test_every_parameter_learns_with_auxiliary_outputs(self, neck: str, head: str) -> None:
        network = awake(segmenter(neck, head, aux=SCALES))
        outputs = network(image(50, 61))
        expected = [(50, 61), (25, 30), (12, 15)][: len(outputs)]
        assert [tuple(out.shape[-2:]) for out in outputs] == expected
        assert len(outputs) > 1
        sum(out.square().mean() for out in outputs).backward()
        assert without_gradient(network) == []
        network.deep_supervision = False
        assert network(image()).shape == (2, CLASSES, 48, 64)

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
        outputs = CLASSES + 1 if isinstance(network.head, QueryHead) else CLASSES
        assert network.get_parameter("head.classifier.weight").shape[0] == outputs


@pytest.mark.parametrize(("neck", "head"), [pair for pair in PAIRS if cells.by_queries(pair[1])])
@pytest.mark.parametrize("regions", [False, True])
def test_a_heads_own_loss_teaches_every_parameter(neck: str, head: str, regions: bool) -> None:
    if cells.refines(neck):
        with pytest.raises(ConfigError, match=f"model.neck={neck} refines the logits.*set training.loss=nnunet"):
            segmenter(neck, head, aux="native")
        return
    network = awake(segmenter(neck, head, aux="native", regions=regions))
    labels = torch.arange(48 * 64).view(1, 1, 48, 64).repeat(2, 1, 1, 1) // 1100
    target = torch.cat([labels >= region for region in range(CLASSES)], dim=1) if regions else labels
    loss = network.head.native_loss(None)(network(image()), [target.float()])
    assert loss.ndim == 0
    assert loss.isfinite()
    loss.backward()
    assert without_gradient(network) == []


@pytest.mark.parametrize("kind", ["head", "neck"])
def test_own_keys_have_defaults_so_that_older_plans_build(kind: str) -> None:
    for name in registry.names(kind):
        module = registry.module(kind, name)
        if kind == "neck":
            assert module.Args()
            continue
        assert list(inspect.signature(module.Head).parameters) == ["channels", "strides", "num_classes", "config"]
        neck = cells.neck_for("vit", name)
        with torch.device("meta"):
            old, new = segmenter(neck, name, narrow=lambda keys: {}), segmenter(neck, name, narrow=dict)
        assert names_and_shapes(old) == names_and_shapes(new)


def assert_declared(family: type[BaseFamily]) -> None:
    """A family has every member that BaseFamily names, and its own of those that have no default."""
    assert issubclass(family, BaseFamily)
    assert [name for name in BaseFamily.__annotations__ if not hasattr(family, name)] == [], family
    assert family.build is not BaseFamily.build
    assert family.resolve_taps.__func__ is not BaseFamily.resolve_taps.__func__  # type: ignore[attr-defined]


def test_every_family_declares_what_its_base_names() -> None:
    for name in registry.names("backbone"):
        assert_declared(registry.family(name))


def backbone_sizes(name: str) -> list[str]:
    return list(
        registry.family(name).SIZES
        or ["vit_tiny_patch16_224", "eva02_tiny_patch14_224", "vit_small_patch16_dinov3_qkvb"]
    )


def on_meta(name: str, size: str) -> Any:
    """A backbone on the meta device, so that ViT-7B fits."""
    family = registry.family(name)
    with torch.device("meta"):
        built = family().build(size, family.resolve_taps(size, None))
    return built.to("meta")  # timm makes rotations' periods on the CPU


BACKBONES = [(name, size) for name in registry.names("backbone") for size in backbone_sizes(name)]


@pytest.mark.parametrize(("name", "size"), BACKBONES)
def test_every_backbone_says_what_it_gives_and_adapters_find_their_layers(name: str, size: str) -> None:
    family, backbone = registry.family(name), on_meta(name, size)
    assert isinstance(backbone, Backbone)
    assert len(backbone.channels) == len(backbone.strides) == len(family.resolve_taps(size, None))
    height, width = 2 * backbone.grid, 3 * backbone.grid
    maps = backbone(torch.zeros(1, 3, height, width, device="meta"))
    said = zip(backbone.channels, backbone.strides, strict=True)
    assert [m.shape for m in maps] == [(1, c, height // s, width // s) for c, s in said]
    assert list(backbone.strides) == sorted(backbone.strides), "finest first"
    assert backbone.last_layer <= backbone.num_layers
    depths = {backbone.layer_of(parameter) for parameter, _ in backbone.named_parameters()}
    assert depths - {backbone.num_layers + 1} == set(range(backbone.num_layers + 1))
    assert {len(v) for v in family().statistics(size).values()} == {3}
    layers = {layer.split(".")[-1] for layer, _ in backbone.named_modules()}
    targets = cells.lora_targets(size) if family is cells.TINY else family.LORA_TARGETS
    assert set(targets) <= layers


@pytest.mark.parametrize("size", ["vit_small_patch16_dinov3_qkvb", "eva02_tiny_patch14_224"])
def test_adapters_learn_where_timm_adds_a_separate_bias(size: str) -> None:
    """timm's own forward calls F.linear on the raw weight there, which bypasses adapters."""
    family = registry.family("timm")
    targets = [
        name
        for name in ("qkv", "q_proj")
        if name in {n.split(".")[-1] for n, _ in family().build(size, [0]).named_modules()}
    ]
    network = Segmenter(
        3,
        2,
        arch_version=1,
        backbone={"name": "timm", "size": size, "taps": [1], "args": {}},
        neck={"name": "same_scale", "args": {}},
        head={"name": "linear"},
        tuning="lora",
        lora={"r": 2, "lora_alpha": 2, "lora_dropout": 0.0, "target_modules": targets},
    )
    network(torch.rand(1, 3, 28, 28)).square().mean().backward()
    trained = {n: p for n, p in network.named_parameters() if p.requires_grad and "lora_B" in n}
    assert len(trained) == 2
    assert all(p.grad is not None and p.grad.any() for p in trained.values())


# --- names in checkpoints -------------------------------------------------------------------------------------------


def wide(neck: str, head: str, tuning: str = "full", size: str = "vit") -> Segmenter:
    """A network whose neck and head have their default keys, on the meta device."""
    with torch.device("meta"):
        return segmenter(neck, head, tuning, size, narrow=lambda keys: keys)


def names_and_shapes(network: nn.Module, *parts: str) -> dict[str, list[int]]:
    return {n: list(t.shape) for n, t in network.state_dict().items() if n.startswith(parts or "")}


def test_state_dict_names_of_whole_networks_stay_what_they_were() -> None:
    """Names are how old checkpoints are read: a change here needs a mapping, and a raised ARCH_VERSION."""
    golden = json.loads(GOLDEN.with_suffix(".json").read_text())
    for network, names in golden.items():
        size, neck, head, tuning = network.split()
        assert names_and_shapes(wide(neck, head, tuning, size)) == names, network


def parts() -> Iterator[tuple[str, dict[str, list[int]]]]:
    """File name and state-dict names of each component's own part, in a network that it fits."""
    for family in cells.FAMILIES:
        for tuning in ("full", "lora"):
            network = segmenter(tuning=tuning, size=family)
            yield f"backbone_tiny_{family}_{tuning}", names_and_shapes(network, "input.", "backbone.")
    for neck in cells.NECKS:
        yield f"neck_{neck}", names_and_shapes(wide(neck, "linear"), "neck.", "refine.")
    for head in cells.HEADS:
        yield f"head_{head}", names_and_shapes(wide(cells.neck_for("vit", head), head), "head.")
    yield "auxiliary", names_and_shapes(segmenter(aux=SCALES), "auxiliary.")


def test_state_dict_names_of_every_component_stay_what_they_were() -> None:
    """The test above for single components, one file each; a network's names are those of its parts.

    `NNVIT_WRITE_GOLDEN=1 pytest tests/contract -k state_dict_names` adds the files of new components and changes none.
    """
    found = dict(parts())
    for file, names in found.items():
        path = GOLDEN / f"{file}.json"
        if os.environ.get("NNVIT_WRITE_GOLDEN") and not path.exists():
            lines = ",\n".join(f'"{name}": {json.dumps(shape)}' for name, shape in names.items())
            path.write_text(f"{{\n{lines}\n}}\n" if lines else "{}\n")
        assert path.exists(), f"{path} is missing; NNVIT_WRITE_GOLDEN=1 writes it"
        assert names == json.loads(path.read_text()), file
    assert sorted(found) == sorted(path.stem for path in GOLDEN.iterdir())


# --- protocols, tuning ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", cells.FAMILIES)
@pytest.mark.parametrize("neck", cells.NECKS)
def test_backbones_and_necks_give_the_maps_that_they_say(neck: str, size: str) -> None:
    if not cells.neck_takes(neck, size):
        with pytest.raises(ConfigError, match=r"maps of strides \["):
            segmenter(neck, size=size)
        return
    network = segmenter(neck, size=size)
    assert isinstance(network.backbone, Backbone)
    assert isinstance(network.neck, BaseNeck)
    side = network.backbone.grid * 3
    padded = network.input(image(side, 2 * side))
    maps = network.backbone(padded)
    for map_BChw, channels, stride in zip(maps, network.backbone.channels, network.backbone.strides, strict=True):
        assert map_BChw.shape == (2, channels, side / stride, 2 * side / stride)
    levels = network.neck(maps, padded)
    for map_BChw, channels, stride in zip(levels, network.neck.channels, network.neck.strides, strict=True):
        assert map_BChw.shape[1] == channels
        assert abs(map_BChw.shape[2] - side / stride) < 1
        assert abs(map_BChw.shape[3] - 2 * side / stride) < 1


@pytest.mark.parametrize("head", cells.HEADS)
def test_heads_speak_their_protocol(head: str) -> None:
    network = segmenter(cells.neck_for("vit", head), head)
    assert isinstance(network.head, BaseHead)
    assert isinstance(network.head, QueryHead) == cells.by_queries(head)
    if not cells.by_queries(head):
        return
    network.eval()
    padded = network.input(image())
    source = network.backbone if cells.reads_tokens(head) else network.neck(network.backbone(padded), padded)
    layers = network.head.layers(source, padded)
    assert len(layers) > 1
    for classes_BQC, masks_BQhw in layers:
        assert classes_BQC.shape[2] == CLASSES + 1
        assert classes_BQC.shape[:2] == masks_BQhw.shape[:2]
    torch.testing.assert_close(network.head.logits(*layers[-1]), network.head(source, padded), rtol=0, atol=0)
    outputs = segmenter(cells.neck_for("vit", head), head, aux="native").eval()(image())
    assert len(outputs) == 1 + 2 * len(layers)
    with pytest.raises(ConfigError, match=r"ignore label 3; set training\.loss=nnunet"):
        network.head.native_loss(3)


@pytest.mark.parametrize("size", cells.FAMILIES)
class TestTuning:
    def test_the_trainable_set_is_exactly_what_the_tuning_says(self, size: str) -> None:
        def trained(tuning: str) -> set[str]:
            network = segmenter(tuning=tuning, size=size)
            return {n for n, p in network.named_parameters() if p.requires_grad and n.startswith("backbone.")}

        network = segmenter(size=size)
        layers = [n for n, _ in network.named_modules() if n.split(".")[-1] in cells.lora_targets(size)]
        assert len(layers) == 4 * len(cells.lora_targets(size))
        assert trained("frozen") == set()
        assert trained("lora") == {f"{layer}.lora_{m}.default.weight" for layer in layers for m in "AB"}
        assert trained("full") == {n for n, _ in network.named_parameters() if n.startswith("backbone.")}

    def test_lora_starts_as_the_identity_and_every_adapter_learns(self, size: str) -> None:
        frozen, adapted = segmenter(tuning="frozen", size=size).eval(), segmenter(tuning="lora", size=size).eval()
        state = {n.replace(".base_layer.", "."): v for n, v in adapted.state_dict().items() if ".lora_" not in n}
        frozen.load_state_dict(state, strict=True)
        assert torch.equal(adapted(image()), frozen(image()))
        awake(adapted)(image()).square().mean().backward()
        adapters = [p for n, p in adapted.named_parameters() if "lora_" in n]
        assert len(adapters) == 8 * len(cells.lora_targets(size))
        assert all(p.grad is not None and p.grad.any() for p in adapters)

    def test_frozen_modules_stay_in_eval_mode(self, size: str) -> None:
        for tuning in ("frozen", "lora"):
            network = segmenter(tuning=tuning, size=size).train()
            assert not network.backbone.training
            assert network.head.training
        assert segmenter(tuning="full", size=size).train().backbone.training

    def test_blocks_past_the_last_tap_are_not_trained(self, size: str) -> None:
        backbone = {"name": "tiny", "size": size, "taps": [0, 2], "args": {}}
        network = segmenter(backbone=backbone)
        network(image()).square().mean().backward()
        assert without_gradient(network) == []
        depths = {n: network.depth_of(n) for n, _ in network.named_parameters()}
        last = {n for n, depth in depths.items() if depth == network.backbone.num_layers}
        assert last
        assert last == {n for n, p in network.named_parameters() if not p.requires_grad}


def test_a_lora_target_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"'query', which is no linear layer.*qkv"):
        segmenter().add_adapters(r=2, lora_alpha=2, lora_dropout=0.0, target_modules=["query"])


@pytest.mark.parametrize("lora", [None, {"r": 2, "lora_alpha": 4, "target_modules": ["qkv"]}])
def test_plans_that_leave_out_what_the_adapters_are_do_not_take_defaults(lora: dict[str, Any] | None) -> None:
    with pytest.raises(TypeError, match="lora_dropout"):
        segmenter(tuning="lora", lora=lora)


def test_an_unknown_component_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'segformer'"):
        registry.module("head", "segformr")
