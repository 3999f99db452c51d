"""DINOv2 (Oquab et al. 2023, arXiv 2304.07193): ViT-S to ViT-g, patch 14, with or without registers."""

from collections.abc import Sequence
from dataclasses import dataclass

from nnvit.types import DefaultWeights

from ._timm_vit import IMAGENET, PUBLISHED_TAPS, TimmViT, ViTArgs, check_taps, create, known_size

LORA_TARGETS = ("qkv",)

PAGE = "https://github.com/facebookresearch/dinov2"

# size -> blocks, and the letter in Meta's file names
SIZES = {"small": (12, "s"), "base": (12, "b"), "large": (24, "l"), "giant": (40, "g")}

# what `nnvit weights check` tries
VARIANTS = ({"registers": False}, {"registers": True})


@dataclass(kw_only=True)
class Args(ViTArgs):
    """registers: the models with four register tokens (Darcet et al. 2023, arXiv 2309.16588)."""

    registers: bool = False


def resolve_taps(size: str, taps: Sequence[int] | None) -> list[int]:
    """The tapped blocks of one size, written out. Raises ConfigError for a size or a block that does not exist."""
    known_size("dinov2", size, SIZES)
    depth = SIZES[size][0]
    return check_taps(depth, taps, PUBLISHED_TAPS[depth])


def statistics(size: str, args: Args) -> dict[str, list[float]]:
    """Mean and standard deviation of the three channels, for values in 0..1."""
    return IMAGENET


def build(size: str, taps: Sequence[int], args: Args) -> TimmViT:
    """A DINOv2 ViT with random weights, its position embeddings on the native 37 x 37 grid (518 px)."""
    known_size("dinov2", size, SIZES)
    letter = SIZES[size][1]
    name = f"vit_{size}_patch14_{'reg4_' if args.registers else ''}dinov2"
    file = f"dinov2_vit{letter}14_{'reg4_' if args.registers else ''}pretrain.pth"
    weights = DefaultWeights(file=file, hub=f"timm/{name}.lvd142m", licence="apache-2.0", page=PAGE)
    return TimmViT(create(name), taps, family="dinov2", size=size, default_weights=weights, final_norm=args.final_norm)
