"""Reads weight files, checkpoints and model directories without executing any code in them.

A model directory is written by transformers: config.json, and weights in one file or in shards with an index.
"""

import hashlib
import re
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import _reconstruct, scalar
from safetensors.torch import load_file

from nnvit.errors import WeightsError
from nnvit.records.hashes import sha256_of
from nnvit.records.json_files import read_json
from nnvit.types import State

from .packaged import read_onnx

# numbers, times and strings; an array of objects may hold anything
_DTYPES = sorted({type(np.dtype(code)) for code in np.typecodes["All"] if code != "O"}, key=str)

# Besides tensors: nnU-Net's logs (numpy scalars), random states (numpy arrays) and the arguments in published training
# checkpoints. numpy's module has two spellings, because files of numpy 1 are still in use.
_ALLOWED: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    np.dtype,
    np.ndarray,
    Namespace,
    *_DTYPES,
    *((function, f"numpy.{core}.multiarray.{function.__name__}")
      for core in ("core", "_core") for function in (scalar, _reconstruct)),
]  # fmt: skip

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Names of a model directory's weights, in order of preference."""


def safe_load(path: str | Path, map_location: str = "cpu", suffix: str = "") -> Any:
    """Reads a .safetensors, .pth, .pt, .bin or nnU-Net checkpoint file without running any code in it.

    suffix: the file type, if the file's own suffix is another.
    Raises WeightsError for a file that is absent, damaged, not a checkpoint, or that names a class or function outside the
    allow-list. The allow-list cannot be switched off.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path} is not a file.")
    try:
        if (suffix or path.suffix) == ".safetensors":
            return load_file(path, device=map_location)
        with torch.serialization.safe_globals(_ALLOWED):
            return torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # the readers raise half a dozen unrelated types
        raise WeightsError(_refusal(path, error)) from error


def read_weights(path: Path, suffix: str = "") -> Any:
    """Reads a weight file or a model directory. Raises WeightsError, as `safe_load` does.

    suffix: the file type, if the file's own suffix is another.
    """
    if path.is_dir():
        return _read_directory(path)
    kind = suffix or path.suffix
    return read_onnx(path) if kind == ".onnx" else safe_load(path, suffix=kind)


def weights_sha256(path: Path) -> str:
    """Returns the SHA-256 of a weight file or a model directory; of several shards, that of the lines `sha256sum` prints."""
    if not path.is_dir():
        return sha256_of(path)
    digests = {path.name: sha256_of(path) for path in _weight_files(path)}
    if len(digests) == 1:
        return next(iter(digests.values()))
    return hashlib.sha256("".join(f"{digest}  {name}\n" for name, digest in digests.items()).encode()).hexdigest()


def read_config(folder: Path) -> dict[str, Any]:
    """Reads a model directory's config.json; {} if there is none. Raises WeightsError if it is damaged."""
    path = folder / "config.json"
    return _json(path) if path.is_file() else {}


def _refusal(path: Path, error: Exception) -> str:
    offender = re.search(r"GLOBAL ([\w.]+)", str(error))
    if offender:
        return (
            f"{path} asks to run '{offender[1]}' while it is read; nnvit reads only tensors, numbers and"
            " plain containers. If you trust the file, save its state dict alone where it was made"
            " (torch.save(model.state_dict(), path), or safetensors) and use that."
        )
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    reason = reason.partition(". In PyTorch 2.6")[0]  # the rest advises how to run the code in the file
    return (
        f"{path} cannot be read as a checkpoint: it is damaged, cut short or of another kind ({reason})."
        " Compare its size and hash with the publisher's and fetch it again."
    )


def _read_directory(folder: Path) -> State:
    """Reads all weight files of a model directory as one state dict.

    Raises WeightsError for a directory without weights, a missing or damaged shard, or shards that differ from the index.
    """
    shards = {path: safe_load(path) for path in _weight_files(folder)}
    for path, shard in shards.items():
        if not isinstance(shard, Mapping):
            raise WeightsError(f"{path} holds no state dict (names to tensors) but a {type(shard).__name__}.")
    counts = Counter(name for shard in shards.values() for name in shard)
    index = _index(folder)[1]
    listed = counts.keys() if index is None else index.keys()
    wrong = sorted(listed ^ counts.keys()) + sorted(name for name, count in counts.items() if count > 1)
    if wrong:
        raise WeightsError(
            f"{folder}: {len(wrong)} tensors, such as '{wrong[0]}', are not in exactly one shard and in the index. The"
            " shards are of different downloads, or cut short; fetch the directory again."
        )
    return {name: tensor for shard in shards.values() for name, tensor in shard.items()}


def _weight_files(folder: Path) -> list[Path]:
    """Returns the files of a model directory's weights: one, or the shards of its index, sorted. Raises WeightsError."""
    chosen, index = _index(folder)
    names = [chosen.name] if index is None else sorted(set(index.values()))
    for name in names:
        # The index may come from anybody, and must not reach files elsewhere.
        if Path(name).name != name or name in ("", ".", ".."):
            raise WeightsError(f"{chosen} names '{name}', which is not a file name within the directory.")
        if not (folder / name).is_file():
            raise WeightsError(f"{folder}: the shard {name} is missing; fetch the directory again.")
    return [folder / name for name in names]


def _index(folder: Path) -> tuple[Path, dict[str, str] | None]:
    """Returns the file with all weights and None, or the index of shards and what it says: tensor name -> shard."""
    path = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        held = ", ".join(sorted(path.name for path in folder.glob("*"))[:8]) or "nothing"
        raise WeightsError(
            f"{folder} is not a model directory of transformers: it holds {held}, but none of {', '.join(_WEIGHTS)}."
        )
    if path.suffix != ".json":
        return path, None
    places = _json(path).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise WeightsError(f"{path} is not an index of shards: it has no weight_map of tensor names to file names.")
    return path, places


def _json(path: Path) -> dict[str, Any]:
    content = read_json(path, WeightsError)
    if not isinstance(content, dict):
        raise WeightsError(f"{path} must hold a JSON object, not a {type(content).__name__}.")
    return content
