"""A four-level pyramid from a plain ViT by learned up- and down-sampling (ViTDet: Li et al. 2022, arXiv 2203.16527).

ViTDet builds every level from the last map. Here, with one tap per level, level i is built from tap i, so that shallow
blocks feed the fine levels, as SegFormer's and DPT's heads expect. With one tap it is ViTDet's own pyramid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from timm.layers import LayerNorm2d
from torch import Tensor, nn

from nnvit.errors import ConfigError
from nnvit.types import BaseNeck

SCALES = (4.0, 2.0, 1.0, 0.5)
"""Scale of each level against the patch grid: strides 4, 8, 16, 32 for patches of 16 pixels."""
_channel_norm = partial(LayerNorm2d, eps=1e-5)
"""Layer norm over the channels of (B, C, h, w), with torch's epsilon."""


@dataclass(kw_only=True)
class Args:
    """out_channels: width of every level."""

    out_channels: int = 256

    def __post_init__(self) -> None:
        if self.out_channels < 1:
            raise ConfigError(f"model.neck_args.out_channels={self.out_channels} must be at least 1.")


class Neck(BaseNeck):
    """channels, strides: of the backbone's maps, all of one stride; one map, or one per level."""

    def __init__(self, channels: Sequence[int], strides: Sequence[float], args: Args) -> None:
        if len(channels) not in (1, len(SCALES)) or len(set(strides)) != 1:
            raise ConfigError(
                f"the pyramid of this model.neck builds {len(SCALES)} levels from 1 or {len(SCALES)} maps of one stride, but "
                f"the backbone gives {len(channels)} maps of strides {list(strides)}; "
                + (
                    f"set model.feature_layers to 1 or {len(SCALES)} blocks."
                    if len(set(strides)) == 1
                    else "set model.neck=same_scale, which passes such maps on unchanged."
                )
            )
        super().__init__([args.out_channels] * len(SCALES), [strides[0] / scale for scale in SCALES])
        sources = list(channels) if len(channels) == len(SCALES) else [channels[0]] * len(SCALES)
        self.levels = nn.ModuleList(
            _level(scale, width, args.out_channels) for scale, width in zip(SCALES, sources, strict=True)
        )

    def forward(self, maps: list[Tensor], image: Tensor) -> list[Tensor]:
        """One or four (B, C, h, w) -> (B, out, 4h, 4w), (B, out, 2h, 2w), (B, out, h, w), (B, out, ceil(h/2), ceil(w/2))."""
        sources = maps if len(maps) == len(SCALES) else maps * len(SCALES)
        return [level(source) for level, source in zip(self.levels, sources, strict=True)]


def _level(scale: float, width: int, out: int) -> nn.Sequential:
    """Resamples by `scale`, then applies ViTDet's 1 x 1 and 3 x 3 convolutions with channel norms."""
    resample: dict[float, list[nn.Module]] = {
        4.0: [
            nn.ConvTranspose2d(width, width // 2, 2, stride=2),
            _channel_norm(width // 2),
            nn.GELU(),
            nn.ConvTranspose2d(width // 2, width // 4, 2, stride=2),
        ],
        2.0: [nn.ConvTranspose2d(width, width // 2, 2, stride=2)],
        1.0: [],
        0.5: [nn.MaxPool2d(2, ceil_mode=True)],
    }
    narrowed = {4.0: width // 4, 2.0: width // 2}.get(scale, width)
    return nn.Sequential(
        *resample[scale],
        nn.Conv2d(narrowed, out, 1, bias=False),
        _channel_norm(out),
        nn.Conv2d(out, out, 3, padding=1, bias=False),
        _channel_norm(out),
    )
