"""A network of fake tensors, which have shapes and storages but hold no numbers: nothing is allocated, nothing computed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

_Network = TypeVar("_Network", bound=nn.Module)


@contextmanager
def fake_network(build: Callable[[], _Network]) -> Iterator[_Network]:
    """Yields the network that `build` makes, with fake CPU tensors, in fake tensor mode; even a ViT-7B fits anywhere.

    `build` is called on the meta device. Shapes, dtypes and `requires_grad` are kept.
    """
    with torch.device("meta"):
        network = build()
    with FakeTensorMode():
        for module in network.modules():  # `Module._apply` fails on those that nnU-Net's networks hold under two names
            for name, parameter in module.named_parameters(recurse=False):
                made = torch.empty(parameter.shape, dtype=parameter.dtype)
                module._parameters[name] = nn.Parameter(made, requires_grad=parameter.requires_grad)
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
        yield network
