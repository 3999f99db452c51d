"""The network: input adapter -> backbone -> neck -> head -> logits at the image's own size.

B batch, C input channels, H W height and width, K classes.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from . import lora as lora_adapters
from . import registry
from .errors import ConfigError

ARCH_VERSION = 1
"""Version of what `arch_kwargs` mean. Networks of older plans keep being built as their version says."""


class InputAdapter(nn.Module):
    """Any channels in, three out, standardised with the backbone's own statistics where there are any to apply.

    One channel is shown three times, three pass as they are, any other number goes through a learned 1 x 1 convolution
    that starts as their mean.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, stats: Mapping[str, list[float]] | None) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, 3, 1) if channels not in (1, 3) else None
        if self.mix is not None:
            nn.init.constant_(self.mix.weight, 1 / channels)
            nn.init.zeros_(self.mix.bias)  # type: ignore[arg-type]
        mean, std = (stats["mean"], stats["std"]) if stats else ([0.0] * 3, [1.0] * 3)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 3, H, W)."""
        rgb = image_BCHW.expand(-1, 3, -1, -1) if self.mix is None else self.mix(image_BCHW)
        return (rgb - self.mean) / self.std


class Segmenter(nn.Module):
    """A backbone, a neck and a head as one network, built from plain data with random weights.

    nnU-Net builds it from the plans: `Segmenter(input_channels=, num_classes=, **arch_kwargs)`.

    backbone: {name, size, taps, args}. neck: {name, args}. head: {name, **its own keys}. tuning: lora | frozen | full.
    lora: {r, lora_alpha, lora_dropout, target_modules} for tuning "lora". input_stats: {mean, std} of 3 channels or
    None. deep_supervision: what nnU-Net passes to every network; it changes nothing here, so that a network is the
    same in training and prediction. Raises ConfigError where the parts do not fit.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        arch_version: int,
        backbone: Mapping[str, Any],
        neck: Mapping[str, Any],
        head: Mapping[str, Any],
        tuning: str,
        lora: Mapping[str, Any] | None = None,
        input_stats: Mapping[str, list[float]] | None = None,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        if arch_version > ARCH_VERSION:
            raise ConfigError(
                f"this network was planned by a newer nnvit (arch_version {arch_version}, this one knows up to "
                f"{ARCH_VERSION}); run `pip install -U nnvit`."
            )
        self.tuning = tuning
        self.input = InputAdapter(input_channels, input_stats)
        self.backbone = build_backbone(**backbone)
        self.neck = _build_neck(self.backbone, **neck)
        self.head = _build_head(self.neck, num_classes, **head)
        if tuning == "lora":
            lora_adapters.inject(self.backbone.model, **(lora or {}))
        self._freeze()

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) of any height and width -> logits (B, K, H, W), in fp32."""
        height, width = image_BCHW.shape[-2:]
        grid = self.backbone.grid
        bottom, right = -height % grid, -width % grid
        image = self.input(image_BCHW)
        if bottom or right:
            image = pad(image, (0, right, 0, bottom), mode="replicate")
        logits = self.head(self.neck(self.backbone(image)))
        logits = interpolate(logits.float(), image.shape[-2:], mode="bilinear", align_corners=False)
        return logits[..., :height, :width]

    def train(self, mode: bool = True) -> "Segmenter":
        """Like nn.Module's, but what is frozen stays in eval mode; only its adapters' dropout follows `mode`."""
        super().train(mode)
        if self.tuning != "full":
            self.backbone.eval()
            for layer in lora_adapters.adapters(self.backbone):
                layer.lora_dropout.train(mode)
        return self

    def depth_of(self, name: str) -> int | None:
        """The depth of a parameter within the backbone (0 the embedding), None outside it."""
        in_backbone = name.removeprefix("backbone.")
        return None if in_backbone == name else self.backbone.layer_of(in_backbone)

    def _freeze(self) -> None:
        """Only what is tuned and contributes to the logits requires a gradient."""
        past_last_tap = max(self.backbone.taps) + 1
        for name, parameter in self.backbone.named_parameters():
            depth = self.backbone.layer_of(name)
            unread = past_last_tap < depth <= self.backbone.num_layers
            tuned = self.tuning == "full" or (self.tuning == "lora" and lora_adapters.is_adapter(name))
            parameter.requires_grad_(tuned and not unread)
        self.train(self.training)


def build_backbone(name: str, size: str, taps: list[int], args: Mapping[str, Any]) -> Any:
    """A backbone with random weights, from plain data. Raises ConfigError for an unknown one."""
    module = registry.module("backbone", name)
    return module.build(size, taps, module.Args(**args))


def _build_neck(backbone: Any, name: str, args: Mapping[str, Any]) -> Any:
    module = registry.module("neck", name)
    return module.Neck(backbone.channels, backbone.strides, module.Args(**args))


def _build_head(neck: Any, num_classes: int, name: str, **own_keys: Any) -> Any:
    return registry.module("head", name).Head(neck.channels, neck.strides, num_classes, **own_keys)
