"""The estimate of a training against real tensors, and FLOPs counted on fake tensors against sums by hand."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnvit import estimate
from nnvit.describe.network_needs import _network_parts
from nnvit.estimate import fake_training
from nnvit.estimate.fake_training import _flop_counter, _TensorLifetimes, forward_flops
from nnvit.model.training import WeightAverage, build_optimizer, prepare_for_training
from nnvit.recipe import loading
from tests.estimate.networks import FULL, IMAGE, needed, network, recipe

TINY = [
    "model.backbone=tiny",
    "model.backbone_size=vit",
    "model.decoder_hidden_size=16",
    "model.neck_args.out_channels=16",
]
TUNING = {
    "frozen": ["lora.enabled=false"],
    "lora": ["lora.enabled=true"],
    "full": ["lora.enabled=false", "model.freeze_backbone=false"],
}


def job(*overrides: str, side: int = 64, batch: int = 2) -> estimate.Job:
    return estimate.Job.of(
        loading.load_recipe(["segformer_default"], [*TINY, *overrides]),
        channels=3,
        classes=2,
        patch=(side, side),
        batch=batch,
    )


@pytest.mark.parametrize("tuning", TUNING)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["fp32", "bf16"])
def test_what_is_alive_at_most_is_what_a_real_training_has_alive(tuning: str, dtype: torch.dtype | None) -> None:
    """Makes the same steps on real tensors, whose storages are really allocated and freed."""
    of = job(*TUNING[tuning])
    said = of.need(dtype)
    built = of.build()
    prepare_for_training(built, of.training, dtype)
    optimizer = build_optimizer(built.train(), of.training)
    with _TensorLifetimes() as lifetimes:
        of._run_steps(built, dtype, optimizer, None)
    held = [*built.parameters(), *built.buffers()]
    assert said.parameters == sum(tensor.numel() * tensor.element_size() for tensor in held)
    assert said.tensors == pytest.approx(said.parameters + lifetimes.peak()[1], rel=0.02)


def test_parts_come_to_the_whole_and_follow_the_recipe() -> None:
    plain = job().need(torch.bfloat16)
    assert plain.on_cpu == plain.tensors + int(fake_training.CPU_ALLOWANCE * plain.activations)
    averaged = job("training.ema=0.9").need(torch.bfloat16)
    assert averaged.optimizer > plain.optimizer
    stateless = job("training.optimizer=sgd", "training.momentum=0").need(torch.bfloat16)
    assert stateless.optimizer == 0
    medium, large = (job(side=side).need(torch.bfloat16) for side in (128, 256))
    assert 3 * medium.activations < large.activations < 5 * medium.activations
    assert large.parameters == plain.parameters
    assert large.step_flops > 3 * medium.step_flops
    assert plain.step_flops > plain.forward_flops


def test_frozen_weights_take_half_and_checkpointing_less_than_keeping() -> None:
    frozen = job("lora.enabled=false")
    halved, plain = frozen.need(torch.bfloat16), frozen.need(None)
    assert halved.parameters < plain.parameters
    other = frozen.need(torch.float16)  # the trainer keeps them in either kind of 16 bits
    assert (other.parameters, other.tensors) == (halved.parameters, halved.tensors)
    full = job(*TUNING["full"], side=128)
    fewer = replace(full, training=replace(full.training, grad_checkpointing=True))
    assert fewer.need(None).tensors < full.need(None).tensors


def test_the_chosen_batch_fits_and_one_more_does_not() -> None:
    of = job("lora.enabled=false")

    def taken(batch: int) -> int:
        return replace(of, batch=batch).need(torch.bfloat16).on_gpu

    budget = (taken(6) + taken(7)) // 2
    batch, said = of.largest_batch(budget, torch.bfloat16)
    assert batch == 6
    assert said == taken(6) <= budget < taken(7)
    assert of.largest_batch(taken(2) - 1, torch.bfloat16) == (0, taken(2))


def test_optimiser_states_are_those_that_the_optimiser_makes() -> None:
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


def test_nothing_is_allocated_for_the_largest_backbone() -> None:
    of = loading.load_recipe(["linear_probe"], ["model.backbone_size=7b", "model.feature_layers=[39]"])
    said, (rows, _) = needed(of, (1, 3, 32, 32)), _network_parts(lambda: network(of), (1, 3, 32, 32))
    assert sum(row.parameters for row in rows if "." not in row.name) > 6.7e9
    resident: Any = pytest.importorskip("resource")
    assert resident.getrusage(resident.RUSAGE_SELF).ru_maxrss * 1024 < said.parameters


def test_attention_costs_two_products_of_queries_and_keys_and_its_gradients_five() -> None:
    """torch before 2.15 does not count the fused attention of a CPU."""
    query, key, value = (torch.rand(2, 3, tokens, 16, requires_grad=True) for tokens in (10, 7, 7))
    with _flop_counter() as flops:
        out = nn.functional.scaled_dot_product_attention(query, key, value)
        product = 2 * 2 * 3 * 10 * 7 * 16
        assert flops.get_total_flops() == 2 * product
        out.sum().backward()
    assert flops.get_total_flops() == 7 * product  # the backward pass computes the product of queries and keys again


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
    with _flop_counter() as flops:
        out = layer(torch.rand(image, requires_grad=True))
        places = (out if isinstance(layer, nn.Conv2d) else torch.empty(image)).shape[-2:].numel()
        by_hand = 2 * image[0] * places * weight.numel()
        assert flops.get_total_flops() == by_hand
        out.sum().backward()
    assert flops.get_total_flops() == 3 * by_hand


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
