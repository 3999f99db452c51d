"""Costs are counted on fake tensors; here they are held against real networks, real passes and sums by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnvit import estimate
from nnvit.estimate.flops import flop_counter, forward_flops
from nnvit.estimate.network_parts import network_parts
from nnvit.model import Segmenter
from nnvit.model.arch_kwargs import arch_kwargs
from nnvit.recipe import loading
from nnvit.recipe.schema import Recipe

IMAGE = (2, 3, 50, 64)
TINY = ["model.backbone=tiny", "model.backbone_size=vit", "training.precision=fp32"]
FULL = ["lora.enabled=false", "model.freeze_backbone=false"]


def recipe(*overrides: str, source: str = "segformer_default") -> Recipe:
    return loading.load_recipe([source], [*TINY, *overrides])


def network(of: Recipe) -> Segmenter:
    arch = arch_kwargs(of)
    return Segmenter(IMAGE[1], 3, deep_supervision="aux" in arch, **arch)


def needed(of: Recipe, image: tuple[int, ...] = IMAGE) -> estimate.Need:
    """Of a step in the recipe's precision, as `nnvit show` has it."""
    batch, channels, height, width = image
    job = estimate.Job(
        build=lambda: network(of), training=of.training, channels=channels, patch=(height, width), batch=batch
    )
    return estimate.need(job, None if of.training.precision == "fp32" else torch.bfloat16)


@pytest.mark.parametrize(
    ("source", "overrides"),
    [
        ("segformer_default", []),
        ("segformer_default", ["lora.enabled=false"]),
        ("segformer_default", FULL),
        ("segformer_detail", []),
        ("vit_default", []),
    ],
    ids=["lora", "frozen", "full", "detail", "progressive"],
)
def test_what_is_said_of_a_network_holds_for_the_real_one(source: str, overrides: list[str]) -> None:
    of = recipe(*overrides, source=source)
    said, built = needed(of), network(of)
    rows, trained = network_parts(lambda: network(of), IMAGE)
    parts = [row for row in rows if "." not in row.name]
    assert sum(row.parameters for row in parts) == sum(p.numel() for p in built.parameters())
    assert sum(row.trainable for row in parts) == sum(p.numel() for p in built.parameters() if p.requires_grad)
    assert sum(size for _, _, size in trained) == sum(row.trainable for row in parts)
    held = [*built.parameters(), *built.buffers()]
    assert said.parameters == sum(t.numel() * t.element_size() for t in held)
    with flop_counter() as flops, torch.no_grad():
        built.train()(torch.rand(IMAGE))
    assert said.forward_flops == flops.get_total_flops()


def test_optimiser_states_are_those_that_the_optimiser_makes() -> None:
    from nnvit.model.optimizer import WeightAverage, build_optimizer

    for keys in (
        ["training.optimizer=adamw"],
        ["training.optimizer=sgd"],
        ["training.optimizer=sgd", "training.momentum=0"],
    ):
        of = recipe(*keys)
        built = network(of)
        built(torch.rand(IMAGE)).sum().backward()
        optimizer = build_optimizer(built, of.training)
        optimizer.step()
        states = [s for state in optimizer.state.values() for s in state.values() if isinstance(s, Tensor)]
        assert needed(of).optimizer == sum(s.numel() * s.element_size() for s in states)
    averaged, plain = needed(recipe("training.ema=0.99")), needed(recipe())
    mean = WeightAverage(network(recipe()), 0.99).mean.values()
    assert averaged.optimizer - plain.optimizer == sum(t.numel() * t.element_size() for t in mean)


def test_checkpointing_and_freezing_keep_less() -> None:
    image = (2, 3, 256, 256)
    full, checkpointed, frozen = (
        needed(recipe(*keys), image)
        for keys in (FULL, [*FULL, "training.grad_checkpointing=true"], ["lora.enabled=false"])
    )
    assert checkpointed.activations < full.activations
    assert checkpointed.step_flops > full.step_flops
    assert frozen.activations < full.activations
    assert frozen.step_flops < full.step_flops


def test_half_precision_keeps_about_half_where_images_outweigh_weights() -> None:
    image = (2, 3, 256, 256)
    full, half = (needed(recipe(*FULL, f"training.precision={name}"), image) for name in ("fp32", "bf16"))
    assert 0.4 * full.activations < half.activations < 0.7 * full.activations
    assert (half.step_flops, half.parameters) == (full.step_flops, full.parameters)


