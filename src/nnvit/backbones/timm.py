"""Any plain ViT of timm by name: `model.backbone=timm model.backbone_size=vit_base_patch16_224`."""

from typing import Any, ClassVar

import timm
import torch

from nnvit.types import DefaultWeights

from ._timm_vit import ModelAndWeights, ViTFamily, create


class Family(ViTFamily):
    """No keys of its own: timm's model names say the rest."""

    SIZES: ClassVar = {}  # any name of timm's

    @classmethod
    def depth(cls, size: str) -> int:
        """Returns the number of blocks of a timm model. Raises ConfigError for a name that is not a plain ViT."""
        with torch.device("meta"):  # allocates no weights
            return len(create(size).blocks)

    def statistics(self, size: str) -> dict[str, list[float]]:
        """Returns those that timm names for the model, for values in 0..1."""
        config = timm.get_pretrained_cfg(size, allow_unregistered=False)
        assert config is not None
        return {"mean": list(config.mean), "std": list(config.std)}

    def model_and_weights(self, size: str) -> ModelAndWeights:
        """Builds the timm model `size` with random weights."""
        model = create(size)
        config: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
        hub, licence = config.get("hf_hub_id"), str(config.get("license") or "unknown")
        weights = DefaultWeights(file=f"{size}.safetensors", hub=str(hub), licence=licence) if hub else None
        return model, weights
