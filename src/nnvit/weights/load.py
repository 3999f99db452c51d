"""Pretrained weights into a backbone: all of them or none, with a report."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nnvit.errors import WeightsError

from . import segformer_files
from .directories import read_config, read_directory
from .layouts import Converted, Unwrapped, convert, unwrap
from .mismatch import faults
from .packaged import read_onnx
from .safe_load import safe_load
from .sources import WeightsFile, find_weights
from .state_dict_summary import describe, describe_shape, listed
from .target import PretrainedBackbone, State, target_tensors


@dataclass(frozen=True, kw_only=True)
class WeightsReport:
    """What was loaded from where; `missing`, `unexpected` and `mismatched` are empty, or nothing was loaded.

    source: "random", "file", "cache", "packaged:NAME" or "hub REPO@COMMIT"; path: the file's name; loaded and
    parameters: how many tensors and numbers; dropped: keys of the file that the model has no place for.
    licence_accepted: how the licence was accepted, False where none was asked for; ambiguity: what the file's content
    leaves open about its origin, empty where its hash or its repository settles it; decode_head: what became of the decode
    head in the file, empty where there is none.
    """

    source: str
    path: str = ""
    sha256: str = ""
    licence: str = ""
    licence_accepted: bool | str = False
    layout: str = ""
    loaded: int = 0
    parameters: int = 0
    dropped: tuple[str, ...] = ()
    ambiguity: str = ""
    decode_head: str = ""
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The report for a terminal or a log."""
        if self.source == "random":
            return ["weights: random, nothing was loaded"]
        accepted = f" (accepted: {self.licence_accepted})" if self.licence_accepted else ""
        return [
            f"weights: {self.path} ({self.source}), sha256 {self.sha256[:12]}, licence {self.licence}{accepted}",
            f"layout {self.layout}: {self.loaded} tensors, {self.parameters:,} parameters, none missing",
            *([f"left out {len(self.dropped)}: {listed(self.dropped)}"] if self.dropped else []),
            *([f"decode head: {self.decode_head}"] if self.decode_head else []),
            *([f"origin: {self.ambiguity}"] if self.ambiguity else []),
        ]

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def load_backbone(
    backbone: PretrainedBackbone, spec: str, revision: str | None = None, head: nn.Module | None = None
) -> WeightsReport:
    """Fill backbone.model with the weights that `model.weights` (spec, see find_weights) means.

    Every tensor of the model is filled from a tensor of the same shape, cast to the model's precision, or the
    model stays as it was. LoRA may be injected before. revision: the commit that the plans hold (see `pin`).
    head: takes the decode head that a SegFormer's file holds, where all of it fits. Raises WeightsError that lists
    what is missing, foreign, misshapen or not finite, or names the licence to accept.
    """
    found = find_weights(spec, backbone, revision)
    if found is None:
        return WeightsReport(source="random")
    raw, targets = read(found.path), target_tensors(backbone.model)
    try:
        unwrapped = unwrap(raw)
        converted = convert(unwrapped, backbone.family, targets)
        _check_fit(converted, unwrapped, targets, backbone)
        _check_finite(converted.state)
        if found.path.is_dir() and hasattr(backbone.model, "config"):
            segformer_files.check_config(read_config(found.path), backbone.model.config.to_dict())  # type: ignore[operator, union-attr]
    except WeightsError as error:
        raise WeightsError(f"{found.path}: {error} Nothing was loaded.") from error
    _fill(targets, converted.state, found.path)
    return _report(found, converted, backbone.family, _fill_head(head, unwrapped.state))


def _fill_head(head: nn.Module | None, state: State) -> str:
    """Gives the head the file's decode head; what became of it, "" where the file holds none."""
    tensors = segformer_files.decode_head_state(state)
    if tensors is None:
        return ""
    rename = getattr(head, "from_segformer", None)
    reason = (
        segformer_files.fill_decode_head(head, rename(tensors))
        if head is not None and rename
        else "it is of another kind"
    )
    return (
        f"left random, the file's does not fit: {reason}" if reason else f"{len(tensors)} tensors loaded from the file"
    )


def _report(found: WeightsFile, converted: Converted, family: str, decode_head: str) -> WeightsReport:
    return WeightsReport(
        source=found.source,
        path=found.path.name,
        sha256=found.sha256,
        licence=found.licence,
        licence_accepted=found.licence_accepted,
        layout=converted.layout,
        loaded=len(converted.state),
        parameters=sum(tensor.numel() for tensor in converted.state.values()),
        dropped=converted.dropped,
        decode_head=decode_head,
        ambiguity="" if found.published else ambiguity(converted, family, found.sha256),
    )


def ambiguity(converted: Converted, family: str, sha256: str) -> str:
    """What a file's content leaves open about its origin."""
    return f"{converted.ambiguity}; that these are weights of {family} rests on the file, sha256 {sha256}"


def read(path: Path, suffix: str = "") -> Any:
    """What a weight file or model directory holds; nothing is executed. Raises WeightsError, see `safe_load`.

    suffix: that of the file's name where it was written, should it have another one here.
    """
    if path.is_dir():
        return read_directory(path)
    kind = suffix or path.suffix
    return read_onnx(path) if kind == ".onnx" else safe_load(path, suffix=kind)


def _check_fit(converted: Converted, unwrapped: Unwrapped, targets: State, backbone: PretrainedBackbone) -> None:
    found = faults(converted.state, targets)
    if found:
        raise WeightsError(
            f"{found} The file looks like {describe(unwrapped.state)}; the model (model.backbone={backbone.family},"
            f" model.backbone_size={backbone.size}) is {describe_shape(targets)}."
        )


def not_finite(state: State) -> tuple[str, ...]:
    """The names of the tensors that hold NaN or Inf."""
    return tuple(name for name, tensor in state.items() if not tensor.isfinite().all())


def _check_finite(state: State) -> None:
    if broken := not_finite(state):
        raise WeightsError(f"{len(broken)} tensors hold NaN or Inf: {listed(broken)}. The file is damaged.")


@torch.no_grad()
def _fill(targets: State, state: State, path: Path) -> None:
    for name, target in targets.items():
        target.copy_(state[name])
    altered = [name for name, target in targets.items() if not torch.equal(target, state[name].to(target))]
    if altered:
        raise WeightsError(f"{path}: these tensors changed while they were loaded: {listed(altered)}.")
