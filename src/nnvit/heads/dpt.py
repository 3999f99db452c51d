"""DPT's decode head (Ranftl et al. 2021, arXiv 2103.13413), equal to transformers' on maps that halve at each level.

Follows transformers' DPTNeck (its convolutions and fusion stage) and DPTSemanticSegmentationHead, with these departures:
- The coarsest fusion layer has no second input, so the residual unit that transformers builds there, never called, is left out.
- Each map is upsampled to the size of the next, as in Depth Anything (arXiv 2401.10891), and the logits to the image's. This
  is the same if sizes double, and keeps positions aligned if sizes are odd or all maps have one stride.
- A 1 x 1 convolution commutes with bilinear upsampling, so it is applied before it, on a quarter of the positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from nnvit.recipe.schema import ModelConfig, at_least, fraction
from nnvit.types import BaseHead

from ._conv import BatchNorm


@dataclass(kw_only=True)
class Config(ModelConfig):
    """fusion_hidden_size: width of the head. use_batch_norm: in the residual units, instead of biases.

    dropout: before the classifier.
    """

    head: str = "dpt"
    neck: str = "reassemble"
    fusion_hidden_size: int = at_least(1, 256)
    use_batch_norm: bool = False
    dropout: float = fraction(0.1)


class _ResidualUnit(nn.Module):
    """RefineNet's residual unit (arXiv 1611.06612): twice ReLU and a 3 x 3 convolution, added to the input."""

    def __init__(self, width: int, use_batch_norm: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=not use_batch_norm)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=not use_batch_norm)
        self.norm1 = BatchNorm(width) if use_batch_norm else nn.Identity()
        self.norm2 = BatchNorm(width) if use_batch_norm else nn.Identity()

    def forward(self, map_BChw: Tensor) -> Tensor:
        """(B, width, h, w), unchanged in shape."""
        hidden = self.norm1(self.conv1(torch.relu(map_BChw)))
        return map_BChw + self.norm2(self.conv2(torch.relu(hidden)))


class _Fusion(nn.Module):
    """Adds a finer map, if there is one, to the fused coarser ones, refines the sum and upsamples it."""

    def __init__(self, width: int, use_batch_norm: bool, joins: bool) -> None:
        super().__init__()
        self.join = _ResidualUnit(width, use_batch_norm) if joins else None
        self.refine = _ResidualUnit(width, use_batch_norm)
        self.project = nn.Conv2d(width, width, 1)

    def forward(self, coarse_BChw: Tensor, fine_BChw: Tensor | None, size: Sequence[int]) -> Tensor:
        """Two (B, width, h, w) -> (B, width, *size)."""
        if self.join is not None:
            coarse_BChw = coarse_BChw + self.join(fine_BChw)
        hidden = self.project(self.refine(coarse_BChw))
        return interpolate(hidden, size, mode="bilinear", align_corners=True)


class Head(BaseHead):
    """channels, strides: of the maps, finest first; any number of them, of any strides."""

    def __init__(self, channels: Sequence[int], strides: Sequence[float], num_classes: int, config: Config) -> None:
        super().__init__()
        hidden, coarsest = config.fusion_hidden_size, len(channels) - 1
        self.projections = nn.ModuleList(nn.Conv2d(width, hidden, 3, padding=1, bias=False) for width in channels)
        self.fusions = nn.ModuleList(
            _Fusion(hidden, config.use_batch_norm, joins=i < coarsest) for i in range(len(channels))
        )
        self.conv = nn.Conv2d(hidden, hidden, 3, padding=1, bias=False)
        self.norm = BatchNorm(hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Conv2d(hidden, num_classes, 1)

    def forward(self, maps: list[Tensor], image: Tensor) -> Tensor:
        """One (B, C_i, h_i, w_i) per map, image (B, 3, H, W) -> logits (B, num_classes, H, W)."""
        height, width = maps[0].shape[-2:]
        sizes = [(2 * height, 2 * width), *(map_BChw.shape[-2:] for map_BChw in maps[:-1])]
        projected = [project(map_BChw) for project, map_BChw in zip(self.projections, maps, strict=True)]
        fused = self.fusions[-1](projected[-1], None, sizes[-1])
        for i in reversed(range(len(maps) - 1)):
            fused = self.fusions[i](fused, projected[i], sizes[i])
        hidden = self.dropout(torch.relu(self.norm(self.conv(fused))))
        return interpolate(self.classifier(hidden), image.shape[-2:], mode="bilinear", align_corners=True)
