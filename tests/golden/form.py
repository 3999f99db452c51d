"""The text form of goldens. Its meaning must never change: the golden of every release is read by this code.

Weights of the small networks are computed, not stored: what a golden holds for ever is which tensors a network has, what
its plans' keys mean and what it computes from given weights, and for that any weights do that differ from place to place.
The one checkpoint of a real training is stored byte for byte.
"""

import base64
import json
import lzma
import textwrap
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

NETWORKS, CHECKPOINT, EXPECTED = "networks.json", "checkpoint_final.pth.xz.base64", "expected.json"

State = dict[str, Tensor]


def uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers in -1..1 that depend on the name and the index alone: splitmix64 of the index, seeded with the name's CRC-32."""
    place = np.arange(int(np.prod(shape)), dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()) << 32)
    mixed = place * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed = mixed ^ (mixed >> np.uint64(31))
    return ((mixed >> np.uint64(40)).astype(np.float64) / 2**23 - 1).reshape(shape)


def tensor(name: str, shape: list[int], dtype: str) -> Tensor:
    """The value of one tensor: matrices keep the size of what they multiply, variances and scales lie around one."""
    if not dtype.startswith("float"):
        return torch.full(shape, 7, dtype=getattr(torch, dtype))
    values = uniform(name, tuple(shape))
    if len(shape) > 1:
        values = values * np.sqrt(3 / max(1, np.prod(shape[1:])))
    elif name.endswith(("running_var", "norm.weight", "norm1.weight", "norm2.weight")):
        values = 1 + values / 2
    return torch.from_numpy(values).to(getattr(torch, dtype))


def image(channels: int, height: int = 64, width: int = 80) -> Tensor:
    """Values in 0..1, (1, channels, height, width)."""
    return torch.from_numpy(uniform("image", (1, channels, height, width)) / 2 + 0.5).float()


def sample(logits: Tensor) -> list[float]:
    """Every seventh row and column of logits (1, K, H, W), to seven digits."""
    return [float(f"{value:.7g}") for value in logits[0, :, ::7, ::7].flatten().tolist()]


def layout_of(network: nn.Module) -> dict[str, list[Any]]:
    """Name -> [shape, dtype] of everything that a checkpoint of the network holds."""
    return {n: [list(t.shape), str(t.dtype).removeprefix("torch.")] for n, t in network.state_dict().items()}


def state_of(layout: dict[str, list[Any]]) -> State:
    """A checkpoint's `network_weights`."""
    return {name: tensor(name, shape, dtype) for name, (shape, dtype) in layout.items()}


def packed(layouts: dict[str, dict[str, list[Any]]]) -> dict[str, Any]:
    """Layouts of many networks, with the parts that they share written once."""
    groups: dict[str, dict[str, list[Any]]] = {}
    uses: dict[str, list[str]] = {}
    for network, layout in layouts.items():
        for part in dict.fromkeys(name.partition(".")[0] for name in layout):
            group = {name: entry for name, entry in layout.items() if name.partition(".")[0] == part}
            key = f"{part} {zlib.crc32(json.dumps(group).encode()):08x}"
            groups[key] = group
            uses.setdefault(network, []).append(key)
    return {"groups": groups, "uses": uses}


def unpacked(content: dict[str, Any], network: str) -> dict[str, list[Any]]:
    """One network's layout again."""
    return {name: entry for key in content["uses"][network] for name, entry in content["groups"][key].items()}


def write_bytes(path: Path, content: bytes) -> None:
    """Returns bytes as text: compressed, base64, lines of 120 characters."""
    text = base64.b64encode(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)).decode()
    path.write_text("\n".join(textwrap.wrap(text, 120)) + "\n")


def read_bytes(path: Path) -> bytes:
    """Returns the bytes that `write_bytes` was given."""
    return lzma.decompress(base64.b64decode(path.read_text()))


def write_json(path: Path, content: Any) -> None:
    """One entry of the outer two levels a line."""
    lines = []
    for key, value in content.items():
        if isinstance(value, dict):
            inner = ",\n".join(f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in value.items())
            lines.append(f"{json.dumps(key)}: {{\n{inner}\n}}")
        else:
            lines.append(f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
