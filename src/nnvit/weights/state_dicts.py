"""State dicts: unwraps them, converts a family's published layouts, compares them with a model, describes them for humans."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isqrt
from typing import Any, Self

import torch
from torch import Tensor, nn

from nnvit import registry
from nnvit.errors import WeightsError
from nnvit.types import Converted, State

_WRAPPERS = ("teacher", "model", "state_dict", "visionfm_state_dict")
_PREFIXES = ("module.", "backbone.", "encoder.")
_TRAINING_HEADS = ("dino_head.", "ibot_head.", "head.")
"""Projection heads of self-supervised training, found beside a prefixed backbone."""

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_SHOWN = 8


# --- unwrapping and converting ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Unwrapped:
    """A flat state dict without the wrappers and prefixes of the training.

    spelled: each key as in the file; heads: keys of training heads that were left out, as in the file; wrappers: the
    entries that held the state dict, outermost first; prefix: the prefix removed from the keys.
    """

    state: State
    spelled: Mapping[str, str]
    heads: tuple[str, ...] = ()
    wrappers: tuple[str, ...] = ()
    prefix: str = ""

    @classmethod
    def of(cls, raw: Any) -> Self:
        """Takes the state dict out of training wrappers and removes common prefixes. Raises WeightsError if there is none."""
        wrappers, raw = flat(raw)
        names, heads, taken = {key: key for key in raw}, (), ""
        while prefix := _common_prefix(names):
            heads += tuple(spelled for key, spelled in names.items() if key.startswith(_TRAINING_HEADS))
            names = _without_prefix(names, prefix)
            taken += prefix
        state = {key: raw[spelled] for key, spelled in names.items()}
        return cls(state=state, spelled=names, heads=heads, wrappers=wrappers, prefix=taken)

    def convert(self, family: str, names: Collection[str]) -> Converted:
        """Converts the tensors to the names of the family's model, by the first of the family's layouts that recognises it.

        names: those of the model. A file that no layout recognises is taken to have timm's own names. Unknown keys keep their
        names, for the caller to refuse; dropped keys are spelled as in the file. Raises WeightsError if dropping a key would
        change the network's output.
        """
        converted = registry.family(family).recognise(self.state, names) or _timm_native(self.state, names)
        dropped = tuple(self.spelled[key] for key in converted.dropped)
        return replace(converted, dropped=self.heads + dropped)

    def check_fit(self, converted: Converted, targets: State, model: str) -> None:
        """Raises WeightsError that compares the file and the model if the converted tensors do not fill the model.

        targets: the model's tensors; model: the recipe keys that choose it.
        """
        if faults := Faults.between(converted.state, targets):
            shape = _mit_shape(targets) or ", ".join(_shape(targets)) or f"{len(targets)} tensors"
            raise WeightsError(f"{faults} The file looks like {describe(self.state)}; the model ({model}) is {shape}.")


def flat(raw: Any) -> tuple[tuple[str, ...], State]:
    """Returns the entries that hold the state dict, outermost first, and the state dict. Raises WeightsError if there is none."""
    wrappers: tuple[str, ...] = ()
    while isinstance(raw, Mapping):
        wrapper = next((key for key in _WRAPPERS if isinstance(raw.get(key), Mapping)), None)
        if wrapper is None:
            break
        wrappers, raw = (*wrappers, wrapper), raw[wrapper]
    _check_state_dict(raw)
    return wrappers, raw


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
    """Returns the prefix of most keys; heads beside the backbone have another or none."""
    carried = {prefix: sum(key.startswith(prefix) for key in names) for prefix in _PREFIXES}
    return next((prefix for prefix, count in carried.items() if 2 * count > len(names)), None)


def _without_prefix(names: Mapping[str, str], prefix: str) -> dict[str, str]:
    """Removes the prefix. Keys without it keep their name, so that unknown ones are refused later."""
    kept = {key: spelled for key, spelled in names.items() if not key.startswith(_TRAINING_HEADS)}
    stripped = {key.removeprefix(prefix): spelled for key, spelled in kept.items()}
    if len(stripped) < len(kept):
        raise WeightsError(f"some of its keys exist both with and without '{prefix}'; keep one set.")
    return stripped


def _timm_native(state: State, names: Collection[str]) -> Converted:
    """Keeps the names of timm's own files; leaves a classifier out of a model that has none."""
    dropped = tuple(key for key in state if key.startswith("head.") and key not in names)
    return Converted(
        layout="timm",
        state={key: tensor for key, tensor in state.items() if key not in dropped},
        dropped=dropped,
        ambiguity="every model of this architecture has this layout, whatever images it was trained on",
    )


def _some(keys: Iterable[Any]) -> str:
    return ", ".join(f"'{key}'" for key in list(keys)[:5])


# --- comparing with a model ------------------------------------------------------------------------------------------


def target_tensors(model: nn.Module) -> State:
    """Returns the tensors that pretrained weights fill: all but LoRA adapters, under the names without peft's wrappers."""
    return {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in model.state_dict().items()
        if not any(part.startswith("lora_") for part in name.split("."))
    }


def not_finite(state: State) -> tuple[str, ...]:
    """Returns the names of the tensors that hold NaN or Inf."""
    return tuple(name for name, tensor in state.items() if not tensor.isfinite().all())


