"""Hands the taps on as they are, all at the backbone's own strides."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(kw_only=True)
class Args:
    """No keys of its own."""


class Neck(nn.Module):
    """channels, strides: of the backbone's maps, and of what comes out."""

    def __init__(self, channels: Sequence[int], strides: Sequence[float], args: Args) -> None:
        super().__init__()
        self.channels, self.strides = list(channels), list(strides)

    def forward(self, maps: list[Tensor], image: Tensor) -> list[Tensor]:
        """One (B, C_i, h_i, w_i) per tap, unchanged."""
        return maps
