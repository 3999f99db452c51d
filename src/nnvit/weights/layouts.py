"""From the names in published files to those of the timm model, one function per layout.

A layout takes a flat state dict and the names that the model wants, and returns None when the file is not of
its kind. To add a family, write one function and enter it in LAYOUTS; the first that recognises the file
converts it, and what none recognises is taken to be of timm's own names.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ..errors import WeightsError
from .target import State

WRAPPERS = ("teacher", "model", "state_dict")
PREFIXES = ("module.", "backbone.", "encoder.")
# Projection heads of self-supervised training, found beside a prefixed backbone.
TRAINING_HEADS = ("dino_head.", "ibot_head.", "head.")


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A file's tensors under timm's names.

    layout: its name for humans; dropped: known keys that the model has no place for, as the file spells them.
    """

    layout: str
    state: State
    dropped: tuple[str, ...] = ()


Layout = Callable[[State, Collection[str]], Converted | None]


def convert(raw: Any, family: str, names: Collection[str]) -> Converted:
    """A file's content under the names of the family's timm model.

    raw: what the file held, perhaps wrapped; names: what the model wants. Keys that no layout knows keep
    their names, for the caller to refuse. Raises WeightsError when there is no state dict, or when dropping
    a key would change what the network computes.
    """
    state, heads = unwrap(raw)
    attempts = (layout(state, names) for layout in LAYOUTS.get(family, ()))
    converted = next(filter(None, attempts), None) or timm_native(state, names)
    return replace(converted, dropped=heads + converted.dropped)


def unwrap(raw: Any) -> tuple[State, tuple[str, ...]]:
    """The flat state dict inside training wrappers and common prefixes, and the heads left out of it."""
    while isinstance(raw, Mapping) and (inner := _wrapped(raw)) is not None:
        raw = inner
    if not isinstance(raw, Mapping) or not raw or not all(isinstance(value, Tensor) for value in raw.values()):
        found = f"a dict of {_some(raw)}" if isinstance(raw, Mapping) else f"a {type(raw).__name__}"
        raise WeightsError(f"it holds no state dict (names to tensors) but {found}.")
    state, heads = dict(raw), ()
    while prefix := _common_prefix(state):
        heads += tuple(key for key in state if key.startswith(TRAINING_HEADS))
        state = _without_prefix(state, prefix)
    return state, heads


def _wrapped(raw: Mapping[str, Any]) -> Mapping[str, Any] | None:
    inners = (raw.get(key) for key in WRAPPERS)
    return next((inner for inner in inners if isinstance(inner, Mapping)), None)


def _common_prefix(state: State) -> str | None:
    """The prefix that most keys carry: heads beside the backbone carry another or none."""
    carried = {prefix: sum(key.startswith(prefix) for key in state) for prefix in PREFIXES}
    return next((prefix for prefix, count in carried.items() if 2 * count > len(state)), None)


def _without_prefix(state: State, prefix: str) -> State:
    """Keys without the prefix keep their name, so that what is no known head is refused as foreign later."""
    kept = {key: value for key, value in state.items() if not key.startswith(TRAINING_HEADS)}
    stripped = {key.removeprefix(prefix): value for key, value in kept.items()}
    if len(stripped) < len(kept):
        raise WeightsError(f"some of its keys exist both with and without '{prefix}'; keep one set.")
    return stripped


def dinov3_hub(state: State, names: Collection[str]) -> Converted | None:
    """Files of facebookresearch/dinov3 -> timm's Eva. Rotary tables are not loaded: timm computes them."""
    if "storage_tokens" not in state:
        return None
    unused = re.compile(r"(^mask_token|\.periods|\.bias_mask|^local_cls_norm\..*)$")
    converted: State = {}
    dropped = []
    for key, tensor in state.items():
        if key.endswith(".attn.qkv.bias"):
            biases = _dinov3_biases(state, key, names)
            converted |= biases
            dropped += [] if biases else [key]
        elif unused.search(key):
            dropped.append(key)
        else:
            converted[_renamed(key, DINOV3_NAMES)] = tensor
    return Converted(layout="DINOv3 hub", state=converted, dropped=tuple(dropped))


DINOV3_NAMES = {
    "storage_tokens": "reg_token",
    ".ls1.gamma": ".gamma_1",
    ".ls2.gamma": ".gamma_2",
    ".mlp.w1.": ".mlp.fc1_g.",
    ".mlp.w2.": ".mlp.fc1_x.",
    ".mlp.w3.": ".mlp.fc2.",
}


def _dinov3_biases(state: State, key: str, names: Collection[str]) -> State:
    """One block's qkv.bias (3D,) -> q_bias and v_bias (D,), or nothing for a model without them.

    The network multiplies the bias by bias_mask. In the published distilled files the product is zero; where
    it is not, leaving it out would make another network, so that is refused.
    """
    mask = state.get(f"{key}_mask")
    query, key_bias, value = (state[key] if mask is None else state[key] * mask).chunk(3)
    attention = key.removesuffix("qkv.bias")
    if key_bias.any():
        raise WeightsError(f"'{key}' has a key part that is neither zero nor masked; timm's DINOv3 has no such bias.")
    if f"{attention}q_bias" in names:
        return {f"{attention}q_bias": query, f"{attention}v_bias": value}
    if query.any() or value.any():
        raise WeightsError(
            f"'{key}' is not zero, and the model was built without it: the network would be another one."
            " Set model.backbone_args.qkv_bias=true."
        )
    return {}


def dinov2_hub(state: State, names: Collection[str]) -> Converted | None:
    """Files of facebookresearch/dinov2, chunked for FSDP or not -> timm's VisionTransformer."""
    if not state.keys() & {"mask_token", "register_tokens"}:
        return None
    converted = {_renamed(_unchunked(key), DINOV2_NAMES): tensor for key, tensor in state.items()}
    dropped = ("mask_token",) if converted.pop("mask_token", None) is not None else ()
    if {"reg_token", "cls_token", "pos_embed"} <= converted.keys():
        # timm adds positions to the patches alone when there are registers; the class token's is a constant.
        positions_1ND = converted["pos_embed"]
        converted["cls_token"] = converted["cls_token"] + positions_1ND[:, :1]
        converted["pos_embed"] = positions_1ND[:, 1:]
    return Converted(layout="DINOv2 hub", state=converted, dropped=dropped)


DINOV2_NAMES = {"register_tokens": "reg_token", ".mlp.w12.": ".mlp.fc1.", ".mlp.w3.": ".mlp.fc2."}


def _unchunked(key: str) -> str:
    """blocks.CHUNK.BLOCK.rest -> blocks.BLOCK.rest: BLOCK counts through all chunks."""
    return re.sub(r"^blocks\.\d+\.(?=\d+\.)", "blocks.", key)


def timm_native(state: State, names: Collection[str]) -> Converted:
    """timm's own files; a classifier is left out of a model that has none."""
    dropped = tuple(key for key in state if key.startswith("head.") and key not in names)
    return Converted(
        layout="timm",
        state={key: tensor for key, tensor in state.items() if key not in dropped},
        dropped=dropped,
    )


LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "dinov3": (dinov3_hub,),
    "dinov2": (dinov2_hub,),
}


def _renamed(key: str, rules: Mapping[str, str]) -> str:
    for old, new in rules.items():
        key = key.replace(old, new)
    return key


def _some(keys: Iterable[Any]) -> str:
    return ", ".join(f"'{key}'" for key in list(keys)[:5])
