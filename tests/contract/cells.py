"""The cells of the contract grid: small networks over the whole registry, which of them fit together, and pairwise covers.

A cell is built as plans are: recipe -> `arch_kwargs` -> JSON -> nnU-Net's own `get_network_from_plans`.
"""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from itertools import combinations, product
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from nnvit import registry
from nnvit.errors import ConfigError
from nnvit.model import Segmenter, arch_kwargs
from nnvit.model.factories import RGB01
from nnvit.recipe.loading import load_recipe
from nnvit.recipe.schema import ModelConfig, Recipe
from nnvit.types import TokenBackbone

TINY = registry.family("tiny")
FAMILIES = list(TINY.SIZES)
NECKS, HEADS = registry.names("neck"), registry.names("head")
TUNINGS = ["frozen", "lora", "full"]
CHANNELS = [1, 3, 5]
EVEN, ODD = (64, 64), (61, 75)
SUPERVISIONS = ["plain", "deep", "native"]
CLASSES = 2
SCALES = [[1.0, 1.0], [0.5, 0.5], [0.25, 0.25], [0.125, 0.125]]
"""nnU-Net's deep supervision of a network with five stages."""

LARGEST = {"hidden_size": 32, "channels": 32, "dim": 32, "num_queries": 8, "layers": 3}
"""Endings of the keys that set widths and counts, and what they are cut down to."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One network and how it is trained; `size` is of the image."""

    family: str
    neck: str
    head: str
    tuning: str
    channels: int
    size: tuple[int, int] = EVEN
    supervision: str = "plain"

    def __str__(self) -> str:
        return "-".join("x".join(map(str, v)) if isinstance(v, tuple) else str(v) for v in vars(self).values())


def head_keys(name: str) -> dict[str, Any]:
    """A head's own keys at their defaults."""
    common = {field.name for field in fields(ModelConfig)}
    return {key: value for key, value in asdict(registry.module("head", name).Config()).items() if key not in common}


def neck_args(name: str) -> dict[str, Any]:
    """A neck's keys at their defaults."""
    return asdict(registry.module("neck", name).Args())


def small(keys: Mapping[str, Any]) -> dict[str, Any]:
    """The same keys with narrow widths and low counts, so that the whole grid takes minutes."""

    def cut(name: str, value: Any) -> Any:
        most = next((most for ending, most in LARGEST.items() if name.endswith(ending)), None)
        if most is None:
            return value
        return [min(v, most) for v in value] if isinstance(value, list) else min(value, most)

    return {name: cut(name, value) for name, value in keys.items()}


@cache
def backbone(family: str) -> Any:
    """A tiny backbone on the meta device."""
    with torch.device("meta"):
        return TINY().build(family, TINY.resolve_taps(family, None))


def lora_targets(family: str) -> list[str]:
    """The layers to adapt, if the file of the class that wraps this size names any."""
    return list(getattr(inspect.getmodule(type(backbone(family))), "Family", TINY).LORA_TARGETS)


# --- what fits ------------------------------------------------------------------------------------------------------


def reads_tokens(head: str) -> bool:
    return registry.module("head", head).Head.reads_tokens


def by_queries(head: str) -> bool:
    return registry.module("head", head).Head.by_queries


def refines(neck: str) -> bool:
    return registry.module("neck", neck).Neck.refinement is not None


@cache
def neck_takes(neck: str, family: str) -> bool:
    """Returns True if a neck builds its levels from this backbone's maps."""
    module, source = registry.module("neck", neck), backbone(family)
    try:
        with torch.device("meta"):
            module.Neck(source.channels, source.strides, module.Args(**small(neck_args(neck))))
    except ConfigError:
        return False
    return True


def fits(family: str, neck: str, head: str, supervision: str = "plain") -> bool:
    """Returns True for parts that should work together, by what they declare; `test_grid` holds the networks to it."""
    if supervision == "native" and (not by_queries(head) or refines(neck)):
        return False
    if reads_tokens(head):
        return isinstance(backbone(family), TokenBackbone) and neck == registry.module("head", head).Config().neck
    return neck_takes(neck, family)


def neck_for(family: str, head: str) -> str:
    """The head's own neck if it fits this backbone or if none fits; otherwise the first neck that fits."""
    own = registry.module("head", head).Config().neck
    return next((neck for neck in (own, *NECKS) if fits(family, neck, head)), own)


# --- from a cell to its network -------------------------------------------------------------------------------------


def recipe(cell: Cell, *overrides: str) -> Recipe:
    """The recipe of a cell. Raises ConfigError if the recipe alone is invalid."""
    written = {
        "model.head": cell.head,
        "model.backbone": "tiny",
        "model.backbone_size": cell.family,
        "model.neck": cell.neck,
        "model.freeze_backbone": str(cell.tuning != "full").lower(),
        "lora.enabled": str(cell.tuning == "lora").lower(),
        "lora.r": 2,
        "lora.target_modules": lora_targets(cell.family),
        "training.loss": "native" if cell.supervision == "native" else "nnunet",
        "training.deep_supervision": str(cell.supervision == "deep").lower(),
    }
    written |= {f"model.{key}": value for key, value in small(head_keys(cell.head)).items()}
    written |= {f"model.neck_args.{key}": value for key, value in small(neck_args(cell.neck)).items()}
    return load_recipe([], [*(f"{key}={value}" for key, value in written.items()), *overrides])


def planned(cell: Cell) -> dict[str, Any]:
    """`arch_kwargs` as they come out of the plans file."""
    return json.loads(_written_plans(cell))


@cache
def _written_plans(cell: Cell) -> str:
    schemes = RGB01 if cell.channels == 3 else ("ZScoreNormalization",) * cell.channels
    return json.dumps(arch_kwargs(recipe(cell), normalization_schemes=schemes, scales=SCALES[1:-1]))


def build(cell: Cell, kwargs: dict[str, Any] | None = None, *, deep_supervision: bool = False) -> Segmenter:
    """The network as nnU-Net builds it; for prediction without auxiliary outputs."""
    return get_network_from_plans(
        "nnvit.model.Segmenter",
        planned(cell) if kwargs is None else kwargs,
        [],
        cell.channels,
        CLASSES,
        allow_init=True,
        deep_supervision=deep_supervision,
    )


# --- pairwise covers ------------------------------------------------------------------------------------------------


def pairs(cell: Cell) -> set[tuple[Any, ...]]:
    """Every two of a cell's factors with their values."""
    return set(combinations(vars(cell).items(), 2))


def legal_cells(factors: Mapping[str, Sequence[Any]], legal: Callable[[Cell], bool]) -> list[Cell]:
    cells = (Cell(**dict(zip(factors, values, strict=True))) for values in product(*factors.values()))
    return [cell for cell in cells if legal(cell)]


def pairwise_cover(cells: Sequence[Cell]) -> list[Cell]:
    """Returns a few cells that together hold every pair of all cells; chosen greedily, most new pairs first."""
    numbers: dict[tuple[Any, ...], int] = {}
    held = np.array([[numbers.setdefault(pair, len(numbers)) for pair in sorted(pairs(c), key=str)] for c in cells])
    missing, chosen = np.ones(len(numbers), dtype=bool), []
    while missing.any():
        best = int(missing[held].sum(1).argmax())
        missing[held[best]] = False
        chosen.append(cells[best])
    return chosen
