import pytest
import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch import nn

from nnvit.optim import EpochSchedule, build_optimizer, param_groups
from nnvit.schema import TrainingConfig


class Layered(nn.Module):
    """Two backbone layers and a head, which is all that grouping looks at."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        self.head = nn.Linear(2, 2)

    def depth_of(self, name: str) -> int | None:
        return int(name.split(".")[1]) if name.startswith("backbone.") else None


def test_rates_follow_depth_and_decay_spares_norms_and_biases() -> None:
    training = TrainingConfig(lr=1.0, backbone_lr=0.1, layer_decay=0.5, weight_decay=0.2)
    network = Layered()
    found = {
        name: (group["lr"], group["weight_decay"])
        for group in param_groups(network, training)
        for name, parameter in network.named_parameters()
        if any(parameter is p for p in group["params"])
    }
    assert found == {
        "backbone.0.weight": (0.05, 0.2),
        "backbone.0.bias": (0.05, 0.0),
        "backbone.1.weight": (0.1, 0.2),
        "backbone.1.bias": (0.1, 0.0),
        "head.weight": (1.0, 0.2),
        "head.bias": (1.0, 0.0),
    }


def test_what_is_frozen_is_in_no_group() -> None:
    network = Layered()
    network.backbone.requires_grad_(False)
    optimizer = build_optimizer(network, TrainingConfig())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2


def test_the_polynomial_equals_nnunets_to_the_last_bit() -> None:
    ours, theirs = (torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=1e-2) for _ in range(2))
    schedule = EpochSchedule(ours, TrainingConfig(lr=1e-2, warmup_epochs=0, num_epochs=137))
    reference = PolyLRScheduler(theirs, 1e-2, 137)
    for epoch in range(137):
        schedule.step(epoch)
        reference.step(epoch)
        assert ours.param_groups[0]["lr"] == theirs.param_groups[0]["lr"]


@pytest.mark.parametrize("schedule", ["poly", "cosine"])
def test_warmup_rises_to_the_base_rate_and_the_rest_falls(schedule: str) -> None:
    training = TrainingConfig(lr=1.0, warmup_epochs=4, num_epochs=20, schedule=schedule)
    optimizer = build_optimizer(nn.Linear(2, 2), training)
    factors = [EpochSchedule(optimizer, training).factor(epoch) for epoch in range(20)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[4:] == sorted(factors[4:], reverse=True)
    assert 0 < factors[-1] < 0.1


def test_each_group_keeps_its_own_base_rate() -> None:
    training = TrainingConfig(lr=1.0, backbone_lr=0.1, warmup_epochs=0, num_epochs=10)
    optimizer = build_optimizer(Layered(), training)
    EpochSchedule(optimizer, training).step(5)
    assert {round(group["lr"] / 0.5**0.9, 6) for group in optimizer.param_groups} == {0.1, 1.0}
