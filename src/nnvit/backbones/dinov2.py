"""DINOv2 (Oquab et al. 2023, arXiv 2304.07193): ViT-S to ViT-g, patch 14, with or without registers."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from nnvit.types import Converted, DefaultWeights, State

from ._timm_vit import ModelAndWeights, ViTFamily, create, renamed

_PAGE = "https://github.com/facebookresearch/dinov2"
_NAMES = {"register_tokens": "reg_token", ".mlp.w12.": ".mlp.fc1.", ".mlp.w3.": ".mlp.fc2."}


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


@dataclass(kw_only=True)
class Family(ViTFamily):
    """registers: the models with four register tokens (Darcet et al. 2023, arXiv 2309.16588)."""

    registers: bool = False

    SIZES: ClassVar = {"small": 12, "base": 12, "large": 24, "giant": 40}
    VARIANTS = ({"registers": True},)
    LAYOUTS = (_hub,)

    def model_and_weights(self, size: str) -> ModelAndWeights:
        """Builds a DINOv2 ViT with random weights, its position embeddings on the native 37 x 37 grid (518 px)."""
        registers = "reg4_" if self.registers else ""
        name = f"vit_{size}_patch14_{registers}dinov2"
        file = f"dinov2_vit{size[0]}14_{registers}pretrain.pth"
        weights = DefaultWeights(file=file, hub=f"timm/{name}.lvd142m", licence="apache-2.0", page=_PAGE)
        return create(name), weights
