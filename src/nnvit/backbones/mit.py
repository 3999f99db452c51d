"""SegFormer's own encoder, the Mix Transformer (Xie et al. 2021, arXiv 2105.15203): MiT-B0 to B5, by transformers.

The state-dict names are those that transformers 5.23 uses in memory (`stages.0.blocks.0.attention.q_proj…`); they are
nnvit's from here on. Should transformers rename its modules again, a golden test fails and the mapping belongs here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from typing import Any

import torch
from timm.layers import DropPath, calculate_drop_path_rates
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import SegformerConfig
from transformers.models.segformer.modeling_segformer import SegformerModel

from nnvit.errors import ConfigError
from nnvit.types import DefaultWeights

from ._timm_vit import IMAGENET, known_size

LORA_TARGETS = ("q_proj", "v_proj")

STAGES = [0, 1, 2, 3]

# size -> widths and numbers of blocks of the four stages
SIZES = {
    "b0": ((32, 64, 160, 256), (2, 2, 2, 2)),
    "b1": ((64, 128, 320, 512), (2, 2, 2, 2)),
    "b2": ((64, 128, 320, 512), (3, 4, 6, 3)),
    "b3": ((64, 128, 320, 512), (3, 4, 18, 3)),
    "b4": ((64, 128, 320, 512), (3, 8, 27, 3)),
    "b5": ((64, 128, 320, 512), (3, 6, 40, 3)),
}


@dataclass(kw_only=True)
class Args:
    """No keys of its own."""


class MiT(nn.Module):
    """Four stages of strides 4, 8, 16 and 32, each ending in a layer norm that its map and the next stage both read.

    family, size: as the recipe names them. model: transformers' SegformerModel. taps: 0-based stages, ascending.
    """

    def __init__(
        self,
        model: SegformerModel,
        taps: Sequence[int],
        *,
        family: str,
        size: str,
        default_weights: DefaultWeights | None = None,
    ) -> None:
        super().__init__()
        config: Any = model.config
        self.model = model
        self.taps = list(taps)
        self.family, self.size, self.default_weights = family, size, default_weights
        strides = list(accumulate(config.strides, mul))
        self.strides = [float(strides[tap]) for tap in self.taps]
        self.channels = [int(config.hidden_sizes[tap]) for tap in self.taps]
        # Every stage's map, and its keys and values, then hold a whole number of cells.
        self.grid = max(stride * ratio for stride, ratio in zip(strides, config.sr_ratios, strict=True))
        self._first_layer = [0, *accumulate(config.depths)]
        self.num_layers = self._first_layer[-1]
        self.last_layer = self._first_layer[max(self.taps) + 1]
        self._checkpointed = False

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W), H and W multiples of 32 -> one (B, C_i, H / stride_i, W / stride_i) per tapped stage."""
        maps = [image]
        for stage in list(self.model.stages)[: max(self.taps) + 1]:
            maps.append(self._run_stage(stage, maps[-1]))
        return [maps[tap + 1] for tap in self.taps]

    def _run_stage(self, stage: Any, map_BChw: Tensor) -> Tensor:
        """transformers' SegformerStage.forward; the blocks are called here so that they can be checkpointed in eval mode."""
        tokens_BND, height, width = stage.patch_embeddings(map_BChw)
        for block in stage.blocks:
            tokens_BND = self._run_block(block, tokens_BND, height, width)
        return stage.layer_norm(tokens_BND).unflatten(1, (height, width)).permute(0, 3, 1, 2).contiguous()

    def _run_block(self, block: nn.Module, tokens_BND: Tensor, height: int, width: int) -> Tensor:
        # transformers' own flag acts in train mode alone, and a backbone under LoRA is in eval mode.
        if self._checkpointed and torch.is_grad_enabled():
            return checkpoint(block, tokens_BND, height, width, use_reentrant=False)
        return block(tokens_BND, height, width)

    def layer_of(self, name: str) -> int:
        """Depth of a parameter of this module: 0 the first embedding, i + 1 block i, counted through all stages.

        The embedding of a later stage goes with the block behind it, a stage's norm with the block before it.
        """
        _, stage, part, *rest = name.removeprefix("model.").split(".")
        first, end = self._first_layer[int(stage)], self._first_layer[int(stage) + 1]
        if part == "blocks":
            return first + int(rest[0]) + 1
        if part == "layer_norm":
            return end
        return first + 1 if first else 0

    def set_drop_path(self, rate: float) -> None:
        """Stochastic depth (arXiv 1603.09382), from 0 at the first block to `rate` at the last, while training."""
        stages: Any = self.model.stages
        blocks = [block for stage in stages for block in stage.blocks]
        rates: Any = calculate_drop_path_rates(rate, len(blocks))
        for block, drop in zip(blocks, rates, strict=True):
            block.drop_path = DropPath(drop).train(block.training)

    def set_grad_checkpointing(self, enabled: bool) -> None:
        """Compute each block's activations again in the backward pass instead of keeping them."""
        self._checkpointed = enabled


def create(widths: Sequence[int], depths: Sequence[int], heads: Sequence[int] = (1, 2, 5, 8)) -> SegformerModel:
    """transformers' encoder of four stages with random weights and without drop path."""
    config = SegformerConfig(
        hidden_sizes=list(widths), depths=list(depths), num_attention_heads=list(heads), drop_path_rate=0.0
    )
    return SegformerModel(config)


def resolve_taps(size: str, taps: Sequence[int] | None) -> list[int]:
    """The tapped stages, written out; all four unless others are asked for. Raises ConfigError."""
    known_size("mit", size, SIZES)
    if taps is None:
        return STAGES.copy()
    if not taps or sorted(set(taps)) != list(taps) or not set(taps) <= set(STAGES):
        raise ConfigError(
            f"model.feature_layers={list(taps)} must name stages of MiT from 0 to 3, ascending and without repetition; "
            "null takes all four."
        )
    return list(taps)


def statistics(size: str, args: Args) -> dict[str, list[float]]:
    """Mean and standard deviation of the three channels, for values in 0..1."""
    return IMAGENET


def build(size: str, taps: Sequence[int], args: Args) -> MiT:
    """A MiT with random weights."""
    known_size("mit", size, SIZES)
    name = f"mit-{size}"
    weights = DefaultWeights(file=name, hub=f"nvidia/{name}", licence="nvidia-segformer-noncommercial")
    return MiT(create(*SIZES[size]), taps, family="mit", size=size, default_weights=weights)