def test_a_loss_that_reads_every_layer_computes_more() -> None:
    small = ["model.num_queries=5", "model.decoder_layers=3", "model.encoder_layers=1", "model.decoder_hidden_size=32"]
    plain, native = (needed(recipe(*small, source=name)) for name in ("m2f_default", "m2f_native"))
    assert native.step_flops > plain.step_flops
    assert native.parameters == plain.parameters


def test_attention_costs_two_products_of_queries_and_keys_and_its_gradients_five() -> None:
    """torch before 2.15 passes over the fused attention of a CPU."""
    query, key, value = (torch.rand(2, 3, tokens, 16, requires_grad=True) for tokens in (10, 7, 7))
    with flop_counter() as flops:
        out = nn.functional.scaled_dot_product_attention(query, key, value)
        product = 2 * 2 * 3 * 10 * 7 * 16
        assert flops.get_total_flops() == 2 * product
        out.sum().backward()
    assert flops.get_total_flops() == 7 * product  # the product of queries and keys is made once more


@pytest.mark.parametrize(
    ("layer", "image"),
    [
        (nn.Conv2d(8, 12, 3, stride=2, padding=1), (2, 8, 9, 10)),
        (nn.Conv2d(8, 8, 3, groups=8), (2, 8, 9, 10)),
        (nn.Conv2d(8, 12, 3, groups=4), (2, 8, 9, 10)),
        (nn.ConvTranspose2d(8, 6, 2, stride=2), (2, 8, 9, 10)),
        (nn.ConvTranspose2d(8, 8, 2, stride=2, groups=8), (2, 8, 9, 10)),
    ],
    ids=["plain", "depthwise", "grouped", "transposed", "transposed depthwise"],
)
def test_both_gradients_of_a_convolution_cost_as_much_as_it_does(layer: nn.Module, image: tuple[int, ...]) -> None:
    """torch's own formula multiplies a grouped convolution's by the number of groups."""
    weight = layer.get_parameter("weight")
    with flop_counter() as flops:
        out = layer(torch.rand(image, requires_grad=True))
        places = (out if isinstance(layer, nn.Conv2d) else torch.empty(image)).shape[-2:].numel()
        by_hand = 2 * image[0] * places * weight.numel()
        assert flops.get_total_flops() == by_hand
        out.sum().backward()
    assert flops.get_total_flops() == 3 * by_hand


def test_rows_add_up_and_say_the_shapes_of_a_pass() -> None:
    of = recipe()
    rows, trained = network_parts(lambda: network(of), IMAGE)
    built = network(of)
    parts = {row.name: row for row in rows if "." not in row.name}
    assert list(parts) == ["input", "backbone", "neck", "head"]
    assert sum(row.parameters for row in parts.values()) == sum(p.numel() for p in built.parameters())
    trainable = sum(p.numel() for p in built.parameters() if p.requires_grad)
    assert sum(row.trainable for row in parts.values()) == trainable == sum(size for _, _, size in trained)
    assert parts["backbone"].output == "4 of 2x32x4x4"  # 50 x 64 pixels, padded to 64 x 64
    assert parts["head"].output == "2x3x16x16"
    blocks = next(row for row in rows if row.name == "backbone.model.blocks")
    assert (blocks.kind, blocks.output) == ("4 x Block", "2x17x32")
    assert ("backbone.model.blocks.*.attn.qkv.lora_A.default.weight", 4, 4 * 8 * 32) in trained


def test_nothing_is_allocated_for_the_largest_backbone() -> None:
    of = loading.load_recipe(["linear_probe"], ["model.backbone_size=7b", "model.feature_layers=[39]"])
    said, (rows, _) = needed(of, (1, 3, 32, 32)), network_parts(lambda: network(of), (1, 3, 32, 32))
    assert sum(row.parameters for row in rows if "." not in row.name) > 6.7e9
    resident: Any = pytest.importorskip("resource")
    assert resident.getrusage(resident.RUSAGE_SELF).ru_maxrss * 1024 < said.parameters


def test_the_forward_pass_of_any_network_is_counted() -> None:
    of = recipe()
    assert forward_flops(lambda: network(of), IMAGE) == needed(of).forward_flops
    assert forward_flops(Twice, (1, 2, 4, 6, 8)) == 2 * 2 * 5 * 27 * 4 * 6 * 8


class Twice(nn.Module):
    """A convolution under two names, as the blocks of nnU-Net's networks hold theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 5, 3, padding=1, bias=False)
        self.all_modules = nn.Sequential(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        return self.all_modules(x)
