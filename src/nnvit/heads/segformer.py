"""SegFormer's all-MLP decode head (Xie et al. 2021, arXiv 2105.15203), equal to transformers' SegformerDecodeHead.

The paper projects each map, upsamples all to the finest, concatenates them and fuses them by a 1 x 1 convolution. Both the
projection and the fusion act on each position alone, so they commute with bilinear upsampling (whose weights sum to one).
Here the two are multiplied into one matrix per map, which is applied on the map's own coarse grid, and only the sum is
computed at full size. The result is the same, for a fraction of the multiplications and of the memory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import interpolate, linear

from nnvit.errors import ConfigError
from nnvit.recipe.schema import ModelConfig, at_least, fraction
from nnvit.types import BaseHead


@dataclass(kw_only=True)
class Config(ModelConfig):
    """decoder_hidden_size: width of the head. num_encoder_blocks: maps that it fuses. dropout: before the classifier."""

    decoder_hidden_size: int = at_least(1, 256)
    num_encoder_blocks: int = 4
    dropout: float = fraction(0.1)


class Head(BaseHead):
    """channels, strides: of the maps, finest first."""

    def __init__(self, channels: Sequence[int], strides: Sequence[float], num_classes: int, config: Config) -> None:
        super().__init__()
        if len(channels) != config.num_encoder_blocks:
            raise ConfigError(
                f"head segformer fuses model.num_encoder_blocks={config.num_encoder_blocks} maps, but the neck gives "
                f"{len(channels)}; set model.num_encoder_blocks={len(channels)}, or tap other model.feature_layers."
            )
        hidden = config.decoder_hidden_size
        self.projections = nn.ModuleList(nn.Linear(width, hidden) for width in channels)
        self.fuse = nn.Conv2d(hidden * len(channels), hidden, 1, bias=False)
        self.norm = nn.BatchNorm2d(hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Conv2d(hidden, num_classes, 1)

    @staticmethod
    def from_segformer(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns this head's state dict from transformers' SegformerDecodeHead, in its names in memory or on the hub.

        Raises KeyError for tensors of another head.
        """
        out: dict[str, Tensor] = {}
        for name, value in state.items():
            name = name.removeprefix("decode_head.")
            if name.startswith(("linear_projections.", "linear_c.")):
                _, index, _, kind = name.split(".")
                name = f"projections.{index}.{kind}"
            name = "fuse.weight" if name == "linear_fuse.weight" else name.replace("batch_norm.", "norm.")
            out[name] = value
        _ = out["fuse.weight"]
        return out

    def forward(self, maps: list[Tensor], image: Tensor) -> Tensor:
        """One (B, C_i, h_i, w_i) per map -> logits (B, num_classes, h_0, w_0)."""
        size = maps[0].shape[-2:]
        # The fusion's weight has the maps in reverse order, coarsest first, as in the original.
        shares = reversed(self.fuse.weight.chunk(len(maps), dim=1))
        fused = None
        for map_BChw, projection, share in zip(maps, self.projections, shares, strict=True):
            fusion = share[:, :, 0, 0]
            weight, bias = (fusion @ projection.get_parameter(name) for name in ("weight", "bias"))
            hidden = linear(map_BChw.movedim(1, -1), weight, bias).movedim(-1, 1)
            if hidden.shape[-2:] != size:
                hidden = interpolate(hidden, size, mode="bilinear", align_corners=False)
            fused = hidden if fused is None else fused + hidden
        return self.classifier(self.dropout(self.norm(fused).relu_()))
