"""UPerNet's decode head (Xiao et al. 2018, arXiv 1807.10221), equal to transformers' UperNetHead.

PSPNet's pyramid pooling (arXiv 1612.01105) on the coarsest map, then a feature pyramid (arXiv 1612.03144) whose levels
are joined at the finest map's size.

Pooling to a single position leaves one value per image and channel: with a batch of one, there is no variance that batch
norm could divide by, and torch and mmsegmentation stop. Here that branch is then normalised by the running statistics, in
training as in prediction; with larger batches nothing differs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from nnvit.recipe.schema import ModelConfig, at_least

from ._conv import ConvUnit


@dataclass(kw_only=True)
class Config(ModelConfig):
    """decoder_hidden_size: width of the head. pool_scales: side of each pooled grid, in positions.

    dropout: on whole channels before the classifier, as in mmsegmentation.
    """

    head: str = "upernet"
    decoder_hidden_size: int = 512
    pool_scales: list[int] = field(default_factory=lambda: [1, 2, 3, 6])
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("model.decoder_hidden_size", self.decoder_hidden_size, 1)
        for scale in self.pool_scales:
            at_least("model.pool_scales", scale, 1)


class Head(nn.Module):
    """channels, strides: of the maps, finest first; any number of them, of any strides."""

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[float],
        num_classes: int,
        *,
        decoder_hidden_size: int = 512,
        pool_scales: Sequence[int] = [1, 2, 3, 6],
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        hidden, fine, coarsest = decoder_hidden_size, channels[:-1], channels[-1]
        self.pool_scales = list(pool_scales)
        self.pools = nn.ModuleList(ConvUnit(coarsest, hidden, 1) for _ in pool_scales)
        self.context = ConvUnit(coarsest + len(pool_scales) * hidden, hidden, 3)
        self.laterals = nn.ModuleList(ConvUnit(width, hidden, 1) for width in fine)
        self.smooth = nn.ModuleList(ConvUnit(hidden, hidden, 3) for _ in fine)
        self.fuse = ConvUnit(len(channels) * hidden, hidden, 3)
        self.dropout = nn.Dropout2d(dropout)
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
        """(B, C, h, w) -> (B, hidden, h, w) that has seen the whole map at every pooling scale."""
        pooled = [pool(adaptive_avg_pool2d(map_BChw, s)) for pool, s in zip(self.pools, self.pool_scales, strict=True)]
        return self.context(torch.cat([map_BChw, *(_resized(grid, map_BChw) for grid in pooled)], dim=1))


def _resized(map_BChw: Tensor, like: Tensor) -> Tensor:
    return interpolate(map_BChw, like.shape[-2:], mode="bilinear", align_corners=False)


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """This head's state dict from transformers' UperNetHead, or from the `decode_head` of a whole UPerNet.

    Raises KeyError where the mapping holds neither.
    """
    renamed = {
        "psp_modules": "pools",
        "bottleneck": "context",
        "lateral_convs": "laterals",
        "fpn_convs": "smooth",
        "fpn_bottleneck": "fuse",
    }
    whole = any(name.startswith("decode_head.") for name in state)
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        if whole and not name.startswith("decode_head."):
            continue
        part, _, rest = name.removeprefix("decode_head.").partition(".")
        if part == "psp_modules":  # index.1.conv: 0 is the pooling
            rest = rest.replace(".1.", ".", 1)
        out[f"{renamed.get(part, part)}.{rest.replace('batch_norm.', 'norm.')}"] = value
    _ = out["fuse.conv.weight"]
    return out
