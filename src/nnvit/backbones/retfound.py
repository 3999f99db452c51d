"""RETFound (Zhou et al. 2023, doi 10.1038/s41586-023-06555-x): ViT-L trained on retinal images, by MAE or by DINOv2."""

from collections.abc import Sequence
from dataclasses import dataclass

from nnvit.errors import ConfigError
from nnvit.types import DefaultWeights

from ._choices import one_of
from ._timm_vit import IMAGENET, PUBLISHED_TAPS, TimmViT, ViTArgs, check_taps, create, known_size

LORA_TARGETS = ("qkv",)

SIZES = {"large": 24}

LICENCE = "cc-by-nc-4.0"
PAGE = "https://github.com/rmaphoh/RETFound"

# variant -> timm's model, its patch, the publisher's file of colour photographs (its hub repository has the same name),
# and the start of its sha256 where known
KINDS = {
    "mae": ("vit_large_patch16_224", 16, "RETFound_mae_natureCFP", "e1e4f66a1b792eeb"),
    "dinov2": ("vit_large_patch14_dinov2", 14, "RETFound_dinov2_meh", ""),
}

# what `nnvit weights check` tries
VARIANTS = ({"variant": "mae"}, {"variant": "dinov2"}, {"variant": "dinov2", "img_size": 518})


@dataclass(kw_only=True)
class Args(ViTArgs):
    """variant: how it was trained, mae (patch 16) or dinov2 (patch 14).

    img_size: pixels a side that the file's position embeddings were trained for, 224 or, as RETFound_dinov2_meh is
    published, 518; images may have any size.
    """

    variant: str = "mae"
    img_size: int = 224

    def __post_init__(self) -> None:
        one_of("variant", self.variant, KINDS)
        patch = KINDS[self.variant][1]
        if self.img_size < patch or self.img_size % patch:
            raise ConfigError(
                f"model.backbone_args.img_size={self.img_size} must be a multiple of the patch size, {patch}; published"
                " files have 224, and 518 with patch 14."
            )


def resolve_taps(size: str, taps: Sequence[int] | None) -> list[int]:
    """The tapped blocks of one size, written out. Raises ConfigError for a size or a block that does not exist."""
    known_size("retfound", size, SIZES)
    return check_taps(SIZES[size], taps, PUBLISHED_TAPS[SIZES[size]])


def statistics(size: str, args: Args) -> dict[str, list[float]]:
    """Mean and standard deviation of the three channels, for values in 0..1."""
    return IMAGENET


def build(size: str, taps: Sequence[int], args: Args) -> TimmViT:
    """A ViT-L with random weights, its position embeddings on the grid of `img_size`."""
    known_size("retfound", size, SIZES)
    name, _, file, sha256 = KINDS[args.variant]
    weights = DefaultWeights(file=f"{file}.pth", sha256=sha256, hub=f"YukunZhou/{file}", licence=LICENCE, page=PAGE)
    model = create(name, img_size=args.img_size)
    return TimmViT(model, taps, family="retfound", size=size, default_weights=weights, final_norm=args.final_norm)
