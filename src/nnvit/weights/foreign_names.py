"""From the names in other people's checkpoints of whole networks to nnvit's: the original fork's, and transformers' SegFormer.

The fork's SegFormerSegmentationModel has a timm ViT as `backbone`, where peft may have wrapped it, and transformers'
decode head as `decode_head`. What its "ViT model" and its Mask2Former call their decoders, nnvit does not know.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nnvit.errors import WeightsError

from . import segformer_files
from .external import filled
from .layouts import flat
from .target import State

FORK, SEGFORMER, UNKNOWN_HEAD = "the fork's SegFormer model", "transformers' SegFormer", "a ViT under another head"
OURS = "nnvit's own"

# What torch.compile and DDP put into names, and where.
WRAPPERS = (re.compile(r"(?:^|(?<=\.))_orig_mod\."), re.compile(r"^module\."))
BACKBONE = re.compile(r"^backbone\.(base_model\.model\.)?")
CLASSIFIER = "backbone.model.head."

RenameHead = Callable[[Mapping[str, Tensor]], State]


@dataclass(frozen=True, kw_only=True)
class Mapped:
    """A checkpoint's tensors under nnvit's names.

    kind: whose names they were; renamed: `old.* -> new.*` and how many tensors; dropped: reason -> names as the file has
    them; unmapped: names that mean nothing here.
    """

    kind: str
    state: State
    renamed: Mapping[str, int]
    dropped: Mapping[str, tuple[str, ...]]
    unmapped: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """What became of the names, for a terminal."""
        return [
            f"{len(self.state)} tensors mapped from {self.kind}",
            *(f"  renamed {rule}: {count}" for rule, count in self.renamed.items()),
            *(f"  dropped {len(names)} ({reason}): {', '.join(names)}" for reason, names in self.dropped.items()),
        ]


def network_state(raw: Any) -> State:
    """The network's tensors in an nnU-Net checkpoint, or in a state dict with or without common wrappers.

    Without what torch.compile and DDP put into the names, and with what a checkpoint of nnvit leaves out. Raises WeightsError
    where there are none.
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
    for pattern in WRAPPERS:
        name = pattern.sub("", name)
    return name


def kind_of(state: State) -> str:
    """Whose names they are: one of the constants above, or "" for names that are not known."""
    parts = {name.partition(".")[0] for name in state}
    if any(name.startswith("backbone.model.") for name in state) and "head" in parts:
        return OURS
    if segformer_files.split(state) is not None:
        return SEGFORMER
    if "backbone" not in parts:
        return ""
    return FORK if "decode_head" in parts else UNKNOWN_HEAD


def map_names(state: State, rename_head: RenameHead) -> Mapped:
    """The whole network under nnvit's names; rename_head: of heads/segformer.py. Raises WeightsError for unknown kinds."""
    kind = kind_of(state)
    if kind == SEGFORMER:
        return _from_segformer(state, rename_head)
    backbone = map_backbone(state)
    head = {name: tensor for name, tensor in state.items() if name.startswith(segformer_files.DECODE_HEAD)}
    try:
        renamed = {f"head.{name}": tensor for name, tensor in rename_head(head).items()}
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
    """The backbone alone; what belongs to no backbone is unmapped."""
    ours: State = {}
    renamed: Counter[str] = Counter()
    for name, tensor in state.items():
        if match := BACKBONE.match(name):
            ours[BACKBONE.sub("backbone.model.", name)] = tensor
            renamed[f"{match[0]}* -> backbone.model.*"] += 1
    classifier = tuple(name for name in ours if name.startswith(CLASSIFIER))
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


def _from_segformer(state: State, rename_head: RenameHead) -> Mapped:
    parts = segformer_files.split(state)
    assert parts is not None
    head = rename_head(parts.decode_head) if parts.decode_head else {}
    dropped = {"an image classifier": parts.dropped} if parts.dropped else {}
    return Mapped(
        kind=f"{SEGFORMER} ({parts.layout})",
        state={f"backbone.model.{name}": tensor for name, tensor in parts.encoder.items()}
        | {f"head.{name}": tensor for name, tensor in head.items()},
        renamed={"segformer.* -> backbone.model.*": len(parts.encoder), _head_rule(parts.decode_head): len(head)},
        dropped=dropped,
    )
