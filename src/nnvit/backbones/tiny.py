"""Real ViTs of four blocks and width 32, so that tests and dry runs fit on a laptop. They have no pretrained weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer

from ._timm_vit import IMAGENET, TimmViT, check_taps, known_size

LORA_TARGETS = ("qkv",)

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

# the two classes that all families are made of: learned positions, and rotary ones with registers
SIZES: dict[str, Callable[[], VisionTransformer | Eva]] = {
    "vit": lambda: VisionTransformer(img_size=64, dynamic_img_size=True, **_COMMON),
    "eva": lambda: Eva(
        img_size=64, dynamic_img_size=True, rope_rotate_half=True, init_values=1e-5, **_COMMON, **_DINOV3
    ),
}


@dataclass(kw_only=True)
class Args:
    """No keys of its own."""


def resolve_taps(size: str, taps: Sequence[int] | None) -> list[int]:
    """All four blocks, unless others are asked for."""
    known_size("tiny", size, SIZES)
    return check_taps(4, taps, [0, 1, 2, 3])


def statistics(size: str, args: Args) -> dict[str, list[float]]:
    """Mean and standard deviation of the three channels, for values in 0..1."""
    return IMAGENET


def build(size: str, taps: Sequence[int], args: Args) -> TimmViT:
    """A tiny ViT with random weights."""
    known_size("tiny", size, SIZES)
    return TimmViT(SIZES[size](), taps, family="tiny", size=size)
