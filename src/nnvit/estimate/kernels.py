"""What the CPU's kernels take for themselves while they run, beside their arguments and results.

Seen on single layers of 64 to 256 channels, never on whole networks: each layer alone, its resident high-water mark less its
results. Linear layers, attention, norms, activations and resampling take nothing to speak of. Convolutions do:
oneDNN computes on maps in blocks of 16 channels, and reorders those that come channels first.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten
BLOCK = 16


def scratch(operator: Any, arguments: Sequence[Any], out: Any) -> int:
    """Bytes, as `timeline.Timeline` asks for them."""
    if operator is aten.convolution.default:
        return _forward(arguments[0], out, transposed=arguments[6])
    if operator is aten.convolution_backward.default:
        return _backward(*arguments[:3], of_weight=arguments[10][1])
    return 0


def _forward(image: Tensor, out: Tensor, *, transposed: bool) -> int:
    """A reordered input, then the output once in blocks and once as it was asked for."""
    if _channels_last(image):
        return 0
    before, after = _bytes(image), _blocked(out)
    return max(2 * after, before + after) if transposed else max(before, after)


def _backward(gradient: Tensor, image: Tensor, weight: Tensor, *, of_weight: bool) -> int:
    """Both reordered; in bf16 the weight's gradient of more than one position transposes both once more.

    Each thread does so for one image at a time (layers of 48 to 128 channels, batches of 1 to 8, one and two threads).
    """
    both = _bytes(image) + _blocked(gradient)
    reordered = 0 if _channels_last(image) else both
    transposes = of_weight and image.dtype is torch.bfloat16 and prod(weight.shape[2:]) > 1
    at_once = min(len(image), torch.get_num_threads())
    return reordered + transposes * both * at_once // len(image)


def _channels_last(image: Tensor) -> bool:
    layout = torch.channels_last if image.ndim == 4 else torch.channels_last_3d
    return image.ndim in (4, 5) and image.is_contiguous(memory_format=layout) and not image.is_contiguous()


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _blocked(tensor: Tensor) -> int:
    """(B, C, ...) with the channels filled up to whole blocks."""
    channels = tensor.shape[1]
    return _bytes(tensor) // channels * (-(-channels // BLOCK) * BLOCK)
