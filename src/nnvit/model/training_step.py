"""Preparing a network for training, and one training step: used by the trainer and by the estimate of memory and time."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from nnvit.recipe.schema import TrainingConfig

from .optimizer import WeightAverage
from .segmenter import Segmenter

_CAST = (nn.Linear, nn.Conv2d)
"""Layers whose weights and biases autocast casts at every step. Norms, embeddings, scales and tokens stay in fp32."""


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
    if dtype is not None:
        _store_frozen_layers_in(dtype, network.backbone)


def _store_frozen_layers_in(dtype: torch.dtype, backbone: nn.Module) -> None:
    """Stores the frozen linear and convolutional layers in `dtype`, in which autocast computes their products anyway.

    The layers of adapters, which are trained, stay in fp32, and so does the whole backbone if it is trained.
    """
    for module in backbone.modules():
        own = list(module.parameters(recurse=False))
        if type(module) in _CAST and not any(parameter.requires_grad for parameter in own):
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
    optimizer.zero_grad(set_to_none=True)
    with autocast:
        value = loss(network(data), target)
    mark()
    (value if scaler is None else scaler.scale(value)).backward()
    mark()
    if scaler is not None:
        scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(network.parameters(), grad_clip)
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
    if average is not None:
        average.update()
    return value.detach()
