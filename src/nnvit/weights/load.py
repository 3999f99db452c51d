"""Loads pretrained weights into a backbone, all of them or none, and reports."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from nnvit.errors import WeightsError
from nnvit.types import Backbone, BaseHead, Converted, State

from .safe_reading import read_config, read_weights
from .sources import WeightsFile, find_weights
from .state_dicts import Unwrapped, listed, not_finite, target_tensors


@dataclass(frozen=True, kw_only=True)
class WeightsReport:
    """A report of loaded weights; `missing`, `unexpected` and `mismatched` are empty, or nothing was loaded.

    source: "random", "file", "cache", "packaged:NAME" or "hub REPO@COMMIT"; path: the file's name; loaded and
    parameters: numbers of tensors and of their elements; dropped: keys of the file that the model has no place for.
    licence_accepted: how the licence was accepted, False if not required; ambiguity: other possible origins of the file,
    empty if its hash or its repository shows its origin; decode_head: the outcome for a decode head in the file, empty if
    there is none.
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
        """Returns the report for a terminal or a log."""
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
        """Returns the report for JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def load_backbone(
    backbone: Backbone, spec: str, revision: str | None = None, head: BaseHead | None = None
) -> WeightsReport:
    """Fills backbone.model with the weights that `model.weights` (spec, see find_weights) means.

    Every tensor of the model is filled from a tensor of the same shape, cast to the model's precision; otherwise the model
    stays as it was. LoRA may be injected before. revision: the commit in the plans (see `pin`). head: is filled from the
    decode head in a SegFormer's file, if all of it fits. Raises WeightsError that lists the tensors that are missing,
    unexpected, of another shape or not finite, or names the licence to accept.
    """
    found = find_weights(spec, backbone, revision)
    if found is None:
        return WeightsReport(source="random")
    raw, targets = read_weights(found.path), target_tensors(backbone.model)
    try:
        unwrapped = Unwrapped.of(raw)
        converted = unwrapped.convert(backbone.family, targets)
        unwrapped.check_fit(
            converted, targets, f"model.backbone={backbone.family}, model.backbone_size={backbone.size}"
        )
        if broken := not_finite(converted.state):
            raise WeightsError(f"{len(broken)} tensors hold NaN or Inf: {listed(broken)}. The file is damaged.")
        if found.path.is_dir():
            backbone.check_config(read_config(found.path))
    except WeightsError as error:
        raise WeightsError(f"{found.path}: {error} Nothing was loaded.") from error
    _fill(targets, converted.state, found.path)
    return _report(found, converted, backbone.family, _fill_head(head, converted.decode_head))


def _fill_head(head: BaseHead | None, decode_head: State) -> str:
    """Fills the head from the file's decode head; returns the outcome, "" if the file has none."""
    if not decode_head:
        return ""
    try:
        renamed = head.from_segformer(decode_head) if head is not None else None
    except (KeyError, ValueError):  # not transformers' SegformerDecodeHead
        renamed = None
    reason = "it is of another kind" if head is None or renamed is None else _misfit(head.state_dict(), renamed)
    if head is None or renamed is None or reason:
        return f"left random, the file's does not fit: {reason}"
    with torch.no_grad():
        for name, target in head.state_dict().items():
            target.copy_(renamed[name])
    return f"{len(decode_head)} tensors loaded from the file"


def _misfit(targets: State, state: State) -> str:
    """Says why a decode head's tensors do not fill a head, "" if they do."""
    misfits = [f"{name} is in only one of them" for name in sorted(targets.keys() ^ state.keys())]
    common = {name: (state[name], target) for name, target in targets.items() if name in state}
    misfits += [
        f"{name} (got {tuple(tensor.shape)}, expected {tuple(target.shape)})"
        for name, (tensor, target) in common.items()
        if tensor.shape != target.shape
    ]
    misfits += [
        f"{name} holds NaN, Inf or quantised numbers"
        for name, (tensor, target) in common.items()
        if tensor.is_floating_point() != target.is_floating_point() or not tensor.isfinite().all()
    ]
    return "; ".join(misfits[:3]) + (f"; and {len(misfits) - 3} more" if len(misfits) > 3 else "")


def _report(found: WeightsFile, converted: Converted, family: str, decode_head: str) -> WeightsReport:
    return WeightsReport(
        source=found.source,
        path=found.path.name,
        sha256=found.sha256,
        licence=found.licence,
        licence_accepted=found.licence_accepted,
        layout=converted.layout,
        loaded=len(converted.state),
        parameters=converted.parameters,
        dropped=converted.dropped,
        decode_head=decode_head,
        ambiguity="" if found.published else converted.origins(family, found.sha256),
    )


@torch.no_grad()
def _fill(targets: State, state: State, path: Path) -> None:
    for name, target in targets.items():
        target.copy_(state[name])
    altered = [name for name, target in targets.items() if not torch.equal(target, state[name].to(target))]
    if altered:
        raise WeightsError(f"{path}: these tensors changed while they were loaded: {listed(altered)}.")
