"""Pretrained weights into a backbone: all of them or none, with a report."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import WeightsError
from .files import safe_load
from .layouts import Converted, convert
from .packaged import read_onnx
from .sources import WeightsFile, find_weights
from .target import PretrainedBackbone, State, target_tensors

SHOWN = 8
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, kw_only=True)
class WeightsReport:
    """What was loaded from where; `missing`, `unexpected` and `mismatched` are empty, or nothing was loaded.

    source: "random", "file", "cache", "packaged:NAME" or "hub REPO@COMMIT"; path: the file's name; loaded and
    parameters: how many tensors and numbers; dropped: keys of the file that the model has no place for.
    """

    source: str
    path: str = ""
    sha256: str = ""
    licence: str = ""
    layout: str = ""
    loaded: int = 0
    parameters: int = 0
    dropped: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The report for a terminal or a log."""
        if self.source == "random":
            return ["weights: random, nothing was loaded"]
        return [
            f"weights: {self.path} ({self.source}), sha256 {self.sha256[:12]}, licence {self.licence}",
            f"layout {self.layout}: {self.loaded} tensors, {self.parameters:,} parameters, none missing",
            *([f"left out {len(self.dropped)}: {_listed(self.dropped)}"] if self.dropped else []),
        ]

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def load_backbone(backbone: PretrainedBackbone, spec: str) -> WeightsReport:
    """Fill backbone.model with the weights that `model.weights` (spec, see find_weights) means.

    Every tensor of the model is filled from a tensor of the same shape, cast to the model's precision, or the
    model stays as it was. LoRA may be injected before. Raises WeightsError that lists what is missing,
    foreign, misshapen or not finite.
    """
    found = find_weights(spec, backbone)
    if found is None:
        return WeightsReport(source="random")
    raw, targets = _read(found.path), target_tensors(backbone.model)
    try:
        converted = convert(raw, backbone.family, targets)
        _check_fit(converted.state, targets, backbone)
        _check_finite(converted.state)
    except WeightsError as error:
        raise WeightsError(f"{found.path}: {error} Nothing was loaded.") from error
    _fill(targets, converted.state, found.path)
    return _report(found, converted)


def _report(found: WeightsFile, converted: Converted) -> WeightsReport:
    return WeightsReport(
        source=found.source,
        path=found.path.name,
        sha256=found.sha256,
        licence=found.licence,
        layout=converted.layout,
        loaded=len(converted.state),
        parameters=sum(tensor.numel() for tensor in converted.state.values()),
        dropped=converted.dropped,
    )


def _read(path: Path) -> Any:
    return read_onnx(path) if path.suffix == ".onnx" else safe_load(path)


def _check_fit(state: State, targets: State, backbone: PretrainedBackbone) -> None:
    shared = state.keys() & targets.keys()
    faults = {
        "missing": [name for name in targets if name not in shared],
        "unexpected": [name for name in state if name not in shared],
        "mismatched": [_difference(name, state, targets) for name in targets if _differs(name, state, targets)],
    }
    if not any(faults.values()):
        return
    matched = len(shared) - len(faults["mismatched"])
    lists = "; ".join(f"{len(names)} {kind}: {_listed(names)}" for kind, names in faults.items() if names)
    raise WeightsError(
        f"{matched} of the model's {len(targets)} tensors match; {lists}."
        f" The file looks like {describe(state)}; the model (model.backbone={backbone.family},"
        f" model.backbone_size={backbone.size}) is {describe(targets)}."
    )


def _differs(name: str, state: State, targets: State) -> bool:
    """Integer and float8 tensors are quantised: without their scales they mean something else."""
    return name in state and (state[name].shape != targets[name].shape or state[name].dtype not in FLOATS)


def _difference(name: str, state: State, targets: State) -> str:
    got, expected = state[name], targets[name]
    kind = "" if got.dtype in FLOATS else f" {got.dtype}"
    return f"{name} (got {tuple(got.shape)}{kind}, expected {tuple(expected.shape)})"


def _check_finite(state: State) -> None:
    broken = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    if broken:
        raise WeightsError(f"{len(broken)} tensors hold NaN or Inf: {_listed(broken)}. The file is damaged.")


@torch.no_grad()
def _fill(targets: State, state: State, path: Path) -> None:
    for name, target in targets.items():
        target.copy_(state[name])
    altered = [name for name, target in targets.items() if not torch.equal(target, state[name].to(target))]
    if altered:
        raise WeightsError(f"{path}: these tensors changed while they were loaded: {_listed(altered)}.")


# Width and depth are what tells published sizes apart; small and small_plus differ in the kind of MLP.
SIZES = {
    (384, 12): "small",
    (768, 12): "base",
    (1024, 24): "large",
    (1280, 32): "huge_plus",
    (1536, 40): "giant",
    (4096, 40): "7b",
}
# In timm, DINOv3 and DINOv2; the latter two where a file was meant for another family.
REGISTERS = ("reg_token", "storage_tokens", "register_tokens")


def describe(state: Mapping[str, torch.Tensor]) -> str:
    """What kind of vision transformer a state dict holds, as far as its shapes tell."""
    if "cls_token" not in state:
        return f"no vision transformer known here (its names begin {_listed(list(state)[:3])})"
    width, depth = state["cls_token"].shape[-1], _depth(state)
    size = SIZES.get((width, depth))
    parts = [f"width {width} and {depth} blocks" + (f" (a {size})" if size else "")]
    if "pos_embed" in state:
        parts.append(f"{state['pos_embed'].shape[1]} positions")
    parts += [f"{state[name].shape[1]} register tokens" for name in REGISTERS if name in state]
    if "blocks.0.mlp.fc1_g.weight" in state:
        parts.append("a gated MLP")
    return ", ".join(parts)


def _depth(names: Collection[str]) -> int:
    return len({match[1] for name in names if (match := re.match(r"blocks\.(\d+)\.", name))})


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
