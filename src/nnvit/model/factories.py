"""Building networks: from a recipe as plain data, or without a recipe file under the names that the original fork gave."""

import copy
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from torch import Tensor

from nnvit import registry
from nnvit.errors import ConfigError
from nnvit.recipe import loading
from nnvit.recipe.schema import ARCH_VERSION, ModelConfig, Recipe
from nnvit.types import Backbone
from nnvit.weights import load_backbone

from .segmenter import Segmenter

RGB01 = ("RGBTo01Normalization",) * 3
"""nnU-Net's normalisation schemes for a photograph with values in 0..1."""


def arch_kwargs(
    recipe: Recipe,
    *,
    normalization_schemes: Sequence[str] = RGB01,
    regions: bool = False,
    scales: Sequence[Sequence[float]] = (),
) -> dict[str, Any]:
    """Returns the arguments of `nnvit.model.Segmenter` beside the numbers of channels and classes.

    normalization_schemes: of the plans, one per channel; regions: the classes are regions, which may overlap;
    scales: (height, width) factors of nnU-Net's deep supervision, used if the recipe asks for it.
    """
    model = recipe.model
    assert isinstance(model, ModelConfig)
    common = {field.name for field in fields(ModelConfig)}
    own_keys = {key: value for key, value in asdict(model).items() if key not in common}
    kwargs: dict[str, Any] = {
        "arch_version": ARCH_VERSION,
        "backbone": {
            "name": model.backbone,
            "size": model.backbone_size,
            "taps": model.feature_layers,
            "args": model.backbone_args,
        },
        "neck": {"name": model.neck, "args": model.neck_args},
        "head": {"name": model.head, **own_keys},
        "tuning": recipe.tuning,
        "input_stats": _input_stats(model, normalization_schemes),
    }
    if recipe.tuning == "lora":
        kwargs["lora"] = {key: value for key, value in asdict(recipe.lora).items() if key != "enabled"}
    if regions:
        kwargs["regions"] = True
    if recipe.training.loss == "native":
        kwargs["aux"] = "native"
    elif recipe.training.deep_supervision:
        kwargs["aux"] = [list(scale) for scale in scales]
    return kwargs


def _input_stats(model: ModelConfig, normalization_schemes: Sequence[str]) -> dict[str, list[float]] | None:
    """Returns the backbone's mean and std if the plans give values in 0..1, else None: a z-score cannot be undone."""
    unit_range = set(normalization_schemes) == {"RGBTo01Normalization"}
    if model.input_norm == "none" or (model.input_norm == "auto" and not unit_range):
        return None
    family = registry.family(model.backbone)(**model.backbone_args)
    return family.statistics(model.backbone_size)


def create_backbone(
    backbone_name: str = "dinov3",
    backbone_size: str = "large",
    *,
    feature_layers: Sequence[int] | None = None,
    weights: str = "default",
    **backbone_args: Any,
) -> Backbone:
    """Builds a backbone with its pretrained weights, called as `backbone(image)`.

    weights: as the recipe key model.weights; feature_layers: 0-based blocks to tap, None for the published ones;
    backbone_args: keys of this family alone, such as modality="oct" for visionfm.
    Raises ConfigError for an unknown name or key, and WeightsError for weights that are not found.
    """
    family = loading.typed("backbone_args", registry.family(backbone_name), backbone_args)
    backbone = family.build(backbone_size, family.resolve_taps(backbone_size, feature_layers))
    load_backbone(backbone, weights)
    return backbone


def get_vit_features(backbone: Backbone, image: Tensor, indices: Sequence[int] | None = None) -> list[Tensor]:
    """Computes feature maps of a standardised image (B, 3, H, W), H and W multiples of `backbone.grid`.

    indices: 0-based blocks instead of those that the backbone taps. Returns one (B, C, h, w) per block, finest first.
    Raises ConfigError for blocks that do not exist, or that are not ascending.
    """
    if indices is not None:
        taps = registry.family(backbone.family).resolve_taps(backbone.size, indices)
        backbone = copy.copy(backbone)  # shares the weights
        backbone.taps = taps
    return backbone(image)


def create_segmentation_model(
    num_classes: int, backbone_name: str = "dinov3", backbone_size: str = "large", **keys: Any
) -> Segmenter:
    """Builds the "ViT model": progressive upsampling with skip connections on a ViT; keys as for `create_segformer_model`."""
    return _create("progressive", num_classes, backbone_name, backbone_size, **keys)


def create_segformer_model(
    num_classes: int, backbone_name: str = "dinov3", backbone_size: str = "large", **keys: Any
) -> Segmenter:
    """Builds SegFormer's head on a pretrained ViT, for images (B, input_channels, H, W) of any size with values in 0..1.

    keys: input_channels (3), freeze_backbone (True), weights ("default") and every other key of a recipe's model section.
    The network's `weights_report` says what was loaded. Raises ConfigError for keys that do not exist or do not fit, and
    WeightsError for weights that are not found.
    """
    return _create("segformer", num_classes, backbone_name, backbone_size, **keys)


def enable_lora(
    network: Segmenter,
    r: int = 8,
    lora_alpha: int = 16,
    lora_dropout: float = 0.0,
    target_modules: Sequence[str] | None = None,
) -> Segmenter:
    """Puts adapters into the network's backbone, in place, and freezes the rest of it; returns the network.

    target_modules: names of linear layers, None for the backbone's own (qkv for timm's ViTs). Raises ConfigError if
    there are adapters already.
    """
    if network.adapters():
        raise ConfigError("this network has LoRA adapters already.")
    if target_modules is None:
        target_modules = registry.family(network.backbone.family).LORA_TARGETS
    network.add_adapters(r=r, lora_alpha=lora_alpha, lora_dropout=lora_dropout, target_modules=target_modules)
    return network


def _create(
    head: str, num_classes: int, backbone: str, backbone_size: str, *, input_channels: int = 3, **model_keys: Any
) -> Segmenter:
    model = {"head": head, "backbone": backbone, "backbone_size": backbone_size, **model_keys}
    recipe = loading.from_dict({"model": model, "lora": {"enabled": False}})
    assert isinstance(recipe.model, ModelConfig)
    network = Segmenter(input_channels, num_classes, **arch_kwargs(recipe))
    network.weights_report = load_backbone(network.backbone, recipe.model.weights, head=network.head)
    return network
