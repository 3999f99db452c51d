"""DPT's reassembling of a plain ViT's taps into a pyramid (Ranftl et al. 2021, arXiv 2103.13413).

Equal to transformers' DPTReassembleStage with `readout_type="ignore"`: the maps have no class token.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor, nn

from nnvit.errors import ConfigError
from nnvit.types import BaseNeck

from .simple_pyramid import SCALES


@dataclass(kw_only=True)
class Args:
    """out_channels: width of each of the four levels, finest first."""

    out_channels: list[int] = field(default_factory=lambda: [96, 192, 384, 768])


class Neck(BaseNeck):
    """channels, strides: of the backbone's maps, four of one stride, shallowest first. Raises ConfigError for other maps."""

    def __init__(self, channels: Sequence[int], strides: Sequence[float], args: Args) -> None:
        out_channels = args.out_channels
        if len(channels) != len(SCALES) or len(set(strides)) != 1:
            raise ConfigError(
                f"model.neck=reassemble builds {len(SCALES)} levels from {len(SCALES)} maps of one stride, but the backbone "
                f"gives {len(channels)} maps of strides {list(strides)}; set model.feature_layers to {len(SCALES)} blocks of a "
                "plain ViT, or model.neck=same_scale."
            )
        if len(out_channels) != len(SCALES) or min(out_channels) < 1:
            raise ConfigError(
                f"model.neck_args.out_channels={list(out_channels)} must be {len(SCALES)} widths of at least 1, such as "
                "[96,192,384,768]."
            )
        super().__init__(out_channels, [strides[0] / scale for scale in SCALES])
        self.projections = nn.ModuleList(map(partial(nn.Conv2d, kernel_size=1), channels, out_channels))
        self.resamplings = nn.ModuleList(map(_resampling, SCALES, out_channels))

    def forward(self, maps: list[Tensor], image: Tensor) -> list[Tensor]:
        """Four (B, C_i, h, w) -> (B, out_0, 4h, 4w), (B, out_1, 2h, 2w), (B, out_2, h, w), (B, out_3, ceil(h/2), ceil(w/2))."""
        layers = zip(self.resamplings, self.projections, maps, strict=True)
        return [resample(project(map_BChw)) for resample, project, map_BChw in layers]


def _resampling(scale: float, width: int) -> nn.Module:
    if scale == 1:
        return nn.Identity()
    if scale < 1:
        return nn.Conv2d(width, width, 3, stride=int(1 / scale), padding=1)
    return nn.ConvTranspose2d(width, width, int(scale), stride=int(scale))
