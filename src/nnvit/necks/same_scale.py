"""Passes the backbone's maps on unchanged, at their own strides."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from nnvit.types import BaseNeck


@dataclass(kw_only=True)
class Args:
    """No keys of its own."""


class Neck(BaseNeck):
    """channels, strides: of the backbone's maps; the output has the same."""

    def __init__(self, channels: Sequence[int], strides: Sequence[float], args: Args) -> None:
        super().__init__(channels, strides)

    def forward(self, maps: list[Tensor], image: Tensor) -> list[Tensor]:
        """One (B, C_i, h_i, w_i) per tap, unchanged."""
        return maps
