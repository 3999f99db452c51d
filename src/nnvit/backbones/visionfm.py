"""VisionFM (Qiu et al. 2024, arXiv 2310.04992): one iBOT ViT-B/16 for each of eight kinds of eye images."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from nnvit.types import Converted, DefaultWeights, State

from ._timm_vit import ModelAndWeights, ViTFamily, create

_LICENCE = "cc-by-nc-4.0"
_PAGE = "https://github.com/ABILab-CUHK/VisionFM"

# modality -> the publisher's file (in its own spelling), mean and std of values in 0..1; one number means three equal ones
MODALITIES = {
    "fundus": ("Fundus", (0.4237, 0.2609, 0.1284), (0.2948, 0.2017, 0.1367)),
    "oct": ("OCT", (0.2109,), (0.1760,)),
    "ffa": ("FFA", (0.2020,), (0.1741,)),
    "mri": ("MRI", (0.1737,), (0.1620,)),
    "ubm": ("UBM", (0.0961,), (0.2098,)),
    "ultrasound": ("UltraSound", (0.0599, 0.0598, 0.0567), (0.1543, 0.1550, 0.1446)),
    "external_eye": ("External", (0.4936, 0.3632, 0.2596), (0.3200, 0.2711, 0.2199)),
    "slit_lamp": ("SiltLamp", (0.5557, 0.4029, 0.3886), (0.2652, 0.2331, 0.2390)),
}


def _ibot(state: State, names: Collection[str]) -> Converted:
    """Files of ABILab-CUHK/VisionFM -> timm's VisionTransformer, whose names they share."""
    dropped = tuple(key for key in state if key == "masked_embed" or (key.startswith("head") and key not in names))
    return Converted(
        layout="VisionFM (iBOT)",
        state={key: tensor for key, tensor in state.items() if key not in dropped},
        dropped=dropped,
        ambiguity="every plain ViT of this size has this layout, whatever images it was trained on: VisionFM's eight"
        " modalities, ImageNet's",
    )


@dataclass(kw_only=True)
class Family(ViTFamily):
    """modality: the kind of images that the encoder was trained on; it sets the statistics and the default file."""

    modality: str = "fundus"

    SIZES: ClassVar = {"base": 12}
    VARIANTS = tuple({"modality": modality} for modality in list(MODALITIES)[1:])
    LAYOUTS = (_ibot,)

    def __post_init__(self) -> None:
        self.check_choice("modality", MODALITIES)

    def statistics(self, size: str) -> dict[str, list[float]]:
        """Returns those of the modality, for values in 0..1."""
        _, mean, std = MODALITIES[self.modality]
        return {key: list(values) * (3 // len(values)) for key, values in (("mean", mean), ("std", std))}

    def model_and_weights(self, size: str) -> ModelAndWeights:
        """Builds a ViT-B/16 with random weights, its position embeddings on the native 14 x 14 grid (224 px)."""
        weights = DefaultWeights(file=f"VFM_{MODALITIES[self.modality][0]}_weights.pth", licence=_LICENCE, page=_PAGE)
        return create("vit_base_patch16_224"), weights
