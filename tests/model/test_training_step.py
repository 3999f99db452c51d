"""Frozen weights in 16 bits (which they are, what this saves, and that autocast computes the same with them); one step."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from nnvit.model import Segmenter, arch_kwargs
from nnvit.model.training import prepare_for_training, training_step
from nnvit.recipe import loading
from nnvit.recipe.schema import TrainingConfig

TINY = ["model.backbone=tiny", "model.decoder_hidden_size=16", "model.dropout=0"]
TUNING = {
    "frozen": ["lora.enabled=false"],
    "lora": [],
    "full": ["lora.enabled=false", "model.freeze_backbone=false"],
}


def network(tuning: str, size: str = "vit") -> Segmenter:
    torch.manual_seed(0)
    keys = [*TINY, f"model.backbone_size={size}", *TUNING[tuning]]
    if size == "mit":
        keys += ["model.neck=same_scale", "lora.target_modules=[q_proj,v_proj]"]
    return Segmenter(3, 2, **arch_kwargs(loading.load_recipe(["segformer_default"], keys))).train()


def size_of(built: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in built.parameters())


@pytest.mark.parametrize("tuning", ["frozen", "lora"])
@pytest.mark.parametrize("size", ["vit", "vit14", "eva", "mit"])
def test_frozen_products_are_stored_in_half_the_bytes_and_come_out_the_same(tuning: str, size: str) -> None:
    built, image = network(tuning, size), torch.rand(2, 3, 64, 80)
    before = size_of(built)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = built(image)
    prepare_for_training(built, TrainingConfig(), torch.bfloat16)
    assert before - size_of(built) > 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = built(image)
    assert torch.equal(got, expected)
    got.sum().backward()
    stored = {name: parameter.dtype for name, parameter in built.named_parameters()}
    assert {stored[name] for name, p in built.named_parameters() if p.requires_grad} == {torch.float32}
    halves = [name for name, dtype in stored.items() if dtype is torch.bfloat16]
    assert all(name.startswith("backbone.") for name in halves)
    assert not any("norm" in name or "pos_embed" in name or "lora" in name for name in halves)


def test_nothing_changes_where_the_backbone_is_trained() -> None:
    built = network("full")
    before = size_of(built)
    prepare_for_training(built, TrainingConfig(), torch.bfloat16)
    assert size_of(built) == before
    assert {parameter.dtype for parameter in built.parameters()} == {torch.float32}


def test_a_step_is_the_optimisers_with_clipped_gradients_and_marks_its_passes() -> None:
    torch.manual_seed(0)
    stepped, by_hand = nn.Linear(3, 1), nn.Linear(3, 1)
    by_hand.load_state_dict(stepped.state_dict())
    data, target = 100 * torch.rand(4, 3), torch.rand(4, 1)
    optimizers = [torch.optim.SGD(of.parameters(), lr=0.1) for of in (stepped, by_hand)]
    gradients_there: list[bool] = []
    loss = training_step(
        stepped,
        nn.functional.mse_loss,
        optimizers[0],
        data,
        target,
        autocast=nullcontext(),
        grad_clip=1.0,
        mark=lambda: gradients_there.append(stepped.weight.grad is not None),
    )
    expected = nn.functional.mse_loss(by_hand(data), target)
    expected.backward()
    assert nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0) > 1
    optimizers[1].step()
    assert gradients_there == [False, True]
    assert not loss.requires_grad
    assert torch.equal(loss, expected)
    assert torch.equal(stepped.weight, by_hand.weight)
