"""Encoder-only mask transformer (Kerssies et al. 2025, arXiv 2503.19108): a plain ViT whose last blocks see queries too.

There is no pixel decoder and no transformer decoder. Queries join the tokens before the last `num_blocks` blocks, and
predict classes and masks before each of them and at the end, equal to transformers' EomtForUniversalSegmentation. In
training, a query attends at first only to the patches inside its last mask; the masking fades out block by block, so that
a finished network has none.

B batch, Q queries, N tokens, D their width, K classes, C = K + 1 classes and "no object", h w the masks' height and width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn.functional import interpolate

from nnvit.errors import ConfigError
from nnvit.recipe.schema import ModelConfig, at_least
from nnvit.types import TokenBackbone

from ._queries import QueryHead


@dataclass(kw_only=True)
class Config(ModelConfig):
    """num_queries: number of predicted masks. num_blocks: number of blocks at the end of the encoder that the queries pass.

    num_upscale_blocks: doublings of the patch grid for the masks; 2 makes a quarter of the patch stride.
    """

    head: str = "eomt"
    neck: str = "same_scale"
    num_queries: int = at_least(1, 100)
    num_blocks: int = at_least(1, 4)
    num_upscale_blocks: int = at_least(0, 2)


class Head(QueryHead):
    """channels, strides: of the backbone's maps; the last ones are the tokens' width and the patch size.

    The masking of attention follows `progress`.
    """

    reads_tokens: ClassVar[bool] = True

    def __init__(self, channels: Sequence[int], strides: Sequence[float], num_classes: int, config: Config) -> None:
        super().__init__(num_classes, stride=strides[-1] / 2**config.num_upscale_blocks)
        width = channels[-1]
        self.num_queries, self.num_blocks = config.num_queries, config.num_blocks
        self.queries = nn.Embedding(self.num_queries, width)  # N(0, 1), as in the paper's code and in transformers
        self.mask_embedding = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
        )
        self.upscale = nn.Sequential(*(_doubling(width) for _ in range(config.num_upscale_blocks)))
        self.classifier = nn.Linear(width, num_classes + 1)

    def check(self, backbone: TokenBackbone) -> None:
        """Raises ConfigError if the backbone has fewer blocks than the queries should pass."""
        if self.num_blocks > backbone.num_layers:
            raise ConfigError(
                f"model.num_blocks={self.num_blocks} is more than the {backbone.num_layers} blocks of the backbone; "
                f"set it between 1 and {backbone.num_layers}, the paper's is 4."
            )

    def forward(self, source: TokenBackbone, image: Tensor) -> Tensor:
        """Backbone, image (B, 3, H, W) -> logits (B, num_classes, h, w), in fp32."""
        return self.logits(*self._decode(source, image, every=False)[-1])

    def layers(self, source: TokenBackbone, image: Tensor) -> list[tuple[Tensor, Tensor]]:
        """One (classes (B, Q, C), masks (B, Q, h, w)) before each of the last blocks, and one at the end."""
        return self._decode(source, image, every=True)

    def _decode(self, source: TokenBackbone, image: Tensor, *, every: bool) -> list[tuple[Tensor, Tensor]]:
        """Returns the predictions in order; without `every`, only the last and those that mask the attention."""
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

    def _predict(self, source: TokenBackbone, tokens_BND: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Patch and query tokens -> classes (B, Q, C), masks (B, Q, h, w)."""
        tokens_BND = source.norm(tokens_BND)
        patches_BND, queries_BQD = tokens_BND[:, : -self.num_queries], tokens_BND[:, -self.num_queries :]
        pixels_BDhw = self.upscale(source.to_map(patches_BND, image))
        masks = torch.einsum("bqd,bdhw->bqhw", self.mask_embedding(queries_BQD), pixels_BDhw)
        return self.classifier(queries_BQD), masks

    def _masked_share(self, joint: int) -> float:
        """Returns the share of queries that joint block `joint` masks, from 1 to 0 over the training; 0 outside training.

        Each block fades over a sixth of the training by (1 - t)^0.9, the first from 1/6 on, the last from 4/6 on, as in the
        published configurations.
        """
        if not self.training:
            return 0.0
        start = 1 / 6 + joint / max(self.num_blocks - 1, 1) / 2
        return (1 - min(max((self.progress - start) * 6, 0.0), 1.0)) ** 0.9

    def _attention(
        self, source: TokenBackbone, tokens_BND: Tensor, image: Tensor, masks_BQhw: Tensor, share: float
    ) -> Tensor:
        """Returns what the attention's logits (B, 1, N, N) add: -inf from a masked query to patches outside its mask, else 0."""
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
    """(B, D, h, w) -> (B, D, 2h, 2w), as in ViTDet's pyramid, with a depthwise convolution."""
    return nn.Sequential(
        nn.ConvTranspose2d(width, width, 2, stride=2),
        nn.GELU(),
        nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
        LayerNorm2d(width),
    )
