import pytest
import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch import nn

from nnvit.model import Segmenter
from nnvit.model.training import EpochSchedule, WeightAverage, _param_groups, build_optimizer
from nnvit.recipe.schema import TrainingConfig


class Layered(Segmenter):
    """Two backbone layers and a head, which is all that grouping reads."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.backbone = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        self.head = nn.Linear(2, 2)

    def depth_of(self, name: str) -> int | None:
        return int(name.split(".")[1]) if name.startswith("backbone.") else None


def test_rates_follow_depth_and_decay_spares_norms_and_biases() -> None:
    training = TrainingConfig(lr=1.0, backbone_lr=0.1, layer_decay=0.5, weight_decay=0.2)
    network = Layered()
    found = {
        name: (group["lr"], group["weight_decay"])
        for group in _param_groups(network, training)
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


class Averaged(nn.Module):
    """A frozen layer, a trained one, and statistics of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.trained = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("constant", torch.ones(2), persistent=False)


def step(network: Averaged, value: float) -> None:
    """Changes what an optimiser's step and a batch norm would change."""
    with torch.no_grad():
        network.trained.weight.fill_(value)
        network.norm.running_mean.fill_(2 * value)  # type: ignore[union-attr]
    network.norm.num_batches_tracked.add_(1)  # type: ignore[union-attr,operator]


def test_the_mean_starts_quickly_and_then_keeps_its_decay() -> None:
    network = Averaged()
    step(network, 0.0)
    average = WeightAverage(network, 0.25)
    expected = torch.tensor(0.0)
    for value, decay in [(1.0, 1 / 10), (2.0, 2 / 11), (3.0, 3 / 12), (4.0, 0.25), (5.0, 0.25)]:
        step(network, value)
        average.update()
        expected = expected.lerp(torch.tensor(value), 1 - decay)
        assert torch.equal(average.mean["trained.weight"], expected.expand(2, 2))
        assert torch.allclose(average.mean["norm.running_mean"], 2 * expected.expand(2), rtol=1e-6)
    assert average.updates == 5


def test_the_mean_keeps_only_what_changes() -> None:
    kept = WeightAverage(Averaged(), 0.9).mean
    trained = {f"{layer}.{name}" for layer in ("trained", "norm") for name in ("weight", "bias")}
    assert kept.keys() == trained | {"norm.running_mean", "norm.running_var"}


def test_the_mean_is_applied_for_a_while_and_does_not_move_with_the_network() -> None:
    network = Averaged()
    step(network, 1.0)
    average = WeightAverage(network, 0.5)
    step(network, 3.0)
    with average.applied():
        assert (network.trained.weight == 1).all()
        assert (network.norm.running_mean == 2).all()
    assert (network.trained.weight == 3).all()
    assert (network.norm.running_mean == 6).all()
    assert (average.mean["trained.weight"] == 1).all()


def test_a_checkpoint_gives_back_the_mean_the_weights_and_the_count() -> None:
    """The network is loaded with the mean, as a checkpoint holds it for prediction."""
    network = Averaged()
    average = WeightAverage(network, 0.5)
    for value in (1.0, 2.0, 3.0):
        step(network, value)
        average.update()
    saved = network.state_dict() | {name: value.clone() for name, value in average.mean.items()}
    again = Averaged()
    again.load_state_dict(saved)
    other = WeightAverage(again, 0.5)
    other.restore(average.trained(), 3)
    for one, two in ((network, average), (again, other)):
        step(one, 4.0)
        two.update()
    assert other.updates == average.updates
    for name, value in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    for name, value in average.mean.items():
        assert torch.equal(other.mean[name], value), name
