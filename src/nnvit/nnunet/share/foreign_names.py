"""Renames the tensors of other people's whole networks to nnvit's names: the original fork's, and transformers' SegFormer.

The fork's SegFormerSegmentationModel has a timm ViT as `backbone`, which peft may have wrapped, and transformers' decode
head as `decode_head`. nnvit does not know the names of the decoders in the fork's "ViT model" and Mask2Former.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nnvit.errors import WeightsError
from nnvit.types import State
from nnvit.weights.external import filled
from nnvit.weights.state_dicts import flat, recognise

FORK, SEGFORMER, UNKNOWN_HEAD = "the fork's SegFormer model", "transformers' SegFormer", "a ViT under another head"
OURS = "nnvit's own"

# parts that torch.compile and DDP add to names
_WRAPPERS = (re.compile(r"(?:^|(?<=\.))_orig_mod\."), re.compile(r"^module\."))
BACKBONE = re.compile(r"^backbone\.(base_model\.model\.)?")
_CLASSIFIER = "backbone.model.head."

_RenameHead = Callable[[Mapping[str, Tensor]], State | None]


@dataclass(frozen=True, kw_only=True)
class Mapped:
    """A checkpoint's tensors under nnvit's names.

    kind: origin of the names; renamed: `old.* -> new.*` and how many tensors; dropped: reason -> names as in the file;
    unmapped: unknown names.
    """

    kind: str
    state: State
    renamed: Mapping[str, int]
    dropped: Mapping[str, tuple[str, ...]]
    unmapped: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Returns what was renamed and dropped, for a terminal."""
        return [
            f"{len(self.state)} tensors mapped from {self.kind}",
            *(f"  renamed {rule}: {count}" for rule, count in self.renamed.items()),
            *(f"  dropped {len(names)} ({reason}): {', '.join(names)}" for reason, names in self.dropped.items()),
        ]


def network_state(raw: Any) -> State:
    """Returns the network's tensors in an nnU-Net checkpoint, or in a state dict with or without common wrappers.

    The names are without the parts that torch.compile and DDP add; external weights are read. Raises WeightsError if there
    are no tensors.
    """
    state = raw["network_weights"] if isinstance(raw, Mapping) and "network_weights" in raw else raw
    _, state = flat(state)
    state = filled(state)
    plain = {_unwrapped(name): tensor for name, tensor in state.items()}
    if len(plain) < len(state):
        raise WeightsError(
            "some of its keys exist both with and without the prefixes of torch.compile or DDP; keep one set."
        )
    return plain


def _unwrapped(name: str) -> str:
    for pattern in _WRAPPERS:
        name = pattern.sub("", name)
    return name


def kind_of(state: State) -> str:
    """Returns the origin of the names: one of the constants above, or "" for unknown names."""
    parts = {name.partition(".")[0] for name in state}
    if any(name.startswith("backbone.model.") for name in state) and "head" in parts:
        return OURS
    if recognise(state, "mit") is not None:
        return SEGFORMER
    if "backbone" not in parts:
        return ""
    return FORK if "decode_head" in parts else UNKNOWN_HEAD


def map_names(state: State, rename_head: _RenameHead) -> Mapped:
    """Renames a whole network; rename_head: `from_segformer` of head segformer. Raises WeightsError for unknown kinds."""
    kind = kind_of(state)
    if kind == SEGFORMER:
        return _from_segformer(state, rename_head)
    backbone = map_backbone(state)
    head = {name: tensor for name, tensor in state.items() if name.startswith("decode_head.")}
    try:
        renamed = {f"head.{name}": tensor for name, tensor in (rename_head(head) or {}).items()}
    except (KeyError, ValueError) as error:
        raise WeightsError(f"its decode head is not transformers' SegformerDecodeHead: {sorted(head)[:4]} …") from error
    return Mapped(
        kind=kind,
        state=backbone.state | renamed,
        renamed={**backbone.renamed, _head_rule(head): len(head)},
        dropped=backbone.dropped,
        unmapped=tuple(name for name in backbone.unmapped if name not in head),
    )


def map_backbone(state: State) -> Mapped:
    """Renames the backbone alone; all other names are unmapped."""
    ours: State = {}
    renamed: Counter[str] = Counter()
    for name, tensor in state.items():
        if match := BACKBONE.match(name):
            ours[BACKBONE.sub("backbone.model.", name)] = tensor
            renamed[f"{match[0]}* -> backbone.model.*"] += 1
    classifier = tuple(name for name in ours if name.startswith(_CLASSIFIER))
    reason = "timm's classifier, which segmentation does not read"
    return Mapped(
        kind=kind_of(state),
        state={name: tensor for name, tensor in ours.items() if name not in classifier},
        renamed=renamed,
        dropped={reason: tuple(name.replace(".model.", ".", 1) for name in classifier)} if classifier else {},
        unmapped=tuple(name for name in state if not BACKBONE.match(name)),
    )


def _head_rule(head: Mapping[str, Tensor]) -> str:
    layout = "linear_c" if any(".linear_c." in name for name in head) else "linear_projections"
    return f"decode_head.* (with {layout}) -> head.*"


def _from_segformer(state: State, rename_head: _RenameHead) -> Mapped:
    converted = recognise(state, "mit")
    assert converted is not None
    decode_head = converted.decode_head
    head = (rename_head(decode_head) or {}) if decode_head else {}
    classifier = tuple(name for name in converted.dropped if name not in decode_head)
    return Mapped(
        kind=f"{SEGFORMER} ({converted.layout})",
        state={f"backbone.model.{name}": tensor for name, tensor in converted.state.items()}
        | {f"head.{name}": tensor for name, tensor in head.items()},
        renamed={"segformer.* -> backbone.model.*": len(converted.state), _head_rule(decode_head): len(head)},
        dropped={"an image classifier": classifier} if classifier else {},
    )
