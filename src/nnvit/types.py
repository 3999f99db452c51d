"""What the parts of a network promise each other.

Shapes: B batch, C channels, H W the image's height and width, h w a feature map's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class DefaultWeights:
    """Where a family publishes the pretrained weights of one size.

    file: the publisher's own file name, as a user who asked for it would have it on disk.
    sha256: the start of that file's hash, or "" where the publisher names none.
    hub: a Hugging Face repository that holds the same weights, or "".
    licence: the licence's short name.
    """

    file: str
    sha256: str = ""
    hub: str = ""
    licence: str


@runtime_checkable
class Backbone(Protocol):
    """A feature extractor whose maps come finest first.

    strides: of each map against the image; channels: C_i of each map; grid: height and width of the image must be
    multiples of it; num_layers: transformer blocks; layer_of(name): the depth of a parameter, 0 for the embedding to
    num_layers + 1 for the final norm.
    """

    strides: Sequence[float]
    channels: Sequence[int]
    grid: int
    num_layers: int

    def __call__(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> one (B, C_i, h_i, w_i) per tapped layer, finest first."""
        ...

    def layer_of(self, name: str) -> int: ...


@runtime_checkable
class Neck(Protocol):
    """Turns the backbone's maps into those that the head reads; strides and channels describe what comes out."""

    strides: Sequence[float]
    channels: Sequence[int]

    def __call__(self, maps: list[Tensor]) -> list[Tensor]:
        """One (B, C_i, h_i, w_i) per tap -> one (B, channels[j], h_j, w_j) per output, finest first."""
        ...


@runtime_checkable
class Head(Protocol):
    """Turns maps into logits. The last layer is named `classifier`, so that a transfer can leave it out."""

    def __call__(self, maps: list[Tensor]) -> Tensor:
        """One (B, C_i, h_i, w_i) per map, finest first -> logits (B, num_classes, h_0, w_0)."""
        ...
