"""Encoder-only mask transformer (Kerssies et al. 2025, arXiv 2503.19108): a plain ViT whose last blocks see queries too.

There is no pixel decoder and no transformer decoder: queries join the tokens before the last `num_blocks` blocks, and
predict classes and masks before each of them and at the end, equal to transformers' EomtForUniversalSegmentation. While
training, a query attends at first only to the patches of its last mask; the masking fades out block by block, so that a
finished network needs none.

B batch, Q queries, N tokens, D their width, K classes, C = K + 1 classes and "no object", h w the masks' height and width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn.functional import interpolate

from nnvit.errors import ConfigError
from nnvit.recipe.schema import ModelConfig, at_least
from nnvit.types import Backbone, TokenView

from . import _queries

TOKENS = True
"""The head reads the backbone's token view, not maps."""


class Encoder(Backbone, TokenView, Protocol):
    """A backbone with a token view."""


@dataclass(kw_only=True)
class Config(ModelConfig):
    """num_queries: masks that are predicted. num_blocks: blocks at the end of the encoder that the queries pass.

    num_upscale_blocks: doublings of the patch grid for the masks; 2 makes a quarter of the patch stride.
    """

    head: str = "eomt"
    neck: str = "same_scale"
    num_queries: int = 100
    num_blocks: int = 4
    num_upscale_blocks: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("model.num_queries", self.num_queries, 1)
        at_least("model.num_blocks", self.num_blocks, 1)
        at_least("model.num_upscale_blocks", self.num_upscale_blocks, 0)


