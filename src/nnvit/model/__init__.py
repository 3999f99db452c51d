"""The network, and the functions that build it from plain Python."""

from .factories import (
    arch_kwargs,
    create_backbone,
    create_segformer_model,
    create_segmentation_model,
    enable_lora,
    get_vit_features,
)
from .segmenter import Segmenter

__all__ = [
    "Segmenter",
    "arch_kwargs",
    "create_backbone",
    "create_segformer_model",
    "create_segmentation_model",
    "enable_lora",
    "get_vit_features",
]
