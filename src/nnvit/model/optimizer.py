"""Optimiser and schedule, built alike for every network."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nnvit.recipe.schema import TrainingConfig

from .segmenter import Segmenter


def param_groups(network: nn.Module, training: TrainingConfig) -> list[dict[str, Any]]:
    """Trainable parameters grouped by learning rate and weight decay, in the network's own order.

    Parameters that the network places in a backbone (`depth_of`) take `backbone_lr`, decayed by depth as in BEiT
    (arXiv 2106.08254, A): what is deepest (a ViT's final norm, MiT's last block) keeps it, each block before is multiplied by
    layer_decay once more, the embedding most often.
    """
    depth_of = network.depth_of if isinstance(network, Segmenter) else lambda name: None
    deepest = max((depth_of(name) or 0 for name, _ in network.named_parameters()), default=0)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        depth = depth_of(name)
        lr = training.lr if depth is None else training.backbone_lr * training.layer_decay ** (deepest - depth)
        decays = parameter.ndim > 1 or training.decay_norms_and_biases
        groups.setdefault((lr, training.weight_decay if decays else 0.0), []).append(parameter)
    # The head's group comes first: it is the one whose rate nnU-Net logs and plots.
    ordered = sorted(groups.items(), key=lambda item: item[0][0] != training.lr)
    return [{"params": params, "lr": lr, "weight_decay": decay} for (lr, decay), params in ordered]


def build_optimizer(network: nn.Module, training: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW or SGD over `param_groups`."""
    groups = param_groups(network, training)
    if training.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=training.lr, fused=True)
    return torch.optim.SGD(groups, lr=training.lr, momentum=training.momentum, nesterov=training.nesterov)


class EpochSchedule:
    """Sets each group's learning rate from its own base rate; stateless, so that resuming needs only the epoch.

    Linear warm-up over `warmup_epochs`, then (1 - t)^0.9 or half a cosine over the remaining epochs. Without warm-up the
    polynomial equals nnU-Net's PolyLRScheduler to the last bit.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, training: TrainingConfig) -> None:
        self.optimizer = optimizer
        self.training = training
        self.base = [group["lr"] for group in optimizer.param_groups]
        self.step(0)

    def factor(self, epoch: int) -> float:
        """The share of the base rate that epoch `epoch` (from 0) trains with."""
        warmup = min(self.training.warmup_epochs, self.training.num_epochs - 1)
        if epoch < warmup:
            return (epoch + 1) / warmup
        t = (epoch - warmup) / (self.training.num_epochs - warmup)
        return (1 - t) ** 0.9 if self.training.schedule == "poly" else (1 + math.cos(math.pi * t)) / 2

    def step(self, epoch: int) -> None:
        """Sets the rates of epoch `epoch`."""
        for group, base in zip(self.optimizer.param_groups, self.base, strict=True):
            group["lr"] = base * self.factor(epoch)


class WeightAverage:
    """The running mean of what is trained (parameters, and buffers such as batch norm's), kept beside the network.

    Only what changes is kept twice, so that a frozen backbone costs nothing; torch's and timm's averages copy the whole
    network. decay: of each update, less in the first ones, (1 + n) / (10 + n), so that the start is forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay, self.updates = network, decay, 0
        self.mean = {name: value.detach().clone() for name, value in self._changing().items()}

    @torch.no_grad()
    def update(self) -> None:
        """After each step of the optimiser."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, value in self._changing().items():
            self.mean[name].lerp_(value.detach(), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the network holds the mean; afterwards its own weights again."""
        own = self.trained()
        self._fill(self.mean)
        try:
            yield
        finally:
            self._fill(own)

    def trained(self) -> dict[str, Tensor]:
        """A copy of the network's own values of what is averaged."""
        return {name: value.detach().clone() for name, value in self._changing().items()}

    def restore(self, trained: dict[str, Tensor], updates: int) -> None:
        """From a checkpoint: the network holds the mean, and takes its own weights back."""
        self.updates, self.mean = updates, self.trained()
        self._fill(trained)

    @torch.no_grad()
    def _fill(self, values: dict[str, Tensor]) -> None:
        for name, target in self._changing().items():
            target.copy_(values[name])

    def _changing(self) -> dict[str, Tensor]:
        parameters = {name: p for name, p in self.network.named_parameters() if p.requires_grad}
        held = self.network.state_dict(keep_vars=True)
        buffers = {n: b for n, b in self.network.named_buffers() if n in held and b.is_floating_point()}
        return parameters | buffers
