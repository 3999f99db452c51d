"""UPerNet's decode head (Xiao et al. 2018, arXiv 1807.10221), equal to transformers' UperNetHead.

PSPNet's pyramid pooling (arXiv 1612.01105) on the coarsest map, then a feature pyramid (arXiv 1612.03144) whose levels
are joined at the finest map's size.

Pooling to a single position leaves one value per image and channel. With a batch of one there is then no variance for batch
norm, and torch and mmsegmentation raise an error. Here that branch is normalised by the running statistics, in training as
in prediction. With larger batches nothing differs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from nnvit.recipe.schema import ModelConfig, at_least, fraction
from nnvit.types import BaseHead

from ._conv import ConvUnit


@dataclass(kw_only=True)
class Config(ModelConfig):
    """decoder_hidden_size: width of the head. pool_scales: side of each pooled grid, in positions.

    dropout: on whole channels before the classifier, as in mmsegmentation.
    """

    head: str = "upernet"
    decoder_hidden_size: int = at_least(1, 512)
    pool_scales: list[int] = at_least(1, [1, 2, 3, 6])  # noqa: RUF009 (a field)
    dropout: float = fraction(0.1)


class Head(BaseHead):
    """channels, strides: of the maps, finest first; any number of them, of any strides."""

    def __init__(self, channels: Sequence[int], strides: Sequence[float], num_classes: int, config: Config) -> None:
        super().__init__()
        hidden, fine, coarsest = config.decoder_hidden_size, channels[:-1], channels[-1]
        self.pool_scales = list(config.pool_scales)
        self.pools = nn.ModuleList(ConvUnit(coarsest, hidden, 1) for _ in self.pool_scales)
        self.context = ConvUnit(coarsest + len(self.pool_scales) * hidden, hidden, 3)
        self.laterals = nn.ModuleList(ConvUnit(width, hidden, 1) for width in fine)
        self.smooth = nn.ModuleList(ConvUnit(hidden, hidden, 3) for _ in fine)
        self.fuse = ConvUnit(len(channels) * hidden, hidden, 3)
        self.dropout = nn.Dropout2d(config.dropout)
        self.classifier = nn.Conv2d(hidden, num_classes, 1)

    def forward(self, maps: list[Tensor], image: Tensor) -> Tensor:
        """One (B, C_i, h_i, w_i) per map -> logits (B, num_classes, h_0, w_0)."""
        levels = [self._pooled_context(maps[-1])]
        for map_BChw, lateral in zip(reversed(maps[:-1]), reversed(self.laterals), strict=True):
            level = lateral(map_BChw)
            levels.insert(0, level + _resized(levels[0], level))
        fine = [smooth(level) for smooth, level in zip(self.smooth, levels[:-1], strict=True)]
        joined = [*fine, levels[-1]]
        fused = self.fuse(torch.cat([_resized(level, joined[0]) for level in joined], dim=1))
        return self.classifier(self.dropout(fused))

    def _pooled_context(self, map_BChw: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, hidden, h, w), with the map pooled at every scale mixed in."""
        pooled = [pool(adaptive_avg_pool2d(map_BChw, s)) for pool, s in zip(self.pools, self.pool_scales, strict=True)]
        return self.context(torch.cat([map_BChw, *(_resized(grid, map_BChw) for grid in pooled)], dim=1))


def _resized(map_BChw: Tensor, like: Tensor) -> Tensor:
    return interpolate(map_BChw, like.shape[-2:], mode="bilinear", align_corners=False)
