"""SegFormer's all-MLP decode head (Xie et al. 2021, arXiv 2105.15203), equal to transformers' SegformerDecodeHead.

The paper projects each map, upsamples all to the finest, joins them and fuses them by a 1 x 1 convolution. Both the
projection and the fusion act on each position alone, so they commute with bilinear upsampling (whose weights sum to
one): here the two are multiplied into one matrix per map, applied on its own coarse grid, and only the sum is formed at
full size. The result is the same, for a fraction of the multiplications and of the memory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import interpolate, linear

from nnvit.errors import ConfigError
from nnvit.recipe.schema import ModelConfig, at_least


@dataclass(kw_only=True)
class Config(ModelConfig):
    """decoder_hidden_size: width of the head. num_encoder_blocks: maps that it fuses. dropout: before the classifier."""

    decoder_hidden_size: int = 256
    num_encoder_blocks: int = 4
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("model.decoder_hidden_size", self.decoder_hidden_size, 1)


class Head(nn.Module):
    """channels, strides: of the maps, finest first."""

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[float],
        num_classes: int,
        *,
        decoder_hidden_size: int = 256,
        num_encoder_blocks: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if len(channels) != num_encoder_blocks:
            raise ConfigError(
                f"head segformer fuses model.num_encoder_blocks={num_encoder_blocks} maps, but the neck gives "
                f"{len(channels)}; set model.num_encoder_blocks={len(channels)}, or tap other model.feature_layers."
            )
        hidden = decoder_hidden_size
        self.projections = nn.ModuleList(nn.Linear(width, hidden) for width in channels)
        self.fuse = nn.Conv2d(hidden * num_encoder_blocks, hidden, 1, bias=False)
        self.norm = nn.BatchNorm2d(hidden)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(hidden, num_classes, 1)

    @staticmethod
    def from_segformer(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This head's state dict from the decode head in a SegFormer's file; loading such a file fills the head by it."""
        return from_transformers(state)

    def forward(self, maps: list[Tensor], image: Tensor) -> Tensor:
        """One (B, C_i, h_i, w_i) per map -> logits (B, num_classes, h_0, w_0)."""
        size = maps[0].shape[-2:]
        # The fusion's weight holds the maps in reverse order, coarsest first, as the original does.
        shares = reversed(self.fuse.weight.chunk(len(maps), dim=1))
        fused = None
        for map_BChw, projection, share in zip(maps, self.projections, shares, strict=True):
            hidden = linear(map_BChw.movedim(1, -1), *_joint(projection, share[:, :, 0, 0])).movedim(-1, 1)
            if hidden.shape[-2:] != size:
                hidden = interpolate(hidden, size, mode="bilinear", align_corners=False)
            fused = hidden if fused is None else fused + hidden
        return self.classifier(self.dropout(self.norm(fused).relu_()))


def _joint(projection: nn.Module, fusion: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of `fusion` (D, D) after the linear layer `projection` (C -> D)."""
    return fusion @ projection.get_parameter("weight"), fusion @ projection.get_parameter("bias")


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """This head's state dict from transformers' SegformerDecodeHead, in memory's or the hub's naming.

    Raises KeyError where the mapping holds neither.
    """
    renamed = {"linear_fuse.weight": "fuse.weight"}
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        name = name.removeprefix("decode_head.")
        if name.startswith(("linear_projections.", "linear_c.")):
            _, index, _, kind = name.split(".")
            name = f"projections.{index}.{kind}"
        out[renamed.get(name, name.replace("batch_norm.", "norm."))] = value
    _ = out["fuse.weight"]
    return out
