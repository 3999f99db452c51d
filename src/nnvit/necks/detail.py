"""The pyramid of `simple_pyramid`, and a small convolutional stem on the image that corrects the logits.

A patch of 14 or 16 pixels is one token, which blurs thinner structures before the pyramid begins. Other works run a
convolutional pyramid beside the ViT through the whole decoder (ViT-Adapter, arXiv 2205.08534; ViT-CoMer, 2403.07392); most
of its cost is in the largest maps. Here the head keeps its strides and its width. Only its logits, one channel per class,
are joined with the stem and a narrow copy of the finest map at stride 2 (or 1), and a few narrow convolutions compute a
correction. This works with every head that outputs logits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from nnvit.errors import ConfigError

from .simple_pyramid import Args as PyramidArgs
from .simple_pyramid import Neck as PyramidNeck


@dataclass(kw_only=True)
class Args(PyramidArgs):
    """stem_stride: 1 or 2 pixels; full resolution takes four times as long. stem_channels: width of the stem."""

    stem_stride: int = 2
    stem_channels: int = 24

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stem_channels < 1:
            raise ConfigError(f"model.neck_args.stem_channels={self.stem_channels} must be at least 1.")
        if self.stem_stride not in (1, 2):
            raise ConfigError(f"model.neck_args.stem_stride={self.stem_stride} must be 1 or 2 pixels.")


class _Refinement(nn.Module):
    """Adds a correction to the logits at the stem's stride. channels: of the neck's maps."""

    def __init__(self, channels: Sequence[int], num_classes: int, args: Args) -> None:
        super().__init__()
        width = args.stem_channels
        self.stem = nn.Sequential(_block(3, width, args.stem_stride), _block(width, width))
        self.context = nn.Conv2d(channels[0], width, 1)
        self.join = nn.Sequential(_block(2 * width + num_classes, width), _block(width, width))
        self.classifier = nn.Conv2d(width, num_classes, 1)
        nn.init.normal_(self.classifier.weight, std=0.01)  # starts close to the head's own logits
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]

    def forward(self, logits_BKhw: Tensor, maps: list[Tensor], image: Tensor) -> Tensor:
        """Logits of any stride, the neck's maps, image (B, 3, H, W) -> logits at the finer of both strides."""
        stem = self.stem(image)
        logits, context = (_to(part, stem) for part in (logits_BKhw, self.context(maps[0])))
        correction = self.classifier(self.join(torch.cat([stem, context, logits], dim=1)))
        if logits_BKhw.shape[-1] > stem.shape[-1]:
            return logits_BKhw + _to(correction, logits_BKhw)
        return logits + correction


class Neck(PyramidNeck):
    """The pyramid, whose logits are refined on the image."""

    refinement = _Refinement


def _to(map_BChw: Tensor, like: Tensor) -> Tensor:
    size = like.shape[-2:]
    return map_BChw if map_BChw.shape[-2:] == size else interpolate(map_BChw, size, mode="bilinear")


def _block(width: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())
