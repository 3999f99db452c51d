"""Real backbones of four blocks and width 32, for tests and dry runs on a laptop. They have no pretrained weights.

Adapters on size `mit` need `lora.target_modules=[q_proj,v_proj]`: LORA_TARGETS are those of the plain ViTs.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer

from nnvit.types import Backbone

from ._timm_vit import Network, ViTFamily
from .mit import MiT

_COMMON: dict[str, Any] = {
    "patch_size": 16,
    "embed_dim": 32,
    "depth": 4,
    "num_heads": 2,
    "num_classes": 0,
    "global_pool": "",
    "dynamic_img_size": True,
}
_DINOV2: dict[str, Any] = {
    "img_size": 56,
    "patch_size": 14,
    "init_values": 1e-5,
    "reg_tokens": 4,
    "no_embed_class": True,
}
_DINOV3: dict[str, Any] = {
    "rope_type": "dinov3",
    "rope_rotate_half": True,
    "use_rot_pos_emb": True,
    "use_abs_pos_emb": False,
    "num_reg_tokens": 4,
    "qkv_bias": False,
}

# one of each class that the families are made of
_NETWORKS: dict[str, Callable[[], Any]] = {
    "vit": partial(VisionTransformer, img_size=64, **_COMMON),  # learned positions, as in most families
    "vit14": partial(VisionTransformer, **_COMMON | _DINOV2),  # patch 14, layer scale, registers
    "eva": partial(Eva, img_size=64, init_values=1e-5, **_COMMON, **_DINOV3),  # rotary positions, registers
    "mit": partial(MiT.create, (16, 16, 32, 32), (1, 1, 1, 1), heads=(1, 1, 2, 2)),  # one block in each of four stages
}


class Family(ViTFamily):
    """No keys of its own; final_norm has no effect on size `mit`, whose stages end in norms of their own."""

    SIZES: ClassVar = dict.fromkeys(_NETWORKS, 4)

    def network(self, size: str) -> Network:
        """Builds a tiny ViT with random weights."""
        return _NETWORKS[size](), None

    def build(self, size: str, taps: Sequence[int]) -> Backbone:
        """Builds a tiny backbone with random weights."""
        if size == "mit":
            return MiT(_NETWORKS[size](), taps, family="tiny", size=size)
        return super().build(size, taps)