class Head(nn.Module):
    """channels, strides: of the backbone's maps, of which the last says the tokens' width and the patch size.

    progress: the share of the training that is done; the masking of attention follows it.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[float],
        num_classes: int,
        *,
        num_queries: int = 100,
        num_blocks: int = 4,
        num_upscale_blocks: int = 2,
    ) -> None:
        super().__init__()
        width = channels[-1]
        self.num_classes, self.num_queries, self.num_blocks = num_classes, num_queries, num_blocks
        self.stride = strides[-1] / 2**num_upscale_blocks
        self.regions, self.progress = False, 1.0
        self.queries = nn.Embedding(num_queries, width)  # N(0, 1), as the paper's code and transformers have it
        self.mask_embedding = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
        )
        self.upscale = nn.Sequential(*(_doubling(width) for _ in range(num_upscale_blocks)))
        self.classifier = nn.Linear(width, num_classes + 1)

    def check(self, backbone: Encoder) -> None:
        """Raises ConfigError where the backbone has fewer blocks than the queries should pass."""
        if self.num_blocks > backbone.num_layers:
            raise ConfigError(
                f"model.num_blocks={self.num_blocks} is more than the {backbone.num_layers} blocks of the backbone; "
                f"set it between 1 and {backbone.num_layers}, the paper's is 4."
            )

    def forward(self, source: Encoder, image: Tensor) -> Tensor:
        """Backbone, image (B, 3, H, W) -> logits (B, num_classes, h, w), in fp32."""
        return self.logits(*self._decode(source, image, every=False)[-1])

    def layers(self, source: Encoder, image: Tensor) -> list[tuple[Tensor, Tensor]]:
        """One (classes (B, Q, C), masks (B, Q, h, w)) before each of the last blocks, and one at the end."""
        return self._decode(source, image, every=True)

    def logits(self, classes_BQC: Tensor, masks_BQhw: Tensor) -> Tensor:
        """A layer's prediction as logits (B, K, h, w), in fp32."""
        return _queries.semantic_logits(classes_BQC, masks_BQhw, regions=self.regions)

    def native_loss(self, ignore_label: int | None) -> nn.Module:
        """Mask2Former's set loss of every layer. Raises ConfigError where the data set has an ignore label."""
        return _queries.native_loss(self.num_classes, self.stride, regions=self.regions, ignore_label=ignore_label)

    def _decode(self, source: Encoder, image: Tensor, *, every: bool) -> list[tuple[Tensor, Tensor]]:
        """The predictions in order; without `every`, only the last and those that mask the attention."""
        tokens, positions = source.embed(image)
        first = source.num_layers - self.num_blocks
        for index in range(first):
            tokens = source.run_block(index, tokens, positions)
        tokens = torch.cat([tokens, self.queries.weight.expand(len(tokens), -1, -1)], dim=1)
        predictions = []
        for joint in range(self.num_blocks):
            share, attn_mask = self._masked_share(joint), None
            if every or share:
                predictions.append(self._predict(source, tokens, image))
            if share:
                attn_mask = self._attention(source, tokens, image, predictions[-1][1], share)
            tokens = source.run_block(first + joint, tokens, positions, extra=self.num_queries, attn_mask=attn_mask)
        return [*predictions, self._predict(source, tokens, image)]

    def _predict(self, source: Encoder, tokens_BND: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Patch and query tokens -> classes (B, Q, C), masks (B, Q, h, w)."""
        tokens_BND = source.norm(tokens_BND)
        patches_BND, queries_BQD = tokens_BND[:, : -self.num_queries], tokens_BND[:, -self.num_queries :]
        pixels_BDhw = self.upscale(source.to_map(patches_BND, image))
        masks = torch.einsum("bqd,bdhw->bqhw", self.mask_embedding(queries_BQD), pixels_BDhw)
        return self.classifier(queries_BQD), masks

    def _masked_share(self, joint: int) -> float:
        """How many of the queries joint block `joint` masks: from 1 to 0, one block after the other, 0 when not training.

        As in the published configurations, each block fades over a sixth of the training, the first from 1/6 on, the last
        from 4/6 on, by (1 - t)^0.9.
        """
        if not self.training:
            return 0.0
        start = 1 / 6 + joint / max(self.num_blocks - 1, 1) / 2
        return (1 - min(max((self.progress - start) * 6, 0.0), 1.0)) ** 0.9

    def _attention(
        self, source: Encoder, tokens_BND: Tensor, image: Tensor, masks_BQhw: Tensor, share: float
    ) -> Tensor:
        """What is added to the attention's logits: (B, 1, N, N), 0, or -inf from a masked query to a patch outside its mask."""
        queries, every = self.num_queries, tokens_BND.shape[1]
        size = source.to_map(tokens_BND[:, :-queries], image).shape[-2:]
        inside_BQP = interpolate(masks_BQhw.detach(), size, mode="bilinear").flatten(2) > 0
        free_BQ = torch.rand(inside_BQP.shape[:2], device=inside_BQP.device) > share
        hidden_BQP = ~(inside_BQP | free_BQ[..., None])
        patches = slice(every - queries - inside_BQP.shape[2], every - queries)
        mask_BNN = tokens_BND.new_zeros(len(tokens_BND), every, every)
        mask_BNN[:, -queries:, patches].masked_fill_(hidden_BQP, float("-inf"))
        return mask_BNN[:, None]


def _doubling(width: int) -> nn.Sequential:
    """(B, D, h, w) -> (B, D, 2h, 2w), as ViTDet's pyramid with a depthwise convolution."""
    return nn.Sequential(
        nn.ConvTranspose2d(width, width, 2, stride=2),
        nn.GELU(),
        nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
        LayerNorm2d(width),
    )


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """This head's state dict from transformers' EomtForUniversalSegmentation; the encoder and the loss are left out.

    Raises KeyError where the mapping holds no such head.
    """
    inner = {"conv1": "0", "conv2": "2", "layernorm2d": "3"}
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        part, *rest = name.split(".")
        if part == "query":
            out["queries.weight"] = value
        elif part == "class_predictor":
            out[f"classifier.{rest[0]}"] = value
        elif part == "mask_head":
            out[f"mask_embedding.{2 * (int(rest[0].removeprefix('fc')) - 1)}.{rest[1]}"] = value
        elif part == "upscale_block":
            out[f"upscale.{rest[1]}.{inner[rest[2]]}.{rest[3]}"] = value
    _ = out["classifier.weight"]
    return out
