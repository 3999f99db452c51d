"""The network: input adapter -> backbone -> neck -> head -> logits at the image's own size.

B batch, C input channels, H W height and width, K classes.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Literal

import peft
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from nnvit import registry
from nnvit.errors import ConfigError
from nnvit.recipe.schema import ARCH_VERSION
from nnvit.types import TokenBackbone
from nnvit.weights import external


class _InputAdapter(nn.Module):
    """Turns any number of channels into three, standardised with the backbone's statistics if they are given.

    One channel is repeated three times, three are kept, and any other number goes through a learned 1 x 1 convolution that
    starts as their mean.
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


class _AuxiliaryClassifiers(nn.Module):
    """One 1 x 1 convolution per scale on the neck's map with the nearest stride, as in FCN's auxiliary heads.

    channels, strides: of the neck's maps; scales: (height, width) factors of the image.
    """

    def __init__(
        self, channels: Sequence[int], strides: Sequence[float], num_classes: int, scales: Sequence[Sequence[float]]
    ) -> None:
        super().__init__()
        distances = [[abs(1 / min(scale) - stride) for stride in strides] for scale in scales]
        self.sources = [distance.index(min(distance)) for distance in distances]
        self.classifiers = nn.ModuleList(nn.Conv2d(channels[i], num_classes, 1) for i in self.sources)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The neck's maps -> one (B, K, h, w) per scale, each at its map's own size."""
        return [classifier(maps[i]) for i, classifier in zip(self.sources, self.classifiers, strict=True)]


class Segmenter(nn.Module):
    """A backbone, a neck and a head as one network, built from plain data with random weights.

    nnU-Net builds it from the plans: `Segmenter(input_channels=, num_classes=, **arch_kwargs)`.

    backbone: {name, size, taps, args}. neck: {name, args}. head: {name, **its own keys}. tuning: lora | frozen | full.
    lora: {r, lora_alpha, lora_dropout, target_modules} for tuning "lora". input_stats: {mean, std} of 3 channels or
    None. regions: classes may overlap. aux: "native" for the outputs that the head's own loss reads, or the (height, width)
    factors of nnU-Net's auxiliary outputs; returned while `deep_supervision` is on, which never changes the parameters.
    Raises ConfigError if the parts do not fit.
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
        regions: bool = False,
        aux: Literal["native"] | Sequence[Sequence[float]] | None = None,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        if arch_version > ARCH_VERSION:
            raise ConfigError(
                f"this network was planned by a newer nnvit (arch_version {arch_version}, this one knows up to "
                f"{ARCH_VERSION}); run `pip install -U nnvit`."
            )
        self.aux, self.deep_supervision = aux, deep_supervision
        self.weights_report: Any = None
        self.input = _InputAdapter(input_channels, input_stats)
        self.backbone = registry.build_backbone(**backbone)
        heads, necks = registry.module("head", head["name"]), registry.module("neck", neck["name"])
        if heads.Head.reads_tokens:
            _check_tokens(head["name"], neck["name"], self.backbone)
        neck_args = necks.Args(**neck["args"])
        self.neck = necks.Neck(self.backbone.channels, self.backbone.strides, neck_args)
        # keys that the plans of an older release lack take their defaults in `Config`
        config = heads.Config(**{key: value for key, value in head.items() if key != "name"})
        self.head = heads.Head(self.neck.channels, self.neck.strides, num_classes, config)
        self.by_tokens, self.by_queries = self.head.reads_tokens, self.head.by_queries
        self.head.check(self.backbone)
        self.auxiliary: nn.Module | None = None
        if self.by_queries:
            self.head.regions = regions
        elif aux is not None:
            self.auxiliary = _AuxiliaryClassifiers(self.neck.channels, self.neck.strides, num_classes, aux)  # type: ignore[arg-type]
        refinement = self.neck.refinement
        self.refine = None if refinement is None else refinement(self.neck.channels, num_classes, neck_args)
        if self.refine is not None and aux == "native":
            raise ConfigError(
                f"model.neck={neck['name']} refines the logits, which the head's own loss does not read; set "
                "training.loss=nnunet, or model.neck=simple_pyramid."
            )
        if tuning == "lora":
            self.add_adapters(**(lora or {}))  # without them, or without one of their keys: TypeError
        else:
            self.set_tuning(tuning)
        self.register_load_state_dict_pre_hook(external.restore)  # loads the weights that a checkpoint leaves out

    def forward(self, image_BCHW: Tensor) -> Any:
        """(B, C, H, W) of any height and width -> logits (B, K, H, W), in fp32.

        With `aux` and while `deep_supervision` is on: a list whose first element they are.
        """
        size = image_BCHW.shape[-2:]
        image = self._seen(image_BCHW)
        source = self.backbone if self.by_tokens else self.neck(self._maps(image), image)
        supervised = self.deep_supervision and self.aux is not None
        layers = self.head.layers(source, image) if supervised and self.by_queries else []
        logits = self.head.logits(*layers[-1]) if layers else self.head(source, image)
        if self.refine is not None:
            logits = self.refine(logits, source, image)
        logits = self.resized(logits, image, size)
        if not supervised:
            return logits
        if self.aux == "native":
            return [logits, *chain.from_iterable(layers)]
        coarse = [self.head.logits(*layer) for layer in reversed(layers[:-1])] if layers else self.auxiliary(source)  # type: ignore[misc]
        scales: Any = self.aux
        return [logits, *(self.resized(c, image, size, s) for c, s in zip(coarse, scales, strict=False))]

    def features(self, image_BCHW: Tensor) -> tuple[list[Tensor], Tensor]:
        """(B, C, H, W) -> the backbone's maps, and its input image (B, 3, H', W'), standardised and padded.

        With `decode` and `resized` this is `forward` in three steps, for several decoders on one backbone. Heads that read
        tokens (`by_tokens`) run inside the backbone and cannot be separated from it.
        """
        image = self._seen(image_BCHW)
        return self._maps(image), image

    def decode(self, maps: list[Tensor], image: Tensor) -> Tensor:
        """The result of `features` -> logits (B, K, h, w) of the padded image, at the stride of head or refinement.

        Under autocast the refinement stays in fp32: it draws thin structures, and bf16 would change half a percent of them.
        """
        source = self.neck(maps, image)
        logits = self.head(source, image)
        if self.refine is None:
            return logits
        with torch.autocast(image.device.type, enabled=False):
            return self.refine(logits.float(), [part.float() for part in source], image.float())

    @staticmethod
    def resized(logits: Tensor, image: Tensor, size: Sequence[int], scale: Sequence[float] = (1, 1)) -> Tensor:
        """Resizes logits to a padded image (.., H', W') times `scale` and crops its first `size` pixels, in fp32."""
        padded = [round(side * factor) for side, factor in zip(image.shape[-2:], scale, strict=True)]
        height, width = (round(side * factor) for side, factor in zip(size, scale, strict=True))
        logits = interpolate(logits.float(), padded, mode="bilinear", align_corners=False)
        return logits[..., :height, :width]

    def train(self, mode: bool = True) -> "Segmenter":
        """Does as nn.Module.train, but a frozen backbone stays in eval mode; only its adapters' dropout follows `mode`."""
        super().train(mode)
        if self.tuning != "full":
            self.backbone.eval()
            for layer in self.adapters().values():
                layer.lora_dropout.train(mode)
        return self

    def depth_of(self, name: str) -> int | None:
        """Returns the depth of a parameter within the backbone (0 for the embedding), None outside it."""
        in_backbone = name.removeprefix("backbone.")
        return None if in_backbone == name else self.backbone.layer_of(in_backbone)

    def set_progress(self, done: float) -> None:
        """Sets the share of the training that is done, 0 to 1, for the head; a finished network has 1."""
        self.head.progress = done

    def _seen(self, image_BCHW: Tensor) -> Tensor:
        """Standardises and pads; channels-last: fastest for convolutions, no copy for tokens."""
        image = self.input(image_BCHW)
        bottom, right = (-side % self.backbone.grid for side in image.shape[-2:])
        if bottom or right:
            image = pad(image, (0, right, 0, bottom), mode="replicate")
        return image.contiguous(memory_format=torch.channels_last)

    def _maps(self, image: Tensor) -> list[Tensor]:
        return [map_BChw.contiguous(memory_format=torch.channels_last) for map_BChw in self.backbone(image)]

    def set_tuning(self, tuning: str) -> None:
        """Requires gradients of just what `tuning` ("lora", "frozen" or "full") trains and the logits depend on."""
        self.tuning = tuning
        last = self.backbone.num_layers if self.by_tokens else self.backbone.last_layer
        norm_is_read = self.by_tokens or self.backbone.final_norm
        for name, parameter in self.backbone.named_parameters():
            depth = self.backbone.layer_of(name)
            is_norm = depth > self.backbone.num_layers
            unread = not norm_is_read if is_norm else depth > last
            tuned = tuning == "full" or (tuning == "lora" and ".lora_" in name)
            parameter.requires_grad_(tuned and not unread)
        self.train(self.training)

    def add_adapters(self, *, r: int, lora_alpha: int, lora_dropout: float, target_modules: Sequence[str]) -> None:
        """Adds LoRA adapters to every layer of the backbone whose name ends in one of `target_modules`, and trains only these.

        They are peft's, added in place, so that the backbone keeps its names and methods, and start as the identity. Raises
        ConfigError if a target matches no linear layer or convolution.
        """
        layers = self.backbone.model.named_modules()
        linear = {name for name, layer in layers if isinstance(layer, nn.Linear | nn.Conv2d)}
        for target in target_modules:
            if not any(f".{name}".endswith(f".{target}") for name in linear):
                raise ConfigError(
                    f"lora.target_modules names '{target}', which is no linear layer of this backbone; choose from "
                    f"{', '.join(sorted({name.split('.')[-1] for name in linear}))}."
                )
        config = peft.LoraConfig(
            r=r, lora_alpha=lora_alpha, lora_dropout=lora_dropout, target_modules=list(target_modules), bias="none"
        )
        peft.inject_adapter_in_model(config, self.backbone.model)
        self.set_tuning("lora")

    def adapters(self) -> dict[str, Any]:
        """Returns the layers of the backbone that carry adapters, by their names in the network."""
        return {n: layer for n, layer in self.named_modules() if isinstance(layer, peft.tuners.lora.LoraLayer)}

    def merge_adapters(self) -> int:
        """Adds every adapter's product to the weight of its layer and removes the adapter; returns how many there were.

        Merge in fp32, before any cast: in bf16, rounding loses up to a fifth of the product.
        """
        carrying = self.adapters()
        for name, layer in carrying.items():
            layer.merge(safe_merge=True)  # raises if a product is not finite
            parent, _, own = name.rpartition(".")
            setattr(self.get_submodule(parent), own, layer.get_base_layer())
        return len(carrying)


def _check_tokens(head: str, neck: str, backbone: Any) -> None:
    """Raises ConfigError if the backbone or the neck does not allow a head that works inside the encoder."""
    if not isinstance(backbone, TokenBackbone):
        raise ConfigError(
            f"model.head={head} puts its queries into the last blocks of a plain ViT, and backbone {backbone.family} shows "
            "no tokens; take dinov3, dinov2 or another plain ViT, or head mask2former."
        )
    if neck != "same_scale":
        raise ConfigError(f"model.head={head} reads the encoder itself and no neck; set model.neck=same_scale.")
