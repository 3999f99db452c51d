"""FLOPs of networks, counted by torch; a multiplication and an addition are two."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from .fake_network import fake_network


def flop_counter() -> FlopCounterMode:
    """Returns torch's counter, with formulas for what torch 2.14 counts wrongly or not at all."""
    return FlopCounterMode(display=False, custom_mapping=_FORMULAS)


def forward_flops(build: Callable[[], nn.Module], image: Sequence[int]) -> int:
    """Returns the FLOPs of a prediction by the network that `build` makes, for images (B, C, H, W) or (B, C, D, H, W)."""
    with fake_network(build) as network, torch.no_grad(), flop_counter() as counter:
        network.eval()(torch.empty(*image))
    return counter.get_total_flops()


def _convolution_backward(
    grad_out: Sequence[int], x: Sequence[int], w: Sequence[int], *rest: Any, out_shape: Any = None, **_: Any
) -> int:
    """Counts as many multiplications for each wanted gradient as the convolution took.

    torch's own formula leaves the groups out of the weight's gradient: it counts C times too much for depthwise ones.
    """
    transposed, output_mask = rest[4], rest[7]
    positions = prod((x if transposed else grad_out)[2:])
    return 2 * x[0] * positions * prod(w) * sum(output_mask[:2])


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    """Counts the CPU's fused attention, which torch before 2.15 leaves out."""
    return sdpa_flop_count(query, key, value)


def _attention_backward(
    grad_out: Sequence[int], query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any
) -> int:
    return sdpa_backward_flop_count(grad_out, query, key, value)


_FORMULAS: Any = {
    torch.ops.aten.convolution_backward: _convolution_backward,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
