"""What is not trained need not be kept in fp32: under autocast its products are made in 16 bits anyway."""

import torch
from torch import nn

from .segmenter import Segmenter

CAST = (nn.Linear, nn.Conv2d)
"""Whose weights and biases autocast would cast at every step. Norms, embeddings, scales and tokens stay as they are."""


def keep_frozen_in(network: Segmenter, dtype: torch.dtype) -> int:
    """Stores the frozen linear and convolutional layers of the backbone in `dtype`, in place; gives the bytes saved.

    dtype: that of the autocast which the network is run under; without one the layers would not take fp32 maps.
    The layers of adapters, which are trained, keep theirs; so does the whole backbone where it is trained.
    """
    saved = 0
    for module in network.backbone.modules():
        own = list(module.parameters(recurse=False))
        if type(module) in CAST and not any(parameter.requires_grad for parameter in own):
            before = _bytes(own)
            module.to(dtype)
            saved += before - _bytes(list(module.parameters(recurse=False)))
    return saved


def _bytes(parameters: list[nn.Parameter]) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)
