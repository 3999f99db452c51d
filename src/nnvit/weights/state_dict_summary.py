"""What a state dict looks like, in words for whoever has to find out what a file is."""

import re
from collections.abc import Collection, Mapping, Sequence

from torch import Tensor

from . import segformer_files

SHOWN = 8

# (what it is, a name that only this kind has); the first that is found is said.
KINDS = (
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


def describe(state: Mapping[str, Tensor]) -> str:
    """What kind of network a state dict holds, as far as its names and shapes tell."""
    kind = kind_of(state)
    if widths := segformer_files.describe(state):
        return widths
    if kind:
        return ", ".join([kind, *_shape(state)])
    if prefix := _unknown_prefix(state):
        return f"a vision transformer whose names carry the unknown prefix '{prefix}'"
    return f"no vision transformer known here (its names begin {listed(list(state)[:3])})"


def kind_of(names: Collection[str]) -> str:
    """The first of KINDS that the names fit, or an empty string."""
    return next((kind for kind, pattern in KINDS if any(re.fullmatch(pattern, name) for name in names)), "")


def describe_shape(state: Mapping[str, Tensor]) -> str:
    """A vision transformer's width, depth, patch and positions."""
    return segformer_files.describe(state) or ", ".join(_shape(state)) or f"{len(state)} tensors"


def _shape(state: Mapping[str, Tensor]) -> list[str]:
    if "cls_token" not in state:
        return []
    width, depth = state["cls_token"].shape[-1], _depth(state)
    size = SIZES.get((width, depth))
    parts = [f"width {width} and {depth} blocks" + (f" (a {size})" if size else "")]
    if "patch_embed.proj.weight" in state:
        parts.append(f"patch {state['patch_embed.proj.weight'].shape[-1]}")
    if "pos_embed" in state:
        parts.append(f"{state['pos_embed'].shape[1]} positions")
    parts += [f"{state[name].shape[1]} register tokens" for name in REGISTERS if name in state]
    if "blocks.0.mlp.fc1_g.weight" in state:
        parts.append("a gated MLP")
    return parts


def _depth(names: Collection[str]) -> int:
    """Blocks are counted through all chunks, where there are any: blocks.CHUNK.BLOCK.name or blocks.BLOCK.name."""
    return len({match[1] for name in names if (match := re.match(r"blocks\.(?:\d+\.)?(\d+)\.", name))})


def _unknown_prefix(names: Collection[str]) -> str:
    return next((name.removesuffix("cls_token") for name in names if name.endswith(".cls_token")), "")


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
