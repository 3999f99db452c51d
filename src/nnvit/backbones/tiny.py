"""Real backbones of four blocks and width 32, for tests and dry runs on a laptop. They have no pretrained weights.

Adapters on size `mit` need `lora.target_modules=[q_proj,v_proj]`: LORA_TARGETS are those of the plain ViTs.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

from torch import nn

from nnvit.types import Backbone

from ._timm_vit import ModelAndWeights, ViTFamily, create
from .mit import MiT

_SMALL: dict[str, Any] = {"embed_dim": 32, "depth": 4, "num_heads": 2}
# what the first release built in place of DINOv3's temperature of 100 and epsilon of 1e-5
_FIRST_EVA: dict[str, Any] = {"rope_temperature": 1e4, "norm_layer": partial(nn.LayerNorm, eps=1e-6)}

# one of each class that the families are made of
_MODELS: dict[str, Callable[[], Any]] = {
    "vit": partial(create, "vit_tiny_patch16_224", img_size=64, **_SMALL),  # learned positions, as in most families
    "vit14": partial(create, "vit_small_patch14_reg4_dinov2", img_size=56, **_SMALL),  # layer scale, registers
    "eva": partial(create, "vit_small_patch16_dinov3", img_size=64, **_SMALL, **_FIRST_EVA),  # rotary positions
    "mit": partial(MiT.create, (16, 16, 32, 32), (1, 1, 1, 1), heads=(1, 1, 2, 2)),  # one block in each of four stages
}


class Family(ViTFamily):
    """No keys of its own; final_norm has no effect on size `mit`, whose stages end in norms of their own."""

    SIZES: ClassVar = dict.fromkeys(_MODELS, 4)

    def model_and_weights(self, size: str) -> ModelAndWeights:
        """Builds a tiny ViT with random weights."""
        return _MODELS[size](), None

    def build(self, size: str, taps: Sequence[int]) -> Backbone:
        """Builds a tiny backbone with random weights."""
        if size == "mit":
            return MiT(_MODELS[size](), taps, family="tiny", size=size)
        return super().build(size, taps)
