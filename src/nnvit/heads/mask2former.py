"""Mask2Former (Cheng et al. 2022, arXiv 2112.01527): queries that attend to the pixels of the masks they predict.

The deformable pixel decoder and the masked-attention decoder are transformers' modules, in plain PyTorch, with transformers'
initialisation. Their names are in the state dict under `pixel_decoder.` and `decoder.`; a golden test fails if a release of
transformers renames them. Two departures from transformers, both as in the paper's code: the pixel decoder computes in fp32
under autocast (its sampling positions need it), and `dropout` drops no whole layers.

B batch, Q queries, K classes, C = K + 1 classes and "no object", h w a feature map's height and width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoder,
    Mask2FormerPreTrainedModel,
    Mask2FormerTransformerModule,
)

from nnvit.errors import ConfigError
from nnvit.recipe.schema import ModelConfig, at_least, fraction

from ._queries import QueryHead

_LEVELS, _GROUPS = 4, 32
"""Number of maps that the pixel decoder reads, and of groups in its normalisations."""
_SAME_NAME = (
    "num_queries", "encoder_layers", "decoder_layers", "encoder_feedforward_dim", "num_attention_heads", "dropout"
)  # fmt: skip
"""Keys that transformers' configuration has too."""


@dataclass(kw_only=True)
class Config(ModelConfig):
    """decoder_hidden_size: width of both decoders. num_queries: masks that are predicted.

    encoder_layers: of the pixel decoder. decoder_layers: number of predictions, one more than layers, as transformers
    counts. encoder_feedforward_dim, feedforward_dim: hidden widths of the pixel decoder's and the decoder's MLPs.
    """

    head: str = "mask2former"
    decoder_hidden_size: int = at_least(1, 256)
    num_queries: int = at_least(1, 100)
    encoder_layers: int = at_least(1, 6)
    decoder_layers: int = at_least(2, 10)
    encoder_feedforward_dim: int = at_least(1, 1024)
    feedforward_dim: int = at_least(1, 2048)
    num_attention_heads: int = at_least(1, 8)
    dropout: float = fraction(0.0)


class Head(QueryHead):
    """channels, strides: of four maps, finest first. Raises ConfigError for another number, or a width that is not divisible."""

    def __init__(self, channels: Sequence[int], strides: Sequence[float], num_classes: int, config: Config) -> None:
        super().__init__(num_classes, stride=strides[0])
        width = config.decoder_hidden_size
        if len(channels) != _LEVELS:
            raise ConfigError(
                f"head mask2former reads {_LEVELS} maps, but the neck gives {len(channels)}; set model.neck=simple_pyramid, or "
                f"model.feature_layers to {_LEVELS} blocks."
            )
        if width % _GROUPS or width % config.num_attention_heads:
            raise ConfigError(
                f"model.decoder_hidden_size={width} must be a multiple of {_GROUPS} (the groups of its normalisations) and of "
                f"model.num_attention_heads={config.num_attention_heads}; 256 with 8 is the paper's."
            )
        theirs = Mask2FormerConfig(
            feature_size=width,
            mask_feature_size=width,
            hidden_dim=width,
            dim_feedforward=config.feedforward_dim,
            **{key: getattr(config, key) for key in _SAME_NAME},
        )
        self.pixel_decoder = Mask2FormerPixelDecoder(theirs, feature_channels=list(channels))
        # transformers makes this one with a constructor that ignores `with torch.device(...)`
        self.pixel_decoder.level_embed = nn.Parameter(torch.empty(self.pixel_decoder.level_embed.shape))
        self.decoder = Mask2FormerTransformerModule(in_features=width, config=theirs)
        self.decoder.decoder.layerdrop = 0.0
        self.classifier = nn.Linear(width, num_classes + 1)
        # Outside the whole model some of these tensors are uninitialised memory, so its rule is applied to each module.
        self.apply(Mask2FormerPreTrainedModel(theirs)._init_weights)

    def forward(self, maps: list[Tensor], image: Tensor) -> Tensor:
        """One (B, C_i, h_i, w_i) per map -> logits (B, num_classes, h_0, w_0), in fp32."""
        return self.logits(*self.layers(maps, image)[-1])

    def layers(self, maps: list[Tensor], image: Tensor) -> list[tuple[Tensor, Tensor]]:
        """One (classes (B, Q, C), masks (B, Q, h_0, w_0)) of the queries before decoding, then one per decoder layer."""
        with torch.autocast(maps[0].device.type, enabled=False):
            pixels = self.pixel_decoder([map_BChw.float() for map_BChw in maps])
        decoded = self.decoder(pixels.multi_scale_features, pixels.mask_features)
        classes = [self.classifier(queries_QBD.transpose(0, 1)) for queries_QBD in decoded.intermediate_hidden_states]
        return list(zip(classes, decoded.masks_queries_logits, strict=True))
