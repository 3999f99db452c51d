"""Shared parts of the families' files: checks of sizes, taps and keys, ImageNet's statistics, renaming."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from nnvit.errors import ConfigError, did_you_mean

PUBLISHED_TAPS = {12: [2, 5, 8, 11], 24: [5, 11, 17, 23], 32: [7, 15, 23, 31], 40: [9, 19, 29, 39]}
"""Number of blocks -> blocks (0-based) that dense-prediction heads read in DINOv2's evaluations; quarters for 32."""


def check_choice(key: str, value: str, choices: Iterable[str]) -> None:
    """Raises ConfigError that lists the values of `model.backbone_args.KEY` and names the nearest."""
    choices = list(choices)
    if value not in choices:
        raise ConfigError(
            f"model.backbone_args.{key}='{value}' is not known; use one of {', '.join(choices)}."
            + did_you_mean(value, choices)
        )


def check_size(family: str, size: str, sizes: Collection[str]) -> None:
    """Raises ConfigError that lists the family's sizes."""
    if size not in sizes:
        raise ConfigError(
            f"model.backbone_size='{size}' is not a size of {family}; use one of {', '.join(sizes)}."
            + did_you_mean(size, sizes)
        )


def imagenet_statistics(size: str, args: Any) -> dict[str, list[float]]:
    """Returns ImageNet's mean and std, for values in 0..1: those of DINOv2, DINOv3 and most of timm."""
    return {"mean": list(IMAGENET_DEFAULT_MEAN), "std": list(IMAGENET_DEFAULT_STD)}


def taps_by_depth(
    family: str, depths: Mapping[str, int], published: Mapping[int, Sequence[int]] = PUBLISHED_TAPS
) -> Callable[[str, Sequence[int] | None], list[int]]:
    """Returns a family's `resolve_taps`. depths: size -> number of blocks; published: number of blocks -> taps."""

    def resolve_taps(size: str, taps: Sequence[int] | None) -> list[int]:
        check_size(family, size, depths)
        return check_taps(depths[size], taps, published.get(depths[size]))

    return resolve_taps


def check_taps(depth: int, taps: Sequence[int] | None, published: Sequence[int] | None) -> list[int]:
    """Returns the given taps, else the published ones, else the last block of each quarter. Raises ConfigError."""
    if taps is None:
        return list(published or (depth * (i + 1) // 4 - 1 for i in range(4)))
    if not taps or sorted(set(taps)) != list(taps) or taps[0] < 0 or taps[-1] >= depth:
        raise ConfigError(
            f"model.feature_layers={list(taps)} must name blocks from 0 to {depth - 1}, ascending and without "
            "repetition; null takes the published ones."
        )
    return list(taps)


def renamed(key: str, rules: Mapping[str, str]) -> str:
    """Replaces every `old` in a key by its `new`."""
    for old, new in rules.items():
        key = key.replace(old, new)
    return key
