"""Any plain ViT of timm by name: `model.backbone=timm model.backbone_size=vit_base_patch16_224`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import timm

from nnvit.types import DefaultWeights

from ._timm_vit import PUBLISHED_TAPS, TimmViT, ViTArgs, check_taps, create, depth_of

LORA_TARGETS = ("qkv",)


@dataclass(kw_only=True)
class Args(ViTArgs):
    """timm's names say the rest."""


def resolve_taps(size: str, taps: Sequence[int] | None) -> list[int]:
    """The tapped blocks of a timm model, written out. Raises ConfigError for a name that is no plain ViT."""
    depth = depth_of(size)
    return check_taps(depth, taps, PUBLISHED_TAPS.get(depth))


def statistics(size: str, args: Args) -> dict[str, list[float]]:
    """Mean and standard deviation of the three channels that timm names for the model, for values in 0..1."""
    config = timm.get_pretrained_cfg(size, allow_unregistered=False)
    assert config is not None
    return {"mean": list(config.mean), "std": list(config.std)}


def build(size: str, taps: Sequence[int], args: Args) -> TimmViT:
    """The timm model `size` with random weights."""
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
