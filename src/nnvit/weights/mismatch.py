"""Whether a file's tensors fill a model: all of them, with the right shapes, and none left over."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt

import torch

from .state_dict_summary import listed
from .target import State

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Why they do not fit; false when they do.

    matched: how many of the model's `wanted` tensors the file fills; hint: what could be done, if nnvit can tell.
    """

    matched: int
    wanted: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]
    hint: str = ""

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        kinds = {"missing": self.missing, "unexpected": self.unexpected, "mismatched": self.mismatched}
        lists = "; ".join(f"{len(names)} {kind}: {listed(names)}" for kind, names in kinds.items() if names)
        return f"{self.matched} of the model's {self.wanted} tensors match; {lists}.{self.hint}"


def faults(state: State, targets: State) -> Faults:
    """Compares names and shapes; values are not looked at, so that the model may be on the meta device."""
    mismatched = [name for name in targets if _differs(name, state, targets)]
    return Faults(
        matched=len(state.keys() & targets.keys()) - len(mismatched),
        wanted=len(targets),
        missing=tuple(name for name in targets if name not in state),
        unexpected=tuple(name for name in state if name not in targets),
        mismatched=tuple(_difference(name, state, targets) for name in mismatched),
        hint=_positions(state, targets) if mismatched == ["pos_embed"] else "",
    )


def _differs(name: str, state: State, targets: State) -> bool:
    """Integer and float8 tensors are quantised: without their scales they mean something else."""
    return name in state and (state[name].shape != targets[name].shape or state[name].dtype not in FLOATS)


def _difference(name: str, state: State, targets: State) -> str:
    got, expected = state[name], targets[name]
    kind = "" if got.dtype in FLOATS else f" {got.dtype}"
    return f"{name} (got {tuple(got.shape)}{kind}, expected {tuple(expected.shape)})"


def _positions(state: Mapping[str, torch.Tensor], targets: State) -> str:
    """Of which image size the file's position embeddings are, when only they do not fit."""
    patch = targets["patch_embed.proj.weight"].shape[-1]
    side = isqrt(state["pos_embed"].shape[1])
    return (
        f" The file's position embeddings are those of a {side} x {side} grid: {side * patch} px. A backbone with the key"
        f" img_size takes them with model.backbone_args.img_size={side * patch}."
    )
