"""A recipe's `arch_kwargs`: plain data that rebuilds its network with random weights."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from nnvit import registry
from nnvit.recipe.schema import ARCH_VERSION, ModelConfig, Recipe

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


def _input_stats(model: ModelConfig, normalization_schemes: Sequence[str]) -> dict[str, list[float]] | None:
    """Returns the backbone's mean and std if the plans give values in 0..1, else None: a z-score cannot be undone."""
    unit_range = set(normalization_schemes) == {"RGBTo01Normalization"}
    if model.input_norm == "none" or (model.input_norm == "auto" and not unit_range):
        return None
    backbone = registry.module("backbone", model.backbone)
    return backbone.statistics(model.backbone_size, backbone.Args(**model.backbone_args))
