"""The linear probe of DINOv2's and DINOv3's evaluations: batch norm and one 1 x 1 convolution on the joined maps.

With one tapped block it is their "linear" protocol, with four their "+ms" concatenation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from nnvit.recipe.schema import ModelConfig, fraction
from nnvit.types import BaseHead


@dataclass(kw_only=True)
class Config(ModelConfig):
    """dropout: on whole channels of the joined maps while training."""

    head: str = "linear"
    neck: str = "same_scale"
    dropout: float = fraction(0.1)


class Head(BaseHead):
    """channels, strides: of the maps, finest first."""

    def __init__(self, channels: Sequence[int], strides: Sequence[float], num_classes: int, config: Config) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(sum(channels))
        self.dropout = nn.Dropout2d(config.dropout)
        self.classifier = nn.Conv2d(sum(channels), num_classes, 1)

    def forward(self, maps: list[Tensor], image: Tensor) -> Tensor:
        """One (B, C_i, h_i, w_i) per map -> logits (B, num_classes, h_0, w_0)."""
        size = maps[0].shape[-2:]
        joined = torch.cat([interpolate(m, size, mode="bilinear") if m.shape[-2:] != size else m for m in maps], dim=1)
        return self.classifier(self.dropout(self.norm(joined)))
