"""RETFound (Zhou et al. 2023, doi 10.1038/s41586-023-06555-x): ViT-L trained on retinal images, by MAE or by DINOv2."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from nnvit.errors import ConfigError
from nnvit.types import Converted, DefaultWeights, State

from . import dinov2
from ._timm_vit import ModelAndWeights, ViTFamily, create

_LICENCE = "cc-by-nc-4.0"
_PAGE = "https://github.com/rmaphoh/RETFound"

# variant -> timm's model, its patch, the publisher's file for colour photographs (its hub repository has the same name),
# and the start of its sha256, "" if it is not known
_KINDS = {
    "mae": ("vit_large_patch16_224", 16, "RETFound_mae_natureCFP", "e1e4f66a1b792eeb"),
    "dinov2": ("vit_large_patch14_dinov2", 14, "RETFound_dinov2_meh", ""),
}


def _mae(state: State, names: Collection[str]) -> Converted | None:
    """Files of facebookresearch/mae with their decoder, RETFound's among them -> timm's VisionTransformer."""
    dropped = tuple(key for key in state if key.startswith("decoder_") or key == "mask_token")
    if not any(key.startswith("decoder_") for key in dropped):
        return None
    return Converted(
        layout="MAE",
        state={key: tensor for key, tensor in state.items() if key not in dropped},
        dropped=dropped,
        ambiguity="every MAE ViT of this size has this layout, ImageNet's too",
    )


@dataclass(kw_only=True)
class Family(ViTFamily):
    """variant: the training method, mae (patch 16) or dinov2 (patch 14).

    img_size: the image side in pixels that the file's position embeddings were trained for: 224, or 518 for
    RETFound_dinov2_meh as published. Images may have any size.
    """

    variant: str = "mae"
    img_size: int = 224

    SIZES: ClassVar = {"large": 24}
    VARIANTS = ({"variant": "dinov2"}, {"variant": "dinov2", "img_size": 518})
    LAYOUTS = (_mae, *dinov2.Family.LAYOUTS)

    def __post_init__(self) -> None:
        self.check_choice("variant", _KINDS)
        patch = _KINDS[self.variant][1]
        if self.img_size < patch or self.img_size % patch:
            raise ConfigError(
                f"model.backbone_args.img_size={self.img_size} must be a multiple of the patch size, {patch}; published"
                " files have 224, and 518 with patch 14."
            )

    def model_and_weights(self, size: str) -> ModelAndWeights:
        """Builds a ViT-L with random weights, its position embeddings on the grid of `img_size`."""
        name, _, file, sha256 = _KINDS[self.variant]
        hub = f"YukunZhou/{file}"
        weights = DefaultWeights(file=f"{file}.pth", sha256=sha256, hub=hub, licence=_LICENCE, page=_PAGE)
        return create(name, img_size=self.img_size), weights
