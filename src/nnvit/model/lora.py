"""LoRA by peft, added in place, so that the backbone keeps its names and methods."""

from collections.abc import Sequence
from typing import Any

import peft
from torch import nn

from nnvit.errors import ConfigError


def inject(model: nn.Module, *, r: int, lora_alpha: int, lora_dropout: float, target_modules: Sequence[str]) -> None:
    """Adds adapters to every layer whose name ends in one of `target_modules`. They start as the identity.

    Raises ConfigError if a target matches no linear layer or convolution.
    """
    linear = {name for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
    for target in target_modules:
        if not any(f".{name}".endswith(f".{target}") for name in linear):
            raise ConfigError(
                f"lora.target_modules names '{target}', which is no linear layer of this backbone; choose from "
                f"{', '.join(sorted({name.split('.')[-1] for name in linear}))}."
            )
    config = peft.LoraConfig(
        r=r,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        target_modules=list(target_modules),
        bias="none",
    )
    peft.inject_adapter_in_model(config, model)


def is_adapter(name: str) -> bool:
    """Returns True for the name of an adapter's parameter."""
    return ".lora_" in name


def adapters(module: nn.Module) -> list[Any]:
    """Returns the layers that carry adapters."""
    return [layer for layer in module.modules() if isinstance(layer, peft.tuners.lora.LoraLayer)]


def merge(module: nn.Module) -> int:
    """Adds every adapter's product to the weight of its layer and removes the adapter; returns how many there were.

    Merge in fp32, before any cast: in bf16, rounding loses up to a fifth of the product.
    """
    carrying = [
        (name, layer) for name, layer in module.named_modules() if isinstance(layer, peft.tuners.lora.LoraLayer)
    ]
    for name, layer in carrying:
        layer.merge(safe_merge=True)  # raises if a product is not finite
        parent, _, own = name.rpartition(".")
        setattr(module.get_submodule(parent), own, layer.get_base_layer())
    return len(carrying)
