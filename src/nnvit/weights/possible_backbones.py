"""Every backbone that a weight file might fill, built without memory."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from nnvit import registry
from nnvit.errors import ConfigError

from .target import PretrainedBackbone


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A backbone without memory. args: of model.backbone_args; statistics: mean and std that the recipe applies."""

    backbone: PretrainedBackbone
    args: Mapping[str, Any]
    statistics: Mapping[str, list[float]]

    def __str__(self) -> str:
        args = [f"model.backbone_args.{key}={str(value).lower()}" for key, value in self.args.items()]
        return " ".join([f"model.backbone={self.backbone.family} model.backbone_size={self.backbone.size}", *args])


def families() -> Iterator[tuple[ModuleType, str]]:
    """Every family and size that the registry can list."""
    for family in registry.names("backbone"):
        module = registry.module("backbone", family)
        for size in getattr(module, "SIZES", ()):
            yield module, size


class _WithoutInit(TorchFunctionMode):
    """Leaves out the arithmetic of initial values, which meta tensors do not hold: building is five times as fast."""

    in_place = frozenset(
        getattr(Tensor, f"{name}_") for name in ("normal", "uniform", "erfinv", "mul", "add", "clamp", "fill", "zero")
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.in_place and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


def candidate(module: ModuleType, size: str, args: Mapping[str, Any]) -> Candidate | None:
    """One on the meta device, or None where the family was not published so."""
    given = module.Args(**args)
    try:
        with torch.device("meta"), _WithoutInit():
            backbone = module.build(size, module.resolve_taps(size, None), given)
    except ConfigError:
        return None
    defaults = vars(module.Args())
    changed = {key: value for key, value in args.items() if value != defaults[key]}
    return Candidate(backbone=backbone, args=changed, statistics=module.statistics(size, given))
