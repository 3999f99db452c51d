"""SegFormer's encoder, and SegFormer whole, against transformers' own on the same weights."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from nnvit import registry
from nnvit.backbones.mit import Family as MitFamily
from nnvit.errors import ConfigError
from nnvit.heads.segformer import Head
from nnvit.model import Segmenter
from nnvit.recipe.schema import ARCH_VERSION
from nnvit.types import Backbone

CLASSES = 5
HIDDEN = 48
TAPS = [0, 1, 2, 3]
TINY_BLOCKS = 4


def reference(size: str, drop_path: float = 0.0) -> SegformerForSemanticSegmentation:
    """transformers' SegFormer of a published size (its default reduction ratios, heads and strides are the paper's)."""
    torch.manual_seed(0)
    widths, depths = MitFamily.SIZES[size]
    config = SegformerConfig(
        hidden_sizes=widths,
        depths=depths,
        decoder_hidden_size=HIDDEN,
        num_labels=CLASSES,
        drop_path_rate=drop_path,
        classifier_dropout_prob=0.0,
    )
    theirs = SegformerForSemanticSegmentation(config)
    with torch.no_grad():
        for parameter in theirs.parameters():  # norms start at 1 and 0, which would hide a mix-up
            parameter.add_(torch.randn_like(parameter) * 0.02)
        theirs.decode_head.batch_norm.running_mean.normal_()
        theirs.decode_head.batch_norm.running_var.uniform_(0.5, 2.0)
    return theirs


def segmenter(name: str = "tiny", size: str = "mit", tuning: str = "full", taps: list[int] | None = None) -> Segmenter:
    torch.manual_seed(0)
    taps = taps or TAPS
    return Segmenter(
        3,
        CLASSES,
        arch_version=ARCH_VERSION,
        backbone={"name": name, "size": size, "taps": taps, "args": {}},
        neck={"name": "same_scale", "args": {}},
        head={"name": "segformer", "decoder_hidden_size": HIDDEN, "num_encoder_blocks": len(taps), "dropout": 0.0},
        tuning=tuning,
        lora={"r": 2, "lora_alpha": 4, "lora_dropout": 0.0, "target_modules": list(MitFamily.LORA_TARGETS)},
    )


def ours(theirs: SegformerForSemanticSegmentation, size: str) -> Segmenter:
    network = segmenter("mit", size)
    network.backbone.model.load_state_dict(theirs.segformer.state_dict(), strict=True)
    network.head.load_state_dict(Head.from_segformer(theirs.decode_head.state_dict()), strict=True)
    return network


def image(height: int = 64, width: int = 96, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def gradients(network: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("size", ["b0", "b2"])
def test_segformer_whole_equals_transformers_in_eval_mode(size: str) -> None:
    theirs = reference(size).eval()
    network = ours(theirs, size).eval()
    with torch.no_grad():
        expected = theirs(image(), output_hidden_states=True)
        maps = network.backbone(image())
        for got, want in zip(maps, expected.hidden_states, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
        logits = network.head(network.neck(maps, image()), image())
        assert logits.shape == (2, CLASSES, 16, 24)
        torch.testing.assert_close(logits, expected.logits, rtol=1e-4, atol=1e-5)
        upsampled = nn.functional.interpolate(expected.logits, (64, 96), mode="bilinear", align_corners=False)
        torch.testing.assert_close(network(image()), upsampled, rtol=1e-4, atol=1e-5)


def test_segformer_whole_has_transformers_gradients_in_train_mode() -> None:
    theirs = reference("b0").train()
    network = ours(theirs, "b0").train()
    target = torch.randn(2, CLASSES, 16, 24, generator=torch.Generator().manual_seed(2))
    (theirs(image()).logits * target).mean().backward()
    (network.head(network.backbone(image()), image()) * target).mean().backward()
    for part, want in ((network.backbone.model, gradients(theirs.segformer)), (network.head, head_gradients(theirs))):
        got = gradients(part)
        assert got.keys() == want.keys()
        for name, gradient in got.items():
            torch.testing.assert_close(gradient, want[name], rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def head_gradients(theirs: SegformerForSemanticSegmentation) -> dict[str, Tensor]:
    return Head.from_segformer(gradients(theirs.decode_head))


# SegFormer's paper, table 1: millions of parameters of the encoder.
@pytest.mark.parametrize(
    ("size", "millions"), [("b0", 3.4), ("b1", 13.1), ("b2", 24.2), ("b3", 44.0), ("b4", 60.8), ("b5", 81.4)]
)
def test_every_size_has_the_papers_parameters_strides_and_depth(size: str, millions: float) -> None:
    with torch.device("meta"):
        backbone = MitFamily().build(size, MitFamily.resolve_taps(size, None))
    assert sum(p.numel() for p in backbone.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)
    assert backbone.strides == [4.0, 8.0, 16.0, 32.0]
    assert backbone.grid == 32
    assert tuple(backbone.channels) == MitFamily.SIZES[size][0]
    assert backbone.num_layers == backbone.last_layer == sum(MitFamily.SIZES[size][1])
    assert isinstance(backbone, Backbone)
    assert {backbone.layer_of(name) for name, _ in backbone.named_parameters()} == set(range(backbone.num_layers + 1))
    assert {backbone.model.get_parameter(name).shape[0] for name in first_projections()} == set(
        MitFamily.SIZES[size][0]
    )


def first_projections() -> list[str]:
    return [f"stages.{s}.blocks.0.attention.{layer}.weight" for s in TAPS for layer in MitFamily.LORA_TARGETS]


def test_depths_count_the_blocks_of_all_stages() -> None:
    backbone = MitFamily().build("b0", TAPS)
    expected = {
        "stages.0.patch_embeddings.proj.weight": 0,
        "stages.0.blocks.0.mlp.fc1.bias": 1,
        "stages.0.blocks.1.attention.q_proj.lora_A.default.weight": 2,
        "stages.0.layer_norm.weight": 2,
        "stages.1.patch_embeddings.layer_norm.weight": 3,
        "stages.1.blocks.0.layernorm_before.weight": 3,
        "stages.3.blocks.1.mlp.fc2.weight": 8,
        "stages.3.layer_norm.bias": 8,
    }
    assert {name: backbone.layer_of(f"model.{name}") for name in expected} == expected


def test_a_subset_of_stages_is_read_and_nothing_behind_it_trained() -> None:
    network, whole = segmenter(taps=[0, 2]), segmenter().backbone.eval()
    assert network.backbone.strides == [4.0, 16.0]
    for got, want in zip(network.backbone.eval()(image()), whole(image())[::2], strict=True):
        assert torch.equal(got, want)
    network(image()).square().mean().backward()
    learning = gradients(network)
    assert {name for name, p in network.named_parameters() if p.requires_grad} == learning.keys()
    assert {n.split(".")[3] for n in learning if n.startswith("backbone.")} == {"0", "1", "2"}


@pytest.mark.parametrize("taps", [[], [0, 4], [1, 0], [0, 0], [-1]])
def test_stages_that_do_not_exist_are_refused(taps: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"must name stages of MiT from 0 to 3, ascending"):
        MitFamily.resolve_taps("b0", taps)


def test_an_unknown_size_names_those_that_exist() -> None:
    with pytest.raises(ConfigError, match="is not a size of mit; use one of b0, b1"):
        MitFamily.resolve_taps("large", None)


def test_state_dict_names_stay_what_they_were() -> None:
    """They are how checkpoints are read: where transformers renames a module, backbones/mit.py must map it back."""
    linear = [f"attention.{p}_proj" for p in "qkvo"] + ["mlp.fc1", "mlp.fc2", "mlp.dwconv.dwconv"]
    block = [*linear, "layernorm_before", "layernorm_after"]
    reduction = ["attention.sequence_reduction.sequence_reduction", "attention.sequence_reduction.layer_norm"]
    layers = [
        f"stages.{stage}.{layer}"
        for stage in TAPS
        for layer in [
            "patch_embeddings.proj",
            "patch_embeddings.layer_norm",
            "layer_norm",
            *(f"blocks.0.{part}" for part in block + (reduction if stage < 3 else [])),
        ]
    ]
    names = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert segmenter().backbone.model.state_dict().keys() == names


@pytest.mark.parametrize(("name", "size", "blocks"), [("tiny", "mit", TINY_BLOCKS), ("mit", "b0", 8)])
def test_every_adapter_on_the_separate_projections_learns(name: str, size: str, blocks: int) -> None:
    network = segmenter(name, size, "lora").train()
    for parameter_name, parameter in network.named_parameters():
        if "lora_B" in parameter_name:
            nn.init.normal_(parameter)
    network(image()).square().mean().backward()
    adapters = {n for n, p in network.backbone.named_parameters() if p.requires_grad}
    assert len(adapters) == blocks * 2 * 2
    assert {n for n, gradient in gradients(network.backbone).items() if gradient.any()} == adapters


def test_adapters_start_as_the_identity() -> None:
    frozen, lora = segmenter(tuning="frozen").eval(), segmenter(tuning="lora").eval()
    assert torch.equal(lora(image()), frozen(image()))


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_checkpointing_computes_blocks_twice_and_gives_the_same_gradients(tuning: str) -> None:
    plain = segmenter(tuning=tuning).train()
    checkpointed = copy.deepcopy(plain)
    checkpointed.backbone.set_grad_checkpointing(True)
    calls: list[Any] = []
    for stage in checkpointed.backbone.model.stages:
        stage.blocks[0].mlp.fc1.register_forward_hook(lambda *call: calls.append(call))
    for network in (plain, checkpointed):
        network(image()).square().mean().backward()
    assert len(calls) == 2 * TINY_BLOCKS
    expected, got = gradients(plain), gradients(checkpointed)
    assert got.keys() == expected.keys()
    for name, gradient in got.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-7)
    calls.clear()
    with torch.no_grad():
        checkpointed(image())
    checkpointed.backbone.set_grad_checkpointing(False)
    checkpointed(image())
    assert len(calls) == 2 * TINY_BLOCKS


def test_drop_path_rises_with_depth_as_transformers_has_it() -> None:
    theirs = reference("b0", drop_path=0.3)
    network = ours(reference("b0"), "b0")
    names = network.state_dict().keys()
    network.backbone.set_drop_path(0.3)
    assert network.state_dict().keys() == names
    pairs = [
        (mine.drop_path.drop_prob, getattr(other.drop_path, "drop_prob", 0.0))
        for stage, their_stage in zip(network.backbone.model.stages, theirs.segformer.stages, strict=True)
        for mine, other in zip(stage.blocks, their_stage.blocks, strict=True)
    ]
    torch.testing.assert_close(*map(list, zip(*pairs, strict=True)))
    assert pairs[-1][0] == pytest.approx(0.3)


def test_full_training_with_drop_path_learns_and_evaluates_without_it() -> None:
    network = segmenter()
    before = network.eval()(image())
    network.backbone.set_drop_path(0.5)
    assert torch.equal(network(image()), before)
    network.train()
    first, second = (network.backbone(image())[-1] for _ in range(2))
    assert not torch.equal(first, second)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    label_BHW = (image(batch=8)[:, 0] > 0).long()
    losses = []
    for _ in range(20):
        loss = nn.functional.cross_entropy(network(image(batch=8)), label_BHW)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(p.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("size", ["mit", "vit14"])
def test_the_tiny_backbones_export_in_any_image_size(size: str) -> None:
    family = registry.family("tiny")
    backbone = family().build(size, family.resolve_taps(size, None)).eval()
    example = torch.randn(2, 3, 2 * backbone.grid, 3 * backbone.grid)
    maps = backbone(example)
    for map_BChw, channels, stride in zip(maps, backbone.channels, backbone.strides, strict=True):
        assert map_BChw.shape == (2, channels, example.shape[2] / stride, example.shape[3] / stride)
    exported = torch.export.export(backbone, (example,)).module()
    for got, want in zip(exported(example), maps, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_the_network_exports_and_takes_odd_sizes() -> None:
    network = segmenter().eval()
    example = image(50, 61)
    exported = torch.export.export(network, (example,))
    assert network(example).shape == (2, CLASSES, 50, 61)
    torch.testing.assert_close(exported.module()(example), network(example), rtol=1e-4, atol=1e-5)
