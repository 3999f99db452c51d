"""The parts of a network and of its weights, and what each part promises the others.

Shapes: B batch, C channels, H W the image's height and width, h w a feature map's.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from .errors import ConfigError, did_you_mean

State = dict[str, Tensor]
"""A state dict."""


@dataclass(frozen=True, kw_only=True)
class DefaultWeights:
    """The published pretrained weights of one size of a family.

    file: the publisher's own file name, under which a user who asked for the file has it on disk.
    sha256: the start of the file's hash, or "" if the publisher names none.
    hub: a Hugging Face repository that holds the same weights, or "".
    licence: the licence's short name.
    page: a web page that says how to get the file, or "" if the hub repository does.
    """

    file: str
    sha256: str = ""
    hub: str = ""
    licence: str
    page: str = ""


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A file's tensors under the names of the family's model.

    layout: its name for humans; dropped: known keys that the model has no place for; ambiguity: other files that have this
    layout too; decode_head: the tensors of a SegFormer's decode head, under the file's names (they are in `dropped` too).
    """

    layout: str
    state: State
    dropped: tuple[str, ...] = ()
    ambiguity: str
    decode_head: State = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """Returns the number of elements of all tensors."""
        return sum(tensor.numel() for tensor in self.state.values())

    def origins(self, family: str, sha256: str) -> str:
        """Says which other origins the file with this hash may have by its content."""
        return f"{self.ambiguity}; that these are weights of {family} rests on the file, sha256 {sha256}"


Layout = Callable[[State, Collection[str]], Converted | None]
"""Converts a flat state dict for a model that has the given names. Returns None if the file does not have this layout."""


@dataclass(kw_only=True)
class BaseFamily:
    """Base of the backbone families, each a class `Family`; its fields are the family's own keys, `model.backbone_args`.

    SIZES: the values of `model.backbone_size`; empty if any name of a library is taken. LORA_TARGETS: layers that get adapters
    unless a recipe names others. LAYOUTS: of the family's published files; the first that recognises a file converts it, and
    timm's own names need none. VARIANTS: keys that `nnvit weights check` tries besides the defaults.
    """

    SIZES: ClassVar[Collection[str]]
    LORA_TARGETS: ClassVar[Sequence[str]]
    LAYOUTS: ClassVar[Sequence[Layout]] = ()
    VARIANTS: ClassVar[Sequence[Mapping[str, Any]]] = ()

    @classmethod
    def name(cls) -> str:
        """Returns the name of the family's file, the value of `model.backbone`."""
        return cls.__module__.rpartition(".")[2]

    @classmethod
    def resolve_taps(cls, size: str, taps: Sequence[int] | None) -> list[int]:
        """Returns the tapped layers, the published ones for None. Raises ConfigError for a size or layer that does not exist."""
        raise NotImplementedError

    def statistics(self, size: str) -> dict[str, list[float]]:
        """Returns the `mean` and `std` of three channels that the weights were trained with, for values in 0..1.

        They are ImageNet's, as in DINOv2, DINOv3 and most of timm, unless a family has its own.
        """
        from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

        return {"mean": list(IMAGENET_DEFAULT_MEAN), "std": list(IMAGENET_DEFAULT_STD)}

    def build(self, size: str, taps: Sequence[int]) -> "Backbone":
        """Builds a backbone with random weights; downloads nothing and reads no file. Raises ConfigError."""
        raise NotImplementedError

    @classmethod
    def check_size(cls, size: str) -> None:
        """Raises ConfigError that lists the family's sizes, for a name that is none of them."""
        if cls.SIZES and size not in cls.SIZES:
            raise ConfigError(
                f"model.backbone_size='{size}' is not a size of {cls.name()}; use one of {', '.join(cls.SIZES)}."
                + did_you_mean(size, cls.SIZES)
            )

    @classmethod
    def recognise(cls, state: State, names: Collection[str] = ()) -> Converted | None:
        """Converts a flat state dict by the first layout that recognises it; None if none does. names: those of the model."""
        return next(filter(None, (layout(state, names) for layout in cls.LAYOUTS)), None)


