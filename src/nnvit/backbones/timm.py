"""Any plain ViT of timm by name: `model.backbone=timm model.backbone_size=vit_base_patch16_224`."""

from collections.abc import Sequence
from typing import Any

import timm
import torch

from nnvit.types import DefaultWeights

from ._family import PUBLISHED_TAPS, check_taps
from ._timm_vit import TimmViT, ViTArgs, create

LORA_TARGETS = ("qkv",)
SIZES = ()  # any name of timm's
VARIANTS = ()
LAYOUTS = ()
Args = ViTArgs  # timm's model names say the rest


def resolve_taps(size: str, taps: Sequence[int] | None) -> list[int]:
    """Returns the tapped blocks of a timm model. Raises ConfigError for a name that is not a plain ViT."""
    with torch.device("meta"):  # allocates no weights
        depth = len(create(size).blocks)
    return check_taps(depth, taps, PUBLISHED_TAPS.get(depth))


def statistics(size: str, args: ViTArgs) -> dict[str, list[float]]:
    """Returns those that timm names for the model, for values in 0..1."""
    config = timm.get_pretrained_cfg(size, allow_unregistered=False)
    assert config is not None
    return {"mean": list(config.mean), "std": list(config.std)}


def build(size: str, taps: Sequence[int], args: ViTArgs) -> TimmViT:
    """Builds the timm model `size` with random weights."""
    model = create(size)
    config: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    hub = config.get("hf_hub_id")
    weights = DefaultWeights(file=f"{size}.safetensors", hub=str(hub), licence=str(config.get("license") or "unknown"))
    return TimmViT(
        model,
        taps,
        family="timm",
        size=size,
        default_weights=weights if hub else None,
        final_norm=args.final_norm,
    )
