"""From a recipe to `arch_kwargs`: everything that rebuilds its network with random weights, as plain data."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from nnvit import registry
from nnvit.recipe.schema import ARCH_VERSION, ModelConfig, Recipe

RGB01 = ("RGBTo01Normalization",) * 3
"""nnU-Net's normalisation schemes of a photograph whose values are in 0..1."""


def arch_kwargs(
    recipe: Recipe,
    *,
    normalization_schemes: Sequence[str] = RGB01,
    regions: bool = False,
    scales: Sequence[Sequence[float]] = (),
) -> dict[str, Any]:
    """What `nnvit.model.Segmenter` takes beside the numbers of channels and classes.

    normalization_schemes: of the plans, one per channel; regions: the classes are regions, which may overlap;
    scales: (height, width) factors of nnU-Net's deep supervision, read where the recipe asks for it.
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
        "input_stats": input_stats(model, normalization_schemes),
    }
    if recipe.tuning == "lora":
        adapters = asdict(recipe.lora)
        del adapters["enabled"]
        kwargs["lora"] = adapters
    if regions:
        kwargs["regions"] = True
    if recipe.training.loss == "native":
        kwargs["aux"] = "native"
    elif recipe.training.deep_supervision:
        kwargs["aux"] = [list(scale) for scale in scales]
    return kwargs


def input_stats(model: ModelConfig, normalization_schemes: Sequence[str]) -> dict[str, list[float]] | None:
    """The backbone's mean and std, where the plans bring values in 0..1; a z-score cannot be undone."""
    unit_range = set(normalization_schemes) == {"RGBTo01Normalization"}
    if model.input_norm == "none" or (model.input_norm == "auto" and not unit_range):
        return None
    backbone = registry.module("backbone", model.backbone)
    return backbone.statistics(model.backbone_size, backbone.Args(**model.backbone_args))