class Backbone(nn.Module):
    """Base of feature extractors whose maps come finest first. A subclass sets strides, channels, grid and the layer numbers.

    model: the network inside; adapters and pretrained weights go there. taps: the layers that are read. family, size: the
    recipe's names. default_weights: the published weights, None if there are none. strides: of each map against the image;
    channels: C_i of each map; grid: height and width of the image must be multiples of it; num_layers: transformer blocks;
    last_layer: the depth of the last block that is read; final_norm: whether the taps pass the final norm.
    """

    strides: Sequence[float]
    channels: Sequence[int]
    grid: int
    num_layers: int
    last_layer: int
    final_norm: bool = True

    def __init__(
        self, model: Any, taps: Sequence[int], *, family: str, size: str, default_weights: DefaultWeights | None = None
    ) -> None:
        super().__init__()
        self.model, self.taps = model, list(taps)
        self.family, self.size, self.default_weights = family, size, default_weights

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> one (B, C_i, h_i, w_i) per tapped layer, finest first."""
        raise NotImplementedError

    def layer_of(self, name: str) -> int:
        """Returns the depth of a parameter, from 0 for the embedding to num_layers + 1 for the final norm."""
        raise NotImplementedError

    def publishes(self, sha256: str) -> bool:
        """Returns True for the hash of the file that the family publishes for this size."""
        wanted = self.default_weights
        return bool(wanted and wanted.sha256 and sha256.startswith(wanted.sha256))

    def set_drop_path(self, rate: float) -> None:
        """Sets stochastic depth (arXiv 1603.09382), from 0 at the first block to `rate` at the last, while training."""
        raise ConfigError(f"training.drop_path={rate}: backbone {self.family} has no stochastic depth; set it to 0.")

    def set_grad_checkpointing(self, enabled: bool) -> None:
        """Computes each block's activations again in the backward pass instead of keeping them, or stops doing so."""
        raise ConfigError(f"training.grad_checkpointing={enabled}: backbone {self.family} cannot; set it to false.")

    def check_config(self, config: Mapping[str, Any]) -> None:
        """Raises WeightsError if a model directory's config.json describes another computation than this model's."""


class TokenBackbone(Backbone):
    """Base of plain ViTs, whose tokens a head inside the encoder reads (`BaseHead.reads_tokens`)."""

    def embed(self, image: Tensor) -> tuple[Tensor, Any]:
        """(B, 3, H, W) -> tokens (B, N, D) and the positions that the blocks take."""
        raise NotImplementedError

    def run_block(
        self, index: int, tokens_BND: Tensor, positions: Any, extra: int = 0, attn_mask: Tensor | None = None
    ) -> Tensor:
        """Runs one block on tokens (B, N, D); the last `extra` tokens have no position."""
        raise NotImplementedError

    def norm(self, tokens_BND: Tensor) -> Tensor:
        """Applies the final norm, (B, N, D) -> (B, N, D)."""
        raise NotImplementedError

    def to_map(self, tokens_BND: Tensor, image: Tensor) -> Tensor:
        """Returns the patch tokens of an image (B, 3, H, W) as a map (B, D, h, w)."""
        raise NotImplementedError


class BaseNeck(nn.Module):
    """Base of the necks, `Neck(channels, strides, args)`: turns the backbone's maps into those that the head reads.

    channels, strides: of the maps that come out. refinement: None, or a module class `refinement(channels, num_classes,
    args)`, called after the head as `refine(logits, maps, image)`: (B, K, h, w) -> (B, K, h', w'), closer to the image.
    """

    refinement: ClassVar[type[nn.Module] | None] = None

    def __init__(self, channels: Sequence[int], strides: Sequence[float]) -> None:
        super().__init__()
        self.channels, self.strides = list(channels), list(strides)

    def forward(self, maps: list[Tensor], image: Tensor) -> list[Tensor]:
        """One (B, C_i, h_i, w_i) per tap, image (B, 3, H, W) -> one (B, channels[j], h_j, w_j) per output, finest first."""
        raise NotImplementedError


class BaseHead(nn.Module):
    """Base of the heads, `Head(channels, strides, num_classes, config)`: turns the neck's maps into logits.

    The last layer is named `classifier`, so that a transfer can leave it out. reads_tokens: the head works inside the encoder
    and is given a TokenBackbone in place of maps. by_queries: the head is a `nnvit.heads._queries.QueryHead`. progress: the
    share of the training that is done, 1 outside training.
    """

    reads_tokens: ClassVar[bool] = False
    by_queries: ClassVar[bool] = False
    progress: float = 1.0

    def forward(self, maps: Any, image: Tensor) -> Tensor:
        """One (B, C_i, h_i, w_i) per map, finest first, image (B, 3, H, W) -> logits (B, num_classes, h, w)."""
        raise NotImplementedError

    def check(self, backbone: Any) -> None:
        """Raises ConfigError if the head cannot work in this backbone."""

    @staticmethod
    def from_segformer(state: Mapping[str, Tensor]) -> State | None:
        """Returns this head's state dict from the decode head in a SegFormer's file; None for a head of another kind."""
        return None
