"""The parts that train a network: optimiser, learning-rate schedule, running mean of the weights, and one step.

Used by the trainer and by the estimate of memory and time.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nnvit.recipe.schema import TrainingConfig

from .segmenter import Segmenter

_CAST = (nn.Linear, nn.Conv2d)
"""Layers whose weights and biases autocast casts at every step. Norms, embeddings, scales and tokens stay in fp32."""


def _param_groups(network: nn.Module, training: TrainingConfig) -> list[dict[str, Any]]:
    """Groups the trainable parameters by learning rate and weight decay, in the network's own order.

    Parameters of the backbone (`depth_of`) take `backbone_lr`, decayed by depth as in BEiT (arXiv 2106.08254, A): the deepest
    ones (a ViT's final norm, MiT's last block) keep it, each earlier block is multiplied by layer_decay once more, the embedding
    most often.
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
    # The head's group comes first, because nnU-Net logs and plots the first group's rate.
    ordered = sorted(groups.items(), key=lambda item: item[0][0] != training.lr)
    return [{"params": params, "lr": lr, "weight_decay": decay} for (lr, decay), params in ordered]


def build_optimizer(network: nn.Module, training: TrainingConfig) -> torch.optim.Optimizer:
    """Returns AdamW or SGD over groups with their own learning rate and weight decay; the first group is the head's."""
    groups = _param_groups(network, training)
    if training.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=training.lr, fused=True)
    return torch.optim.SGD(groups, lr=training.lr, momentum=training.momentum, nesterov=training.nesterov)


class EpochSchedule:
    """Sets each group's learning rate from its own base rate; it is stateless, so that resuming needs only the epoch.

    Linear warm-up over `warmup_epochs`, then (1 - t)^0.9 or half a cosine over the remaining epochs. Without warm-up the
    polynomial equals nnU-Net's PolyLRScheduler to the last bit.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, training: TrainingConfig) -> None:
        self.optimizer = optimizer
        self.training = training
        self.base = [group["lr"] for group in optimizer.param_groups]
        self.step(0)

    def factor(self, epoch: int) -> float:
        """Returns the factor on the base rates in epoch `epoch`, counted from 0."""
        warmup = min(self.training.warmup_epochs, self.training.num_epochs - 1)
        if epoch < warmup:
            return (epoch + 1) / warmup
        t = (epoch - warmup) / (self.training.num_epochs - warmup)
        return (1 - t) ** 0.9 if self.training.schedule == "poly" else (1 + math.cos(math.pi * t)) / 2

    def step(self, epoch: int) -> None:
        """Sets the rates for epoch `epoch`."""
        for group, base in zip(self.optimizer.param_groups, self.base, strict=True):
            group["lr"] = base * self.factor(epoch)


class WeightAverage:
    """Keeps the running mean of what training changes: trained parameters, and buffers such as batch norm's.

    A frozen backbone is not kept twice; torch's and timm's averages copy the whole network. decay: weight of the old mean in an
    update; in update n from 0 it is at most (1 + n) / (10 + n), so that the initial weights are forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay, self.updates = network, decay, 0
        self.mean = {name: value.detach().clone() for name, value in self._changing().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Takes the network's present values into the mean; to be called after each step of the optimiser."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for name, value in self._changing().items():
            self.mean[name].lerp_(value.detach(), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Gives the network the mean within the context, and its own weights back at the end."""
        own = self.trained()
        self._fill(self.mean)
        try:
            yield
        finally:
            self._fill(own)

    def trained(self) -> dict[str, Tensor]:
        """Returns a copy of the network's present values of what is averaged."""
        return {name: value.detach().clone() for name, value in self._changing().items()}

    def restore(self, trained: dict[str, Tensor], updates: int) -> None:
        """Restores a checkpoint: takes the mean from the network, which was loaded with it, and gives it the trained weights."""
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


def prepare_for_training(network: nn.Module, training: TrainingConfig, dtype: torch.dtype | None) -> None:
    """Applies, in place, what concerns training alone and is no part of the architecture.

    This is drop path, gradient checkpointing, and the frozen layers' storage in the dtype of autocast (None: fp32
    throughout). Networks other than `Segmenter` stay as they are. Call it before DDP wraps the network.
    """
    if not isinstance(network, Segmenter):
        return
    if training.drop_path:
        network.backbone.set_drop_path(training.drop_path)
    if training.grad_checkpointing:
        network.backbone.set_grad_checkpointing(True)
    for module in network.backbone.modules() if dtype is not None else ():
        if type(module) in _CAST and not any(own.requires_grad for own in module.parameters(recurse=False)):
            module.to(dtype)


def training_step(
    network: nn.Module,
    loss: Callable[[Any, Any], Tensor],
    optimizer: torch.optim.Optimizer,
    data: Tensor,
    target: Any,
    *,
    autocast: AbstractContextManager[object],
    grad_clip: float,
    scaler: torch.amp.GradScaler | None = None,
    average: WeightAverage | None = None,
    mark: Callable[[], None] = lambda: None,
) -> Tensor:
    """Makes one step, as nnU-Net's `train_step` does, and returns the detached loss.

    data: (B, C, *patch), target: whatever `loss` takes beside the network's output; both on the network's device.
    autocast: the context of the forward pass and the loss. grad_clip: largest norm of all gradients together. scaler: of the
    gradients, for fp16. average: updated after the optimiser. mark: called after the forward and after the backward pass.
    """
    scaler = scaler or torch.amp.GradScaler(enabled=False)  # which scales nothing and steps as the optimiser does
    optimizer.zero_grad(set_to_none=True)
    with autocast:
        value = loss(network(data), target)
    mark()
    scaler.scale(value).backward()
    mark()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(network.parameters(), grad_clip)
    scaler.step(optimizer)
    scaler.update()
    if average is not None:
        average.update()
    return value.detach()
