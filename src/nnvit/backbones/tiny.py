"""Real backbones of four blocks and width 32, for tests and dry runs on a laptop. They have no pretrained weights.

Adapters on size `mit` need `lora.target_modules=[q_proj,v_proj]`: LORA_TARGETS are those of the plain ViTs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer

from ._family import check_size, imagenet_statistics, taps_by_depth
from ._timm_vit import TimmViT, ViTArgs
from .mit import MiT
from .mit import create as create_mit

LORA_TARGETS = ("qkv",)
VARIANTS = ()
LAYOUTS = ()

_COMMON: dict[str, Any] = {
    "patch_size": 16,
    "embed_dim": 32,
    "depth": 4,
    "num_heads": 2,
    "num_classes": 0,
    "global_pool": "",
}
_DINOV3: dict[str, Any] = {
    "rope_type": "dinov3",
    "use_rot_pos_emb": True,
    "use_abs_pos_emb": False,
    "num_reg_tokens": 4,
    "qkv_bias": False,
}

_DINOV2: dict[str, Any] = {"patch_size": 14, "init_values": 1e-5, "reg_tokens": 4, "no_embed_class": True}


def _vit() -> VisionTransformer:
    """A ViT with learned positions, as in most families."""
    return VisionTransformer(img_size=64, dynamic_img_size=True, **_COMMON)


def _vit14() -> VisionTransformer:
    """DINOv2's kind: patch 14, layer scale, registers."""
    return VisionTransformer(img_size=56, dynamic_img_size=True, **_COMMON | _DINOV2)


def _eva() -> Eva:
    """DINOv3's kind: rotary positions, registers."""
    return Eva(img_size=64, dynamic_img_size=True, rope_rotate_half=True, init_values=1e-5, **_COMMON, **_DINOV3)


def _mit() -> Any:
    """SegFormer's hierarchical encoder: one block in each of four stages."""
    return create_mit((16, 16, 32, 32), (1, 1, 1, 1), heads=(1, 1, 2, 2))


# one of each class that the families are made of
SIZES: dict[str, Callable[[], Any]] = {"vit": _vit, "vit14": _vit14, "eva": _eva, "mit": _mit}


@dataclass(kw_only=True)
class Args(ViTArgs):
    """final_norm: has no effect on size `mit`, whose stages end in norms of their own."""


resolve_taps = taps_by_depth("tiny", dict.fromkeys(SIZES, 4), {4: [0, 1, 2, 3]})
statistics = imagenet_statistics


def build(size: str, taps: Sequence[int], args: Args) -> TimmViT | MiT:
    """Builds a tiny backbone with random weights."""
    check_size("tiny", size, SIZES)
    create = SIZES[size]
    if size == "mit":
        return MiT(create(), taps, family="tiny", size=size)
    return TimmViT(create(), taps, family="tiny", size=size, final_norm=args.final_norm)
