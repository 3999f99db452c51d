"""timm's plain vision transformers (VisionTransformer and Eva) behind nnvit's backbone contract, and the base of their families.

B batch, H W height and width, N tokens, D their width, h w the patch grid's height and width.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import timm
import torch
from timm.layers import DropPath, calculate_drop_path_rates
from timm.models import checkpoint
from timm.models.eva import Eva, EvaAttention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from nnvit.errors import ConfigError, did_you_mean
from nnvit.types import Backbone, BaseFamily, DefaultWeights, TokenBackbone

ModelAndWeights = tuple[VisionTransformer | Eva, DefaultWeights | None]
"""timm's model with random weights, and the published weights that fill it, None if there are none."""


class TimmViT(TokenBackbone):
    """A plain ViT whose final norm is applied to every tap, as DINOv3's `get_intermediate_layers` does, or to none.

    Every map has the patch grid's stride. Position embeddings are interpolated to the image's size, so that the image may
    be any multiple of the patch size.

    model: a timm VisionTransformer or Eva. taps: 0-based blocks. names: family, size and default_weights, as for Backbone.
    """

    model: VisionTransformer | Eva

    def __init__(
        self, model: VisionTransformer | Eva, taps: Sequence[int], *, final_norm: bool = True, **names: Any
    ) -> None:
        super().__init__(model, taps, **names)
        self.rotary, self.final_norm = isinstance(model, Eva), final_norm
        self.grid = int(model.patch_embed.patch_size[0])
        self.num_layers = len(model.blocks)
        self.last_layer = max(self.taps) + 1
        self.strides = [float(self.grid)] * len(self.taps)
        self.channels = [int(model.embed_dim)] * len(self.taps)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W), H and W multiples of the patch size -> one (B, C, H / patch, W / patch) per tap."""
        maps: Any = self.model.forward_intermediates(
            image, indices=self.taps, norm=self.final_norm, stop_early=True, intermediates_only=True
        )
        return maps

    def embed(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, 3, H, W) -> the first block's input (B, N, D): class and register tokens, then the patches row by row.

        The second value holds the rotations that the blocks take, or None if positions are only added to the tokens.
        """
        tokens, positions = self.model.patch_embed(image), None
        if self.rotary:
            tokens, positions = self.model._pos_embed(tokens)
        else:
            tokens = self.model.patch_drop(self.model._pos_embed(tokens))
        return self.model.norm_pre(tokens), positions

    def run_block(
        self, index: int, tokens_BND: Tensor, positions: Tensor | None, extra: int = 0, attn_mask: Tensor | None = None
    ) -> Tensor:
        """Runs one block, (B, N, D) -> (B, N, D).

        positions: from `embed`. extra: number of tokens at the end that have no position.
        attn_mask: added to the attention's logits; broadcasts to (B, heads, N, N).
        """
        inputs: dict[str, Any] = {"attn_mask": attn_mask}
        if self.rotary:
            inputs["rope"] = self._rotations(index, positions, extra)
        block = self.model.blocks[index]
        if self.model.grad_checkpointing:
            return checkpoint(block, tokens_BND, **inputs)
        return block(tokens_BND, **inputs)

    def norm(self, tokens_BND: Tensor) -> Tensor:
        """Applies the final norm, (B, N, D) -> (B, N, D)."""
        return self.model.norm(tokens_BND)

    def to_map(self, tokens_BND: Tensor, image: Tensor) -> Tensor:
        """Class, register and patch tokens (B, N, D) of an image (B, 3, H, W) -> map of the patches (B, D, h, w)."""
        size = self.model.patch_embed.dynamic_feat_size((image.shape[-2], image.shape[-1]))
        return tokens_BND[:, self.model.num_prefix_tokens :].transpose(1, 2).unflatten(2, size)

    def set_drop_path(self, rate: float) -> None:
        """Sets stochastic depth (arXiv 1603.09382) from 0 at the first block to `rate` at the last, as timm builds it."""
        rates: Any = calculate_drop_path_rates(rate, self.num_layers)
        for block, drop in zip(self.model.blocks, rates, strict=True):
            for module in list(block.modules()):
                for name, _ in list(module.named_children()):
                    if name.startswith("drop_path"):
                        setattr(module, name, DropPath(drop) if drop else nn.Identity())

    def set_grad_checkpointing(self, enabled: bool) -> None:
        """Computes each block's activations again in the backward pass instead of keeping them, or stops doing so."""
        self.model.set_grad_checkpointing(enabled)

    def _rotations(self, index: int, positions: Tensor | None, extra: int) -> Tensor | None:
        """Returns block `index`'s rotations, `extra` identities (sine 0, cosine 1) appended: (.., patches + extra, 2 D')."""
        if positions is None:
            return None
        rotations = positions[index] if self.model.rope_mixed else positions
        if not extra:
            return rotations
        sine = rotations.new_zeros(*rotations.shape[:-2], extra, rotations.shape[-1] // 2)
        return torch.cat([rotations, torch.cat([sine, sine + 1], dim=-1)], dim=-2)

    def layer_of(self, name: str) -> int:
        """Returns the depth of a parameter: 0 for the embedding, i + 1 for block i, num_layers + 1 for the final norm."""
        parts = name.removeprefix("model.").split(".")
        if parts[0] == "blocks":
            return int(parts[1]) + 1
        return self.num_layers + 1 if parts[0] == "norm" else 0


@dataclass(kw_only=True)
class ViTFamily(BaseFamily):
    """Base of families of plain ViTs. SIZES: size -> number of blocks; TAPS: number of blocks -> published taps.

    final_norm: apply the final norm to every tap, as DINOv2's and DINOv3's evaluations do; false leaves the blocks' output
    as it is, which is timm's default and may suit networks trained elsewhere. Heads that read tokens apply it themselves.
    """

    final_norm: bool = True

    SIZES: ClassVar[Mapping[str, int]]
    LORA_TARGETS = ("qkv",)
    # blocks (0-based) that dense-prediction heads read in DINOv2's evaluations; quarters for 32
    TAPS: ClassVar[dict[int, list[int]]] = {
        12: [2, 5, 8, 11],
        24: [5, 11, 17, 23],
        32: [7, 15, 23, 31],
        40: [9, 19, 29, 39],
    }

    @classmethod
    def depth(cls, size: str) -> int:
        """Returns the number of blocks. Raises ConfigError for a size that does not exist."""
        cls.check_size(size)
        return cls.SIZES[size]

    @classmethod
    def resolve_taps(cls, size: str, taps: Sequence[int] | None) -> list[int]:
        """Returns the given blocks, else the published ones, else the last of each quarter. Raises ConfigError."""
        depth = cls.depth(size)
        if taps is None:
            return list(cls.TAPS.get(depth) or (depth * (i + 1) // 4 - 1 for i in range(4)))
        if not taps or sorted(set(taps)) != list(taps) or taps[0] < 0 or taps[-1] >= depth:
            raise ConfigError(
                f"model.feature_layers={list(taps)} must name blocks from 0 to {depth - 1}, ascending and without "
                "repetition; null takes the published ones."
            )
        return list(taps)

    def check_choice(self, key: str, choices: Iterable[str]) -> None:
        """Raises ConfigError that lists the values of `model.backbone_args.KEY` and names the nearest."""
        value, choices = getattr(self, key), list(choices)
        if value not in choices:
            raise ConfigError(
                f"model.backbone_args.{key}='{value}' is not known; use one of {', '.join(choices)}."
                + did_you_mean(value, choices)
            )

    def model_and_weights(self, size: str) -> ModelAndWeights:
        """Builds timm's model of this size with random weights, and names the published ones."""
        raise NotImplementedError

    def build(self, size: str, taps: Sequence[int]) -> Backbone:
        """Puts the family's model behind the backbone contract. Raises ConfigError for a size that does not exist."""
        self.check_size(size)
        model, weights = self.model_and_weights(size)
        return TimmViT(model, taps, family=self.name(), size=size, default_weights=weights, final_norm=self.final_norm)


def create(name: str, **kwargs: Any) -> VisionTransformer | Eva:
    """Builds a timm ViT with random weights and without classifier. Raises ConfigError if `name` is not a plain ViT."""
    if not timm.is_model(name):
        known = timm.list_models("vit_*") + timm.list_models("eva*") + timm.list_models("deit*")
        raise ConfigError(
            f"model.backbone_size='{name}' is not a timm model; `python -c \"import timm; "
            f"print(timm.list_models('vit_*'))\"` lists them.{did_you_mean(name, known)}"
        )
    try:
        model = timm.create_model(
            name, pretrained=False, num_classes=0, global_pool="", dynamic_img_size=True, **kwargs
        )
    except TypeError as error:
        raise _not_plain(name) from error
    if not isinstance(model, VisionTransformer | Eva):
        raise _not_plain(name)
    for module in model.modules():
        # A fused qkv with a bias calls F.linear on the raw weight, which bypasses LoRA; the separate one calls the layer.
        if isinstance(module, EvaAttention):
            module.qkv_bias_separate = True
    return model


def _not_plain(name: str) -> ConfigError:
    return ConfigError(
        f"model.backbone_size='{name}' is not a plain vision transformer (timm's VisionTransformer or Eva classes), "
        "the only kind that backbone 'timm' takes; `vit_*`, `deit3_*` and `eva02_*` names are."
    )


def renamed(key: str, rules: Mapping[str, str]) -> str:
    """Replaces every `old` in a key by its `new`."""
    for old, new in rules.items():
        key = key.replace(old, new)
    return key
