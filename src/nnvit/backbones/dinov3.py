"""DINOv3 (Siméoni et al. 2025, arXiv 2508.10104): ViT-S to ViT-7B, patch 16, four registers, rotary positions."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..types import DefaultWeights
from ._timm_vit import IMAGENET, TimmViT, check_taps, create, known_size

LORA_TARGETS = ("qkv",)

# size -> blocks, and Meta's file with the start of its sha256, as the hub's own loader names them
SIZES = {
    "small": (12, "dinov3_vits16_pretrain_lvd1689m", "08c60483"),
    "small_plus": (12, "dinov3_vits16plus_pretrain_lvd1689m", "4057cbaa"),
    "base": (12, "dinov3_vitb16_pretrain_lvd1689m", "73cec8be"),
    "large": (24, "dinov3_vitl16_pretrain_lvd1689m", "8aa4cbdd"),
    "huge_plus": (32, "dinov3_vith16plus_pretrain_lvd1689m", "7c1da9a5"),
    "7b": (40, "dinov3_vit7b16_pretrain_lvd1689m", "a955f4ea"),
}
# The paper's evaluations of ViT-L read block 4 where earlier work read block 5.
TAPS = {12: [2, 5, 8, 11], 24: [4, 11, 17, 23], 32: [7, 15, 23, 31], 40: [9, 19, 29, 39]}


@dataclass(kw_only=True)
class Args:
    """qkv_bias: build the attention with query and value biases, for checkpoints whose biases are not zero."""

    qkv_bias: bool = False


def resolve_taps(size: str, taps: Sequence[int] | None) -> list[int]:
    """The tapped blocks of one size, written out. Raises ConfigError for a size or a block that does not exist."""
    known_size("dinov3", size, SIZES)
    depth = SIZES[size][0]
    return check_taps(depth, taps, TAPS[depth])


def statistics(size: str, args: Args) -> dict[str, list[float]]:
    """Mean and standard deviation of the three channels, for values in 0..1."""
    return IMAGENET


def build(size: str, taps: Sequence[int], args: Args) -> TimmViT:
    """A DINOv3 ViT with random weights."""
    known_size("dinov3", size, SIZES)
    _, file, sha256 = SIZES[size]
    name = f"vit_{size}_patch16_dinov3"
    model = create(name, qkv_bias=args.qkv_bias)
    weights = DefaultWeights(file=f"{file}-{sha256}.pth", sha256=sha256, hub=f"timm/{name}.lvd1689m", licence="dinov3")
    return TimmViT(model, taps, family="dinov3", size=size, default_weights=weights)
