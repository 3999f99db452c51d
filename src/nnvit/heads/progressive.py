"""Progressive upsampling to the image's own size, in steps of two (SETR-PUP, Zheng et al. 2020, arXiv 2012.15840).

SETR's decoder doubles the last map stage by stage. As in UNETR (arXiv 2103.10504), every stage here also takes the map of
a shallower tap, and the two finest ones take convolutions on the image, which has the edges that a patch grid loses.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log2

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from nnvit.errors import ConfigError
from nnvit.recipe.schema import ModelConfig, at_least, fraction
from nnvit.types import BaseHead

from ._conv import ConvUnit

_NARROWEST, _WIDEST_AT_FULL_SIZE = 16, 32
"""Bounds on the stages' widths; the full-size stage costs the most per channel."""


@dataclass(kw_only=True)
class Config(ModelConfig):
    """decoder_channels: width of the first stage; halved at each stage, at least 16, and at most 32 at full size.

    stem_channels: width of the convolutions on the image. dropout: on whole channels before the classifier.
    """

    head: str = "progressive"
    neck: str = "same_scale"
    decoder_channels: int = at_least(_NARROWEST, 256)
    stem_channels: int = at_least(1, 16)
    dropout: float = fraction(0.1)


class _Stage(nn.Module):
    """Upsamples to `size`, concatenates with other maps of that size, then applies two 3 x 3 convolutions.

    The input is narrowed to `out` channels before it is upsampled, because memory limits the width at full size.
    """

    def __init__(self, width: int, joined: int, out: int) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(width, out, 1)
        self.convs = nn.Sequential(ConvUnit(out + joined, out, 3), ConvUnit(out, out, 3))

    def forward(self, map_BChw: Tensor, others: list[Tensor], size: tuple[int, int]) -> Tensor:
        """(B, width, h, w) and maps of `joined` channels together -> (B, out, *size)."""
        parts = (self.narrow(map_BChw), *others)
        resized = [interpolate(m, size, mode="bilinear") if m.shape[-2:] != size else m for m in parts]
        return self.convs(torch.cat(resized, dim=1))


class Head(BaseHead):
    """channels, strides: of the maps, finest or shallowest first. Raises ConfigError for more maps than the stages take."""

    def __init__(self, channels: Sequence[int], strides: Sequence[float], num_classes: int, config: Config) -> None:
        super().__init__()
        stem_channels = config.stem_channels
        count = max(2, ceil(log2(strides[-1])))
        self.strides = [max(1.0, strides[-1] / 2 ** (k + 1)) for k in range(count - 1)] + [1.0]  # halved until 1
        if len(channels) > count + 1:
            raise ConfigError(
                f"head progressive reads at most {count + 1} maps at this stride, one to start from and one for each of its "
                f"{count} stages, but the neck gives {len(channels)}; set model.feature_layers to {count + 1} blocks or fewer."
            )
        widths = [max(_NARROWEST, config.decoder_channels // 2**k) for k in range(count)]
        widths[-1] = min(widths[-1], _WIDEST_AT_FULL_SIZE)
        skips = list(zip(reversed(channels[:-1]), widths, strict=False))
        self.skips = nn.ModuleList(nn.Conv2d(width, out, 1) for width, out in skips)
        self.stem = nn.ModuleList([ConvUnit(3, stem_channels, 3), ConvUnit(stem_channels, stem_channels, 3, stride=2)])
        self.stages = nn.ModuleList()
        for k, (width, out) in enumerate(zip([channels[-1], *widths], widths, strict=False)):
            joined = (out if k < len(skips) else 0) + (stem_channels if self._joins_stem(k) else 0)
            self.stages.append(_Stage(width, joined, out))
        self.dropout = nn.Dropout2d(config.dropout)
        self.classifier = nn.Conv2d(widths[-1], num_classes, 1)

    def forward(self, maps: list[Tensor], image: Tensor) -> Tensor:
        """One (B, C_i, h_i, w_i) per map, image (B, 3, H, W) -> logits (B, num_classes, H, W)."""
        height, width = image.shape[-2:]
        full = self.stem[0](image)
        stem = [full, self.stem[1](full)]
        skips = [skip(source) for skip, source in zip(self.skips, reversed(maps[:-1]), strict=True)]
        hidden = maps[-1]
        for k, (stage, stride) in enumerate(zip(self.stages, self.strides, strict=True)):
            others = skips[k : k + 1] + ([stem[len(self.stages) - 1 - k]] if self._joins_stem(k) else [])
            hidden = stage(hidden, others, (ceil(height / stride), ceil(width / stride)))
        return self.classifier(self.dropout(hidden))

    def _joins_stem(self, stage: int) -> bool:
        return stage >= len(self.strides) - 2
