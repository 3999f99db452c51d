"""The network, and the functions that build it from plain Python."""

from nnvit.registry import build_backbone

from .factories import create_backbone, create_segformer_model, create_segmentation_model, enable_lora, get_vit_features
from .segmenter import Segmenter, resized

__all__ = [
    "Segmenter",
    "build_backbone",
    "create_backbone",
    "create_segformer_model",
    "create_segmentation_model",
    "enable_lora",
    "get_vit_features",
    "resized",
]
