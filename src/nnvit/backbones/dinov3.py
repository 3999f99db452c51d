"""DINOv3 (Siméoni et al. 2025, arXiv 2508.10104): ViT-S to ViT-7B, patch 16, four registers, rotary positions."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from nnvit.errors import ConfigError, WeightsError
from nnvit.types import Converted, DefaultWeights, State

from ._timm_vit import ModelAndWeights, ViTFamily, create, renamed

_PAGE = "https://github.com/facebookresearch/dinov3"

# data set -> size -> Meta's file with the start of its sha256, as the hub's own loader names them
DATASETS = {
    "lvd1689m": {
        "small": ("dinov3_vits16_pretrain_lvd1689m", "08c60483"),
        "small_plus": ("dinov3_vits16plus_pretrain_lvd1689m", "4057cbaa"),
        "base": ("dinov3_vitb16_pretrain_lvd1689m", "73cec8be"),
        "large": ("dinov3_vitl16_pretrain_lvd1689m", "8aa4cbdd"),
        "huge_plus": ("dinov3_vith16plus_pretrain_lvd1689m", "7c1da9a5"),
        "7b": ("dinov3_vit7b16_pretrain_lvd1689m", "a955f4ea"),
    },
    # satellite images, in the sizes that exist
    "sat493m": {
        "large": ("dinov3_vitl16_pretrain_sat493m", "eadcf0ff"),
        "7b": ("dinov3_vit7b16_pretrain_sat493m", "a6675841"),
    },
}
_SATELLITE_STATISTICS = {"mean": [0.430, 0.411, 0.296], "std": [0.213, 0.156, 0.143]}

_NAMES = {
    "storage_tokens": "reg_token",
    ".ls1.gamma": ".gamma_1",
    ".ls2.gamma": ".gamma_2",
    ".mlp.w1.": ".mlp.fc1_g.",
    ".mlp.w2.": ".mlp.fc1_x.",
    ".mlp.w3.": ".mlp.fc2.",
}
_UNUSED = re.compile(r"(^mask_token|\.periods|\.bias_mask|^local_cls_norm\..*)$")


def _hub(state: State, names: Collection[str]) -> Converted | None:
    """Files of facebookresearch/dinov3 -> timm's Eva. Rotary tables are not loaded: timm computes them."""
    if "storage_tokens" not in state:
        return None
    converted: State = {}
    dropped = []
    for key, tensor in state.items():
        if key.endswith(".attn.qkv.bias"):
            biases = _biases(state, key, names)
            converted |= biases
            dropped += [] if biases else [key]
        elif _UNUSED.search(key):
            dropped.append(key)
        else:
            converted[renamed(key, _NAMES)] = tensor
    return Converted(
        layout="DINOv3 hub",
        state=converted,
        dropped=tuple(dropped),
        ambiguity="every DINOv3 ViT of this size has this layout, whatever images it was trained on",
    )


def _biases(state: State, key: str, names: Collection[str]) -> State:
    """One block's qkv.bias (3D,) -> q_bias and v_bias (D,), or nothing for a model without them.

    The network multiplies the bias by bias_mask. In the published distilled files the product is zero. If it is not, leaving
    it out would change the network, so WeightsError is raised.
    """
    mask = state.get(f"{key}_mask")
    query, key_bias, value = (state[key] if mask is None else state[key] * mask).chunk(3)
    attention = key.removesuffix("qkv.bias")
    if key_bias.any():
        raise WeightsError(f"'{key}' has a key part that is neither zero nor masked; timm's DINOv3 has no such bias.")
    if f"{attention}q_bias" in names:
        return {f"{attention}q_bias": query, f"{attention}v_bias": value}
    if query.any() or value.any():
        raise WeightsError(
            f"'{key}' is not zero, and the model was built without it: the network would be another one."
            " Set model.backbone_args.qkv_bias=true."
        )
    return {}


@dataclass(kw_only=True)
class Family(ViTFamily):
    """qkv_bias: build the attention with query and value biases, for checkpoints whose biases are not zero.

    dataset: what the weights were trained on, lvd1689m (photographs) or sat493m (satellite images; sizes large and 7b).
    """

    qkv_bias: bool = False
    dataset: str = "lvd1689m"

    SIZES: ClassVar = {"small": 12, "small_plus": 12, "base": 12, "large": 24, "huge_plus": 32, "7b": 40}
    VARIANTS = ({"qkv_bias": True}, {"dataset": "sat493m"}, {"dataset": "sat493m", "qkv_bias": True})
    LAYOUTS = (_hub,)
    # The paper's evaluations of ViT-L read block 4 where earlier work read block 5.
    TAPS: ClassVar = ViTFamily.TAPS | {24: [4, 11, 17, 23]}

    def __post_init__(self) -> None:
        self.check_choice("dataset", DATASETS)

    def statistics(self, size: str) -> dict[str, list[float]]:
        """Returns ImageNet's or those of the satellite images, for values in 0..1."""
        return _SATELLITE_STATISTICS if self.dataset == "sat493m" else super().statistics(size)

    def model_and_weights(self, size: str) -> ModelAndWeights:
        """Builds a DINOv3 ViT with random weights. Raises ConfigError for a size that was not trained on the data set."""
        published = DATASETS[self.dataset]
        if size not in published:
            raise ConfigError(
                f"model.backbone_args.dataset='{self.dataset}' exists for the sizes {', '.join(published)} of dinov3, not"
                f" for '{size}'."
            )
        file, sha256 = published[size]
        name = f"vit_{size}_patch16_dinov3"
        hub = f"timm/{name}.{self.dataset}"
        weights = DefaultWeights(file=f"{file}-{sha256}.pth", sha256=sha256, hub=hub, licence="dinov3", page=_PAGE)
        return create(name, qkv_bias=self.qkv_bias), weights
