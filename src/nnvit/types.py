"""What the parts of a network promise each other.

Shapes: B batch, C channels, H W the image's height and width, h w a feature map's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class DefaultWeights:
    """Where a family publishes the pretrained weights of one size.

    file: the publisher's own file name, as a user who asked for it would have it on disk.
    sha256: the start of that file's hash, or "" where the publisher names none.
    hub: a Hugging Face repository that holds the same weights, or "".
    licence: the licence's short name.
    page: where the publisher says how to get the file, or "" where the hub repository does.
    """

    file: str
    sha256: str = ""
    hub: str = ""
    licence: str
    page: str = ""


@runtime_checkable
class Backbone(Protocol):
    """A feature extractor whose maps come finest first.

    strides: of each map against the image; channels: C_i of each map; grid: height and width of the image must be
    multiples of it; num_layers: transformer blocks; last_layer: the depth of the last block that is read;
    layer_of(name): the depth of a parameter, 0 for the embedding to num_layers + 1 for the final norm.
    """

    strides: Sequence[float]
    channels: Sequence[int]
    grid: int
    num_layers: int
    last_layer: int

    def __call__(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> one (B, C_i, h_i, w_i) per tapped layer, finest first."""
        ...

    def layer_of(self, name: str) -> int: ...

    def set_drop_path(self, rate: float) -> None:
        """Stochastic depth (arXiv 1603.09382), from 0 at the first block to `rate` at the last, while training."""
        ...

    def set_grad_checkpointing(self, enabled: bool) -> None:
        """Compute each block's activations again in the backward pass instead of keeping them."""
        ...


@runtime_checkable
class TokenView(Protocol):
    """What a backbone shows to a head that works inside the encoder (its file says `TOKENS = True`)."""

    def embed(self, image: Tensor) -> tuple[Tensor, Any]:
        """(B, 3, H, W) -> tokens (B, N, D) and whatever positions the blocks want."""
        ...

    def run_block(
        self, index: int, tokens_BND: Tensor, positions: Any, extra: int = 0, attn_mask: Tensor | None = None
    ) -> Tensor:
        """One block; the last `extra` tokens have no position."""
        ...

    def norm(self, tokens_BND: Tensor) -> Tensor: ...

    def to_map(self, tokens_BND: Tensor, image: Tensor) -> Tensor:
        """The patch tokens of an image (B, 3, H, W) as a map (B, D, h, w)."""
        ...


@runtime_checkable
class Neck(Protocol):
    """Turns the backbone's maps into those that the head reads; strides and channels describe what comes out.

    A neck's file may also export `Refinement(channels, num_classes, args)`, called as `refine(logits, maps, image)` after
    the head: (B, K, h, w) -> (B, K, h', w'), closer to the image.
    """

    strides: Sequence[float]
    channels: Sequence[int]

    def __call__(self, maps: list[Tensor], image: Tensor) -> list[Tensor]:
        """One (B, C_i, h_i, w_i) per tap, image (B, 3, H, W) -> one (B, channels[j], h_j, w_j) per output, finest first."""
        ...


@runtime_checkable
class Head(Protocol):
    """Turns maps into logits. The last layer is named `classifier`, so that a transfer can leave it out."""

    def __call__(self, maps: list[Tensor], image: Tensor) -> Tensor:
        """One (B, C_i, h_i, w_i) per map, finest first, image (B, 3, H, W) -> logits (B, num_classes, h, w)."""
        ...


@runtime_checkable
class QueryHead(Protocol):
    """A head whose decoder layers each predict classes and masks of queries.

    regions: one sigmoid per channel instead of a softmax over them; progress: the share of the training that is done.
    """

    regions: bool
    progress: float

    def layers(self, source: Any, image: Tensor) -> list[tuple[Tensor, Tensor]]:
        """One (classes (B, Q, K + 1), masks (B, Q, h, w)) per decoder layer, the last of which is the prediction."""
        ...

    def logits(self, classes_BQC: Tensor, masks_BQhw: Tensor) -> Tensor:
        """A layer's prediction as logits (B, K, h, w)."""
        ...

    def native_loss(self, ignore_label: int | None) -> nn.Module:
        """The head's own loss, of [logits, classes, masks, classes, masks, …] and nnU-Net's targets."""
        ...
