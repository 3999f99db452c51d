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

from nnvit.errors import WeightsError

from . import segformer_files
from .target import State

WRAPPERS = ("teacher", "model", "state_dict", "visionfm_state_dict")
PREFIXES = ("module.", "backbone.", "encoder.")
# Projection heads of self-supervised training, found beside a prefixed backbone.
TRAINING_HEADS = ("dino_head.", "ibot_head.", "head.")


@dataclass(frozen=True, kw_only=True)
class Unwrapped:
    """A flat state dict, out of the wrappers and prefixes that training put around it.

    spelled: each key as the file has it; heads: keys of training heads that were left out, as the file has them;
    wrappers: the entries that held the state dict, outermost first; prefix: what was taken off the keys.
    """

    state: State
    spelled: Mapping[str, str]
    heads: tuple[str, ...] = ()
    wrappers: tuple[str, ...] = ()
    prefix: str = ""


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A file's tensors under timm's names.

    layout: its name for humans; dropped: known keys that the model has no place for; ambiguity: what else has this layout.
    """

    layout: str
    state: State
    dropped: tuple[str, ...] = ()
    ambiguity: str


Layout = Callable[[State, Collection[str]], Converted | None]


def convert(unwrapped: Unwrapped, family: str, names: Collection[str]) -> Converted:
    """A file's content under the names of the family's timm model; dropped keys as the file spells them.

    names: what the model wants. Keys that no layout knows keep their names, for the caller to refuse. Raises WeightsError
    when dropping a key would change what the network computes.
    """
    attempts = (layout(unwrapped.state, names) for layout in LAYOUTS.get(family, ()))
    converted = next(filter(None, attempts), None) or timm_native(unwrapped.state, names)
    dropped = tuple(unwrapped.spelled[key] for key in converted.dropped)
    return replace(converted, dropped=unwrapped.heads + dropped)


def unwrap(raw: Any) -> Unwrapped:
    """The flat state dict inside training wrappers and common prefixes. Raises WeightsError when there is none."""
    wrappers, raw = flat(raw)
    names, heads, taken = {key: key for key in raw}, (), ""
    while prefix := _common_prefix(names):
        heads += tuple(spelled for key, spelled in names.items() if key.startswith(TRAINING_HEADS))
        names = _without_prefix(names, prefix)
        taken += prefix
    state = {key: raw[spelled] for key, spelled in names.items()}
    return Unwrapped(state=state, spelled=names, heads=heads, wrappers=wrappers, prefix=taken)


def flat(raw: Any) -> tuple[tuple[str, ...], State]:
    """The entries that hold the state dict, outermost first, and the state dict. Raises WeightsError when there is none."""
    wrappers: tuple[str, ...] = ()
    while isinstance(raw, Mapping) and (wrapper := _wrapper(raw)):
        wrappers, raw = (*wrappers, wrapper), raw[wrapper]
    _check_state_dict(raw)
    return wrappers, raw


def _wrapper(raw: Mapping[str, Any]) -> str | None:
    return next((key for key in WRAPPERS if isinstance(raw.get(key), Mapping)), None)


def _check_state_dict(raw: Any) -> None:
    if isinstance(raw, Mapping) and "network_weights" in raw:
        raise WeightsError(
            "it holds no state dict of a backbone: it is an nnU-Net checkpoint, with"
            f" {_some(raw)}. -pretrained_weights takes such a file."
        )
    if not isinstance(raw, Mapping) or not raw or not all(isinstance(value, Tensor) for value in raw.values()):
        found = f"a dict of {_some(raw)}" if isinstance(raw, Mapping) else f"a {type(raw).__name__}"
        raise WeightsError(f"it holds no state dict (names to tensors) but {found}.")


def _common_prefix(names: Collection[str]) -> str | None:
    """The prefix that most keys carry: heads beside the backbone carry another or none."""
    carried = {prefix: sum(key.startswith(prefix) for key in names) for prefix in PREFIXES}
    return next((prefix for prefix, count in carried.items() if 2 * count > len(names)), None)


def _without_prefix(names: Mapping[str, str], prefix: str) -> dict[str, str]:
    """Keys without the prefix keep their name, so that what is no known head is refused as foreign later."""
    kept = {key: spelled for key, spelled in names.items() if not key.startswith(TRAINING_HEADS)}
    stripped = {key.removeprefix(prefix): spelled for key, spelled in kept.items()}
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
    return Converted(
        layout="DINOv3 hub",
        state=converted,
        dropped=tuple(dropped),
        ambiguity="every DINOv3 ViT of this size has this layout, whatever images it was trained on",
    )


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
    """Files of facebookresearch/dinov2 and RETFound's DINOv2 teacher, chunked for FSDP or not -> timm's VisionTransformer."""
    if not any(re.match(r"(mask_token|register_tokens)$|blocks\.\d+\.(\d+|mlp\.w12)\.", key) for key in state):
        return None
    converted = {_renamed(_unchunked(key), DINOV2_NAMES): tensor for key, tensor in state.items()}
    dropped = ("mask_token",) if converted.pop("mask_token", None) is not None else ()
    if {"reg_token", "cls_token", "pos_embed"} <= converted.keys():
        # timm adds positions to the patches alone when there are registers; the class token's is a constant.
        positions_1ND = converted["pos_embed"]
        converted["cls_token"] = converted["cls_token"] + positions_1ND[:, :1]
        converted["pos_embed"] = positions_1ND[:, 1:]
    return Converted(
        layout="DINOv2 hub",
        state=converted,
        dropped=dropped,
        ambiguity="every DINOv2 ViT of this size has this layout, whatever images it was trained on",
    )


DINOV2_NAMES = {"register_tokens": "reg_token", ".mlp.w12.": ".mlp.fc1.", ".mlp.w3.": ".mlp.fc2."}


def _unchunked(key: str) -> str:
    """blocks.CHUNK.BLOCK.rest -> blocks.BLOCK.rest: BLOCK counts through all chunks."""
    return re.sub(r"^blocks\.\d+\.(?=\d+\.)", "blocks.", key)


def mae(state: State, names: Collection[str]) -> Converted | None:
    """Files of facebookresearch/mae with their decoder, RETFound's among them -> timm's VisionTransformer."""
    dropped = tuple(key for key in state if key.startswith("decoder_") or key == "mask_token")
    if not any(key.startswith("decoder_") for key in dropped):
        return None
    return Converted(
        layout="MAE",
        state=_without(state, dropped),
        dropped=dropped,
        ambiguity="every MAE ViT of this size has this layout, ImageNet's too",
    )


def ibot(state: State, names: Collection[str]) -> Converted:
    """Files of ABILab-CUHK/VisionFM -> timm's VisionTransformer, whose names they share."""
    dropped = tuple(key for key in state if key == "masked_embed" or (key.startswith("head") and key not in names))
    return Converted(
        layout="VisionFM (iBOT)",
        state=_without(state, dropped),
        dropped=dropped,
        ambiguity="every plain ViT of this size has this layout, whatever images it was trained on: VisionFM's eight"
        " modalities, ImageNet's",
    )


