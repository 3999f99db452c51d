"""The side of the model: which tensors pretrained weights have to fill."""

from typing import Protocol

from torch import Tensor, nn

from nnvit.types import DefaultWeights

State = dict[str, Tensor]


class PretrainedBackbone(Protocol):
    """What loading needs to know of a backbone; `model` is the timm model inside it."""

    @property
    def family(self) -> str: ...
    @property
    def size(self) -> str: ...
    @property
    def model(self) -> nn.Module: ...
    @property
    def default_weights(self) -> DefaultWeights | None: ...


def target_tensors(model: nn.Module) -> State:
    """The model's tensors without LoRA adapters, under the names from before peft wrapped some of them."""
    return {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in model.state_dict().items()
        if not any(part.startswith("lora_") for part in name.split("."))
    }
