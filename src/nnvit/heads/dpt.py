"""DPT's decode head (Ranftl et al. 2021, arXiv 2103.13413), equal to transformers' on maps that halve at each level.

Follows transformers' DPTNeck (its convolutions and fusion stage) and DPTSemanticSegmentationHead, with these departures:
- The coarsest fusion layer joins nothing, so the residual unit that transformers builds there and never calls is left out.
- Each map is upsampled to the size of the next, as in Depth Anything (arXiv 2401.10891), and the logits to the image's:
  the same where sizes double, and no drift where they are odd or the maps are of one stride.
- A 1 x 1 convolution commutes with bilinear upsampling, so it is applied before it, on a quarter of the positions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from nnvit.recipe.schema import ModelConfig, at_least

from ._conv import BatchNorm


@dataclass(kw_only=True)
class Config(ModelConfig):
    """fusion_hidden_size: width of the head. use_batch_norm: in the residual units, rather than biases.

    dropout: before the classifier.
    """

    head: str = "dpt"
    neck: str = "reassemble"
    fusion_hidden_size: int = 256
    use_batch_norm: bool = False
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("model.fusion_hidden_size", self.fusion_hidden_size, 1)


class ResidualUnit(nn.Module):
    """RefineNet's residual unit (arXiv 1611.06612): twice ReLU and a 3 x 3 convolution, added to what came in."""

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


class Fusion(nn.Module):
    """Adds a finer map, where there is one, to what the coarser ones gave, refines the sum and upsamples it."""

    def __init__(self, width: int, use_batch_norm: bool, joins: bool) -> None:
        super().__init__()
        self.join = ResidualUnit(width, use_batch_norm) if joins else None
        self.refine = ResidualUnit(width, use_batch_norm)
        self.project = nn.Conv2d(width, width, 1)

    def forward(self, coarse_BChw: Tensor, fine_BChw: Tensor | None, size: Sequence[int]) -> Tensor:
        """Two (B, width, h, w) -> (B, width, *size)."""
        if self.join is not None:
            coarse_BChw = coarse_BChw + self.join(fine_BChw)
        hidden = self.project(self.refine(coarse_BChw))
        return interpolate(hidden, size, mode="bilinear", align_corners=True)


class Head(nn.Module):
    """channels, strides: of the maps, finest first; any number of them, of any strides."""

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[float],
        num_classes: int,
        *,
        fusion_hidden_size: int = 256,
        use_batch_norm: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        hidden, coarsest = fusion_hidden_size, len(channels) - 1
        self.projections = nn.ModuleList(nn.Conv2d(width, hidden, 3, padding=1, bias=False) for width in channels)
        self.fusions = nn.ModuleList(Fusion(hidden, use_batch_norm, joins=i < coarsest) for i in range(len(channels)))
        self.conv = nn.Conv2d(hidden, hidden, 3, padding=1, bias=False)
        self.norm = BatchNorm(hidden)
        self.dropout = nn.Dropout(dropout)
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


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """This head's state dict from that of transformers' DPTForSemanticSegmentation.

    Its backbone, reassemble stage, auxiliary head and the residual unit that it never calls are left out. Raises KeyError
    where the mapping holds no such model.
    """
    renamed = {
        "head.head.0.": "conv.",
        "head.head.1.": "norm.",
        "head.head.4.": "classifier.",
        "neck.convs.": "projections.",
    }
    units = {"residual_layer1": "join", "residual_layer2": "refine", "projection": "project"}
    fusions = "neck.fusion_stage.layers."
    coarsest = max((int(name.split(".")[3]) for name in state if name.startswith(fusions)), default=0)
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.startswith(fusions):
            index, unit, rest = name.removeprefix(fusions).split(".", 2)
            if (index, unit) != ("0", "residual_layer1"):  # theirs count from the coarsest
                rest = rest.replace("convolution", "conv").replace("batch_norm", "norm")
                out[f"fusions.{coarsest - int(index)}.{units[unit]}.{rest}"] = value
        for theirs, ours in renamed.items():
            if name.startswith(theirs):
                out[ours + name.removeprefix(theirs)] = value
    _ = out["classifier.weight"]
    return out