@dataclass(frozen=True, kw_only=True)
class Faults:
    """The differences between a file's tensors and the model's; false if there are none.

    matched: how many of the model's `wanted` tensors the file fills; hint: a remedy, if nnvit knows one.
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

    @classmethod
    def between(cls, state: State, targets: State) -> Self:
        """Compares names and shapes, not values, so that the model may be on the meta device."""
        both = [name for name in targets if name in state]
        # integer and float8 tensors are quantised and need their scales
        mismatched = [n for n in both if state[n].shape != targets[n].shape or state[n].dtype not in FLOATS]
        return cls(
            matched=len(both) - len(mismatched),
            wanted=len(targets),
            missing=tuple(name for name in targets if name not in state),
            unexpected=tuple(name for name in state if name not in targets),
            mismatched=tuple(f"{name} ({_difference(state[name], targets[name])})" for name in mismatched),
            hint=_positions(state, targets) if mismatched == ["pos_embed"] else "",
        )


def _difference(got: Tensor, expected: Tensor) -> str:
    kind = "" if got.dtype in FLOATS else f" {got.dtype}"
    return f"got {tuple(got.shape)}{kind}, expected {tuple(expected.shape)}"


def _positions(state: State, targets: State) -> str:
    """Returns the image size of the file's position embeddings, for the case that only these do not fit."""
    patch = targets["patch_embed.proj.weight"].shape[-1]
    side = isqrt(state["pos_embed"].shape[1])
    return (
        f" The file's position embeddings are those of a {side} x {side} grid: {side * patch} px. A backbone with the key"
        f" img_size takes them with model.backbone_args.img_size={side * patch}."
    )


# --- describing ------------------------------------------------------------------------------------------------------


# (kind of network, pattern of a name that only this kind has); the first that matches counts
_KINDS = (
    ("DINOv3 as Meta publishes it", r"storage_tokens|rope_embed\.periods"),
    ("a masked autoencoder, as RETFound's", r"decoder_(embed|blocks|pred)\..*"),
    ("iBOT, as VisionFM's", r"masked_embed"),
    ("DINOv2 as Meta publishes it", r"mask_token|register_tokens|.*\.mlp\.w12\.weight"),
    ("a SegFormer (MiT)", r"(segformer\.)?(encoder\.)?(block\.0\.0\.|stages\.0\.|patch_embeddings\.0\.proj\.).*"),
    ("a vision transformer with transformers' names", r"(\w+\.)?encoder\.layers?\.0\..*"),
    ("DINOv3 with timm's names", r"blocks\.0\.gamma_1"),
    ("DINOv2 with timm's names", r"blocks\.0\.ls1\.gamma"),
    ("a plain vision transformer", r"cls_token"),
    ("nnU-Net's U-Net", r"decoder\.seg_layers\.0\.weight"),
)

# (width, depth) -> published size; small and small_plus differ in the kind of MLP
_SIZES = {
    (384, 12): "small",
    (768, 12): "base",
    (1024, 24): "large",
    (1280, 32): "huge_plus",
    (1536, 40): "giant",
    (4096, 40): "7b",
}
# in timm, DINOv3 and DINOv2; the latter two if a file was meant for another family
_REGISTERS = ("reg_token", "storage_tokens", "register_tokens")


def describe(state: Mapping[str, Tensor]) -> str:
    """Describes the kind of network in a state dict, as far as its names and shapes tell."""
    if widths := _mit_shape(state):
        return widths
    for kind, pattern in _KINDS:
        if any(re.fullmatch(pattern, name) for name in state):
            return ", ".join([kind, *_shape(state)])
    for name in state:
        if name.endswith(".cls_token"):
            return f"a vision transformer whose names carry the unknown prefix '{name.removesuffix('cls_token')}'"
    return f"no vision transformer known here (its names begin {listed(list(state)[:3])})"


def _shape(state: Mapping[str, Tensor]) -> list[str]:
    """Describes a plain vision transformer's width, depth, patch and positions; [] for another network."""
    if "cls_token" not in state:
        return []
    width = state["cls_token"].shape[-1]
    # blocks.BLOCK.name, or blocks.CHUNK.BLOCK.name, where BLOCK counts through all chunks
    depth = len({match[1] for name in state if (match := re.match(r"blocks\.(?:\d+\.)?(\d+)\.", name))})
    size = _SIZES.get((width, depth))
    parts = [f"width {width} and {depth} blocks" + (f" (a {size})" if size else "")]
    if "patch_embed.proj.weight" in state:
        parts.append(f"patch {state['patch_embed.proj.weight'].shape[-1]}")
    if "pos_embed" in state:
        parts.append(f"{state['pos_embed'].shape[1]} positions")
    parts += [f"{state[name].shape[1]} register tokens" for name in _REGISTERS if name in state]
    if "blocks.0.mlp.fc1_g.weight" in state:
        parts.append("a gated MLP")
    return parts


def _mit_shape(state: Mapping[str, Tensor]) -> str:
    """Describes widths and depths of a MiT in nnvit's names; "" for another network."""
    if "stages.0.patch_embeddings.proj.weight" not in state:
        return ""
    stages = sorted({name.split(".")[1] for name in state if name.startswith("stages.")})
    widths = [state[name].shape[0] for s in stages if (name := f"stages.{s}.patch_embeddings.proj.weight") in state]
    depths = [len({name.split(".")[3] for name in state if name.startswith(f"stages.{s}.blocks.")}) for s in stages]
    return f"a MiT of widths {', '.join(map(str, widths))} and {', '.join(map(str, depths))} blocks"


def listed(names: Sequence[str]) -> str:
    """Lists the first names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
