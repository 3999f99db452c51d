"""DINOv3 (Siméoni et al. 2025, arXiv 2508.10104): ViT-S to ViT-7B, patch 16, four registers, rotary positions."""

from collections.abc import Sequence
from dataclasses import dataclass

from nnvit.errors import ConfigError
from nnvit.types import DefaultWeights

from ._choices import one_of
from ._timm_vit import IMAGENET, TimmViT, ViTArgs, check_taps, create, known_size

LORA_TARGETS = ("qkv",)

PAGE = "https://github.com/facebookresearch/dinov3"

# size -> blocks, and Meta's file with the start of its sha256, as the hub's own loader names them
SIZES = {
    "small": (12, "dinov3_vits16_pretrain_lvd1689m", "08c60483"),
    "small_plus": (12, "dinov3_vits16plus_pretrain_lvd1689m", "4057cbaa"),
    "base": (12, "dinov3_vitb16_pretrain_lvd1689m", "73cec8be"),
    "large": (24, "dinov3_vitl16_pretrain_lvd1689m", "8aa4cbdd"),
    "huge_plus": (32, "dinov3_vith16plus_pretrain_lvd1689m", "7c1da9a5"),
    "7b": (40, "dinov3_vit7b16_pretrain_lvd1689m", "a955f4ea"),
}
# The models trained on satellite images, in the sizes that exist, and the statistics of those images
SATELLITE = {
    "large": (24, "dinov3_vitl16_pretrain_sat493m", "eadcf0ff"),
    "7b": (40, "dinov3_vit7b16_pretrain_sat493m", "a6675841"),
}
SATELLITE_STATISTICS = {"mean": [0.430, 0.411, 0.296], "std": [0.213, 0.156, 0.143]}
DATASETS = {"lvd1689m": SIZES, "sat493m": SATELLITE}

# what `nnvit weights check` tries
VARIANTS = tuple({"dataset": dataset, "qkv_bias": bias} for dataset in DATASETS for bias in (False, True))

# The paper's evaluations of ViT-L read block 4 where earlier work read block 5.
TAPS = {12: [2, 5, 8, 11], 24: [4, 11, 17, 23], 32: [7, 15, 23, 31], 40: [9, 19, 29, 39]}


@dataclass(kw_only=True)
class Args(ViTArgs):
    """qkv_bias: build the attention with query and value biases, for checkpoints whose biases are not zero.

    dataset: what the weights were trained on, lvd1689m (photographs) or sat493m (satellite images; sizes large and 7b).
    """

    qkv_bias: bool = False
    dataset: str = "lvd1689m"

    def __post_init__(self) -> None:
        one_of("dataset", self.dataset, DATASETS)


def resolve_taps(size: str, taps: Sequence[int] | None) -> list[int]:
    """The tapped blocks of one size, written out. Raises ConfigError for a size or a block that does not exist."""
    known_size("dinov3", size, SIZES)
    depth = SIZES[size][0]
    return check_taps(depth, taps, TAPS[depth])


def statistics(size: str, args: Args) -> dict[str, list[float]]:
    """Mean and standard deviation of the three channels, for values in 0..1."""
    return SATELLITE_STATISTICS if args.dataset == "sat493m" else IMAGENET


def build(size: str, taps: Sequence[int], args: Args) -> TimmViT:
    """A DINOv3 ViT with random weights. Raises ConfigError for a size that was not trained on the data set."""
    known_size("dinov3", size, SIZES)
    published = DATASETS[args.dataset]
    if size not in published:
        raise ConfigError(
            f"model.backbone_args.dataset='{args.dataset}' exists for the sizes {', '.join(published)} of dinov3, not"
            f" for '{size}'."
        )
    _, file, sha256 = published[size]
    name = f"vit_{size}_patch16_dinov3"
    model = create(name, qkv_bias=args.qkv_bias)
    weights = DefaultWeights(
        file=f"{file}-{sha256}.pth", sha256=sha256, hub=f"timm/{name}.{args.dataset}", licence="dinov3", page=PAGE
    )
    return TimmViT(model, taps, family="dinov3", size=size, default_weights=weights, final_norm=args.final_norm)
