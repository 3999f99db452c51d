"""SegFormer's files (transformers' SegformerModel, …ForSemanticSegmentation, …ForImageClassification) for backbone mit.

Two layouts exist: the hub's, which transformers writes by default, and that of transformers 5.23 in memory, which is
nnvit's own. The decode head's tensors are kept apart, for the segformer head to take where they fit.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nnvit.errors import WeightsError

from .target import State

FIRST = "stages.0.patch_embeddings.proj.weight"
DECODE_HEAD = "decode_head."
CLASSIFIER = "classifier."

# The same as transformers 5.23's conversion mapping for SegformerModel, after the wrapping models' prefix.
HUB_NAMES = {
    r"^(segformer\.)?(encoder\.)?": "",
    r"^patch_embeddings\.(\d+)\.": r"stages.\1.patch_embeddings.",
    r"^block\.(\d+)\.": r"stages.\1.blocks.",
    r"^layer_norm\.(\d+)\.": r"stages.\1.layer_norm.",
    r"\.attention\.self\.query\.": ".attention.q_proj.",
    r"\.attention\.self\.key\.": ".attention.k_proj.",
    r"\.attention\.self\.value\.": ".attention.v_proj.",
    r"\.attention\.self\.sr\.": ".attention.sequence_reduction.sequence_reduction.",
    r"\.attention\.self\.layer_norm\.": ".attention.sequence_reduction.layer_norm.",
    r"\.attention\.output\.dense\.": ".attention.o_proj.",
    r"\.mlp\.dense1\.": ".mlp.fc1.",
    r"\.mlp\.dense2\.": ".mlp.fc2.",
    r"\.layer_norm_1\.": ".layernorm_before.",
    r"\.layer_norm_2\.": ".layernorm_after.",
}

# What shapes do not tell, and the network's output depends on.
CONFIG_KEYS = ("num_attention_heads", "hidden_act", "strides", "patch_sizes")


@dataclass(frozen=True, kw_only=True)
class SegformerFile:
    """A file's tensors. encoder: under nnvit's names; decode_head: as the file spells them; dropped: an image classifier."""

    layout: str
    encoder: State
    decode_head: State
    dropped: tuple[str, ...]


def split(state: State) -> SegformerFile | None:
    """The parts of a flat state dict of either layout, or None where it holds no MiT.

    Keys that no layout knows stay in `encoder` under their own names, for the caller to refuse.
    """
    decode_head = decode_head_state(state) or {}
    dropped = tuple(name for name in state if name.startswith(CLASSIFIER))
    rest = {name: tensor for name, tensor in state.items() if name not in decode_head and name not in dropped}
    encoder = {_own_name(name): tensor for name, tensor in rest.items()}
    if FIRST not in encoder:
        return None
    if len(encoder) < len(rest):
        raise WeightsError("some of its tensors exist in both of transformers' SegFormer layouts; keep one set.")
    layout = "SegFormer in transformers' memory" if any(FIRST in name for name in rest) else "SegFormer hub"
    return SegformerFile(layout=layout, encoder=encoder, decode_head=decode_head, dropped=dropped)


def decode_head_state(state: Mapping[str, Tensor]) -> State | None:
    """The decode head's tensors as the file spells them, for heads/segformer.py's `from_transformers`; None without one."""
    return {name: tensor for name, tensor in state.items() if name.startswith(DECODE_HEAD)} or None


def _own_name(name: str) -> str:
    for pattern, ours in HUB_NAMES.items():
        name = re.sub(pattern, ours, name)
    return name


def check_config(config: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raises WeightsError where a directory's config.json describes another computation than the model's (`to_dict`).

    Tensors of the same shapes would fit all the same. A key that the file lacks passes.
    """
    differing = [key for key in CONFIG_KEYS if key in config and config[key] != _plain(expected[key])]
    if differing:
        listed = ", ".join(f"{key}={config[key]} (the model has {_plain(expected[key])})" for key in differing)
        raise WeightsError(
            f"its config.json says {listed}: the same weights would compute something else. Only the published MiT"
            " sizes are built here."
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@torch.no_grad()
def fill_decode_head(head: nn.Module, state: State) -> str:
    """Fills a decode head whole, or leaves it as it was; says why it did not fit, or "" where it was filled.

    state: under the head's own names (heads/segformer.py's `from_transformers`).
    """
    targets = head.state_dict()
    misfits = [f"{name} is in only one of them" for name in sorted(targets.keys() ^ state.keys())]
    misfits += [
        f"{name} (got {tuple(state[name].shape)}, expected {tuple(target.shape)})"
        for name, target in targets.items()
        if name in state and state[name].shape != target.shape
    ]
    misfits += [
        f"{name} holds NaN, Inf or quantised numbers"
        for name, target in targets.items()
        if name in state and not _sound(state[name], target)
    ]
    if misfits:
        return "; ".join(misfits[:3]) + (f"; and {len(misfits) - 3} more" if len(misfits) > 3 else "")
    for name, target in targets.items():
        target.copy_(state[name])
    return ""


def _sound(tensor: Tensor, target: Tensor) -> bool:
    return tensor.is_floating_point() == target.is_floating_point() and bool(tensor.isfinite().all())


def describe(state: Mapping[str, Tensor]) -> str | None:
    """What kind of MiT a state dict in nnvit's names holds, as far as its shapes tell; None where it holds none."""
    if FIRST not in state:
        return None
    stages = sorted({name.split(".")[1] for name in state if name.startswith("stages.")})
    widths = [state[name].shape[0] for s in stages if (name := f"stages.{s}.patch_embeddings.proj.weight") in state]
    depths = [len({name.split(".")[3] for name in state if name.startswith(f"stages.{s}.blocks.")}) for s in stages]
    return f"a MiT of widths {', '.join(map(str, widths))} and {', '.join(map(str, depths))} blocks"
