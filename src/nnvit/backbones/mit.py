"""SegFormer's own encoder, the Mix Transformer (Xie et al. 2021, arXiv 2105.15203): MiT-B0 to B5, by transformers.

nnvit's state-dict names are those of transformers 5.23 in memory (`stages.0.blocks.0.attention.q_proj…`). If transformers
renames its modules again, a golden test fails, and the mapping belongs in this file.

Files of transformers' SegformerModel, …ForSemanticSegmentation and …ForImageClassification have either these names or the
hub's, which transformers writes by default. The decode head's tensors are kept apart, for head `segformer` to take.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate
from operator import mul
from typing import Any, ClassVar

import torch
from timm.layers import DropPath, calculate_drop_path_rates
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import SegformerConfig
from transformers.models.segformer.modeling_segformer import SegformerModel

from nnvit.errors import ConfigError, WeightsError
from nnvit.types import Backbone, BaseFamily, Converted, DefaultWeights, State

_LICENCE = "nvidia-segformer-noncommercial"

# transformers 5.23's own conversion of SegformerModel's names on the hub, after the prefix of the wrapping models
_HUB_NAMES = {
    r"^(segformer\.)?(encoder\.)?": "",
    r"^patch_embeddings\.(\d+)\.": r"stages.\1.patch_embeddings.",
    r"^block\.(\d+)\.": r"stages.\1.blocks.",
    r"^layer_norm\.(\d+)\.": r"stages.\1.layer_norm.",
    r"\.attention\.self\.query\.": ".attention.q_proj.",
    r"\.attention\.self\.key\.": ".attention.k_proj.",
    r"\.attention\.self\.value\.": ".attention.v_proj.",
    r"\.attention\.self\.sr\.": ".attention.sequence_reduction.sequence_reduction.",
    r"\.attention\.self\.layer_norm\.": ".attention.sequence_reduction.layer_norm.",
    r"\.attention\.output\.dense\.": ".attention.o_proj.",
    r"\.mlp\.dense([12])\.": r".mlp.fc\1.",
    r"\.layer_norm_1\.": ".layernorm_before.",
    r"\.layer_norm_2\.": ".layernorm_after.",
}
_FIRST = "stages.0.patch_embeddings.proj.weight"
_CONFIG_KEYS = ("num_attention_heads", "hidden_act", "strides", "patch_sizes")
"""Entries of config.json that change the network's output but not the shapes of its tensors."""


class MiT(Backbone):
    """Four stages of strides 4, 8, 16 and 32, each ending in a layer norm that its map and the next stage both read.

    model: transformers' SegformerModel. taps: 0-based stages, ascending. names: family, size and default_weights, as for
    Backbone.
    """

    model: SegformerModel

    def __init__(self, model: SegformerModel, taps: Sequence[int], **names: Any) -> None:
        super().__init__(model, taps, **names)
        config: Any = model.config
        strides = list(accumulate(config.strides, mul))
        self.strides = [float(strides[tap]) for tap in self.taps]
        self.channels = [int(config.hidden_sizes[tap]) for tap in self.taps]
        # Every stage's map, and its keys and values, then hold a whole number of cells.
        self.grid = max(stride * ratio for stride, ratio in zip(strides, config.sr_ratios, strict=True))
        self._first_layer = [0, *accumulate(config.depths)]
        self.num_layers = self._first_layer[-1]
        self.last_layer = self._first_layer[max(self.taps) + 1]
        self._checkpointed = False

    @staticmethod
    def create(widths: Sequence[int], depths: Sequence[int], heads: Sequence[int] = (1, 2, 5, 8)) -> SegformerModel:
        """Builds transformers' encoder of four stages with random weights and without drop path."""
        config = SegformerConfig(
            hidden_sizes=list(widths), depths=list(depths), num_attention_heads=list(heads), drop_path_rate=0.0
        )
        return SegformerModel(config)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W), H and W multiples of 32 -> one (B, C_i, H / stride_i, W / stride_i) per tapped stage."""
        maps = [image]
        for stage in list(self.model.stages)[: max(self.taps) + 1]:
            maps.append(self._run_stage(stage, maps[-1]))
        return [maps[tap + 1] for tap in self.taps]

    def _run_stage(self, stage: Any, map_BChw: Tensor) -> Tensor:
        """Does what SegformerStage.forward of transformers does; calls the blocks here to checkpoint them in eval mode too."""
        tokens_BND, height, width = stage.patch_embeddings(map_BChw)
        for block in stage.blocks:
            tokens_BND = self._run_block(block, tokens_BND, height, width)
        return stage.layer_norm(tokens_BND).unflatten(1, (height, width)).permute(0, 3, 1, 2).contiguous()

    def _run_block(self, block: nn.Module, tokens_BND: Tensor, height: int, width: int) -> Tensor:
        # transformers' own flag works in train mode only, and a backbone with LoRA is in eval mode.
        if self._checkpointed and torch.is_grad_enabled():
            return checkpoint(block, tokens_BND, height, width, use_reentrant=False)
        return block(tokens_BND, height, width)

    def layer_of(self, name: str) -> int:
        """Returns the depth of a parameter: 0 for the first embedding, i + 1 for block i, counted through all stages.

        The embedding of a later stage has the depth of the block after it, a stage's norm that of the block before it.
        """
        _, stage, part, *rest = name.removeprefix("model.").split(".")
        first, end = self._first_layer[int(stage)], self._first_layer[int(stage) + 1]
        if part == "blocks":
            return first + int(rest[0]) + 1
        if part == "layer_norm":
            return end
        return first + 1 if first else 0

    def set_drop_path(self, rate: float) -> None:
        """Sets stochastic depth (arXiv 1603.09382), from 0 at the first block to `rate` at the last, while training."""
        stages: Any = self.model.stages
        blocks = [block for stage in stages for block in stage.blocks]
        rates: Any = calculate_drop_path_rates(rate, len(blocks))
        for block, drop in zip(blocks, rates, strict=True):
            block.drop_path = DropPath(drop).train(block.training)

    def set_grad_checkpointing(self, enabled: bool) -> None:
        """Computes each block's activations again in the backward pass instead of keeping them, or stops doing so."""
        self._checkpointed = enabled

    def check_config(self, config: Mapping[str, Any]) -> None:
        """Raises WeightsError if a config.json describes another computation, for which tensors of the same shapes would fit.

        A key that the file lacks passes.
        """
        model: Any = self.model.config
        # as JSON has them: a list for a tuple
        expected = {key: list(value) if isinstance(value, tuple) else value for key, value in model.to_dict().items()}
        differing = [key for key in _CONFIG_KEYS if key in config and config[key] != expected[key]]
        if differing:
            listed = ", ".join(f"{key}={config[key]} (the model has {expected[key]})" for key in differing)
            raise WeightsError(
                f"its config.json says {listed}: the same weights would compute something else. Only the published MiT"
                " sizes are built here."
            )


