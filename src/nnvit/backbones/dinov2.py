"""DINOv2 (Oquab et al. 2023, arXiv 2304.07193): ViT-S to ViT-g, patch 14, with or without registers."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from nnvit.types import Converted, DefaultWeights, State

from ._family import check_size, imagenet_statistics, renamed, taps_by_depth
from ._timm_vit import TimmViT, ViTArgs, create

LORA_TARGETS = ("qkv",)

PAGE = "https://github.com/facebookresearch/dinov2"

SIZES = {"small": 12, "base": 12, "large": 24, "giant": 40}
"""Size -> blocks."""

VARIANTS = ({"registers": True},)

_NAMES = {"register_tokens": "reg_token", ".mlp.w12.": ".mlp.fc1.", ".mlp.w3.": ".mlp.fc2."}


@dataclass(kw_only=True)
class Args(ViTArgs):
    """registers: the models with four register tokens (Darcet et al. 2023, arXiv 2309.16588)."""

    registers: bool = False


def _hub(state: State, names: Collection[str]) -> Converted | None:
    """Files of facebookresearch/dinov2 and RETFound's DINOv2 teacher, chunked for FSDP or not -> timm's VisionTransformer."""
    if not any(re.match(r"(mask_token|register_tokens)$|blocks\.\d+\.(\d+|mlp\.w12)\.", key) for key in state):
        return None
    # blocks.CHUNK.BLOCK.rest -> blocks.BLOCK.rest: BLOCK counts through all chunks
    unchunked = {re.sub(r"^blocks\.\d+\.(?=\d+\.)", "blocks.", key): tensor for key, tensor in state.items()}
    converted = {renamed(key, _NAMES): tensor for key, tensor in unchunked.items()}
    dropped = ("mask_token",) if converted.pop("mask_token", None) is not None else ()
    if {"reg_token", "cls_token", "pos_embed"} <= converted.keys():
        # With registers, timm adds positions to the patches only; the class token's position is a constant.
        positions_1ND = converted["pos_embed"]
        converted["cls_token"] = converted["cls_token"] + positions_1ND[:, :1]
        converted["pos_embed"] = positions_1ND[:, 1:]
    return Converted(
        layout="DINOv2 hub",
        state=converted,
        dropped=dropped,
        ambiguity="every DINOv2 ViT of this size has this layout, whatever images it was trained on",
    )


LAYOUTS = (_hub,)
resolve_taps = taps_by_depth("dinov2", SIZES)
statistics = imagenet_statistics


def build(size: str, taps: Sequence[int], args: Args) -> TimmViT:
    """Builds a DINOv2 ViT with random weights, its position embeddings on the native 37 x 37 grid (518 px)."""
    check_size("dinov2", size, SIZES)
    registers = "reg4_" if args.registers else ""
    name = f"vit_{size}_patch14_{registers}dinov2"
    file = f"dinov2_vit{size[0]}14_{registers}pretrain.pth"
    weights = DefaultWeights(file=file, hub=f"timm/{name}.lvd142m", licence="apache-2.0", page=PAGE)
    return TimmViT(create(name), taps, family="dinov2", size=size, default_weights=weights, final_norm=args.final_norm)
