"""A tiny network by recipe, and what a step on it is estimated to need: shared by the tests of this folder."""

import torch

from nnvit import estimate
from nnvit.model import Segmenter, arch_kwargs
from nnvit.recipe import loading
from nnvit.recipe.schema import Recipe

IMAGE = (2, 3, 50, 64)
TINY = ["model.backbone=tiny", "model.backbone_size=vit", "training.precision=fp32"]
FULL = ["lora.enabled=false", "model.freeze_backbone=false"]


def recipe(*overrides: str, source: str = "segformer_default") -> Recipe:
    return loading.load_recipe([source], [*TINY, *overrides])


def network(of: Recipe) -> Segmenter:
    arch = arch_kwargs(of)
    return Segmenter(IMAGE[1], 3, deep_supervision="aux" in arch, **arch)


def needed(of: Recipe, image: tuple[int, ...] = IMAGE) -> estimate.Need:
    """Returns what a step needs in the recipe's precision, as `nnvit show` prints it."""
    batch, channels, height, width = image
    job = estimate.Job(
        build=lambda: network(of), training=of.training, channels=channels, patch=(height, width), batch=batch
    )
    return job.need(None if of.training.precision == "fp32" else torch.bfloat16)