def _transformers(state: State, names: Collection[str]) -> Converted | None:
    """transformers' SegFormer files in either naming -> nnvit's MiT; the decode head is kept apart.

    Keys that are not known keep their names, for the caller to refuse.
    """
    decode_head = {name: tensor for name, tensor in state.items() if name.startswith("decode_head.")}
    dropped = (*(name for name in state if name.startswith("classifier.")), *decode_head)
    rest = {name: tensor for name, tensor in state.items() if name not in dropped}
    encoder = rest
    for pattern, ours in _HUB_NAMES.items():
        encoder = {re.sub(pattern, ours, name): tensor for name, tensor in encoder.items()}
    if _FIRST not in encoder:
        return None
    if len(encoder) < len(rest):
        raise WeightsError("some of its tensors exist in both of transformers' SegFormer layouts; keep one set.")
    return Converted(
        layout="SegFormer in transformers' memory" if any(_FIRST in name for name in rest) else "SegFormer hub",
        state=encoder,
        dropped=dropped,
        ambiguity="every MiT of this size has this layout, whatever images it was trained on",
        decode_head=decode_head,
    )


class Family(BaseFamily):
    """No keys of its own. SIZES: size -> widths and numbers of blocks of the four stages."""

    SIZES: ClassVar[Mapping[str, tuple[Sequence[int], Sequence[int]]]] = {
        "b0": ((32, 64, 160, 256), (2, 2, 2, 2)),
        "b1": ((64, 128, 320, 512), (2, 2, 2, 2)),
        "b2": ((64, 128, 320, 512), (3, 4, 6, 3)),
        "b3": ((64, 128, 320, 512), (3, 4, 18, 3)),
        "b4": ((64, 128, 320, 512), (3, 8, 27, 3)),
        "b5": ((64, 128, 320, 512), (3, 6, 40, 3)),
    }
    LORA_TARGETS = ("q_proj", "v_proj")
    LAYOUTS = (_transformers,)

    @classmethod
    def resolve_taps(cls, size: str, taps: Sequence[int] | None) -> list[int]:
        """Returns the tapped stages, all four for None. Raises ConfigError."""
        cls.check_size(size)
        stages = [0, 1, 2, 3]
        if taps is None:
            return stages
        if not taps or sorted(set(taps)) != list(taps) or not set(taps) <= set(stages):
            raise ConfigError(
                f"model.feature_layers={list(taps)} must name stages of MiT from 0 to 3, ascending and without repetition; "
                "null takes all four."
            )
        return list(taps)

    def build(self, size: str, taps: Sequence[int]) -> MiT:
        """Builds a MiT with random weights."""
        self.check_size(size)
        name = f"mit-{size}"
        weights = DefaultWeights(file=name, hub=f"nvidia/{name}", licence=_LICENCE)
        return MiT(MiT.create(*self.SIZES[size]), taps, family="mit", size=size, default_weights=weights)