def segformer(state: State, names: Collection[str]) -> Converted | None:
    """transformers' SegFormer files of either layout -> nnvit's MiT; the decode head is left out here."""
    parts = segformer_files.split(state)
    if parts is None:
        return None
    return Converted(
        layout=parts.layout,
        state=parts.encoder,
        dropped=(*parts.dropped, *parts.decode_head),
        ambiguity="every MiT of this size has this layout, whatever images it was trained on",
    )


def timm_native(state: State, names: Collection[str]) -> Converted:
    """timm's own files; a classifier is left out of a model that has none."""
    dropped = tuple(key for key in state if key.startswith("head.") and key not in names)
    return Converted(
        layout="timm",
        state=_without(state, dropped),
        dropped=dropped,
        ambiguity="every model of this architecture has this layout, whatever images it was trained on",
    )


LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "dinov3": (dinov3_hub,),
    "dinov2": (dinov2_hub,),
    "retfound": (mae, dinov2_hub),
    "visionfm": (ibot,),
    "mit": (segformer,),
}


def _without(state: State, dropped: Collection[str]) -> State:
    return {key: tensor for key, tensor in state.items() if key not in dropped}


def _renamed(key: str, rules: Mapping[str, str]) -> str:
    for old, new in rules.items():
        key = key.replace(old, new)
    return key


def _some(keys: Iterable[Any]) -> str:
    return ", ".join(f"'{key}'" for key in list(keys)[:5])
