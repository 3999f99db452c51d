"""Model directories as transformers writes them: config.json, and weights in one file or in shards with an index."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnvit.errors import WeightsError
from nnvit.records.hashes import sha256_of

from .safe_load import safe_load
from .target import State

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""In the order in which they are preferred."""


def read_directory(folder: str | Path) -> State:
    """The tensors of all weight files of a model directory as one state dict.

    Raises WeightsError for a directory without weights, a missing or damaged shard, or shards that are not what their
    index says.
    """
    shards = {path: safe_load(path) for path in weight_files(folder)}
    for path, shard in shards.items():
        if not isinstance(shard, Mapping):
            raise WeightsError(f"{path} holds no state dict (names to tensors) but a {type(shard).__name__}.")
    counts = Counter(name for shard in shards.values() for name in shard)
    index = _index(Path(folder))
    listed = counts.keys() if index is None else index.keys()
    wrong = sorted(listed ^ counts.keys()) + sorted(name for name, count in counts.items() if count > 1)
    if wrong:
        raise WeightsError(
            f"{folder}: {len(wrong)} tensors, such as '{wrong[0]}', are not in exactly one shard and in the index. The"
            " shards are of different downloads, or cut short; fetch the directory again."
        )
    return {name: tensor for shard in shards.values() for name, tensor in shard.items()}


def weight_files(folder: str | Path) -> list[Path]:
    """The files that hold a model directory's weights: one, or the shards of its index, sorted. Raises WeightsError."""
    folder = Path(folder)
    index = _index(folder)
    names = [_chosen(folder)] if index is None else sorted(set(index.values()))
    for name in names:
        # An index comes from whoever made the directory: it must not reach files elsewhere.
        if Path(name).name != name or name in ("", ".", ".."):
            raise WeightsError(
                f"{folder / _chosen(folder)} names '{name}', which is no file name within the directory."
            )
        if not (folder / name).is_file():
            raise WeightsError(f"{folder}: the shard {name} is missing; fetch the directory again.")
    return [folder / name for name in names]


def directory_sha256(folder: str | Path) -> str:
    """The SHA-256 of the one weight file, or that of `sha256sum`'s lines for the shards."""
    digests = {path.name: sha256_of(path) for path in weight_files(folder)}
    if len(digests) == 1:
        return next(iter(digests.values()))
    return hashlib.sha256("".join(f"{digest}  {name}\n" for name, digest in digests.items()).encode()).hexdigest()


def digest_of(path: Path) -> str:
    """The SHA-256 of a weight file, or of a model directory's weights."""
    return directory_sha256(path) if path.is_dir() else sha256_of(path)


def read_config(folder: str | Path) -> dict[str, Any]:
    """The directory's config.json, or an empty dictionary where there is none. Raises WeightsError when it is damaged."""
    path = Path(folder) / CONFIG
    return _json(path) if path.is_file() else {}


def _chosen(folder: Path) -> str:
    name = next((name for name in WEIGHTS if (folder / name).is_file()), None)
    if name is None:
        held = ", ".join(sorted(path.name for path in folder.glob("*"))[:8]) or "nothing"
        raise WeightsError(
            f"{folder} is no model directory of transformers: it holds {held}, but none of {', '.join(WEIGHTS)}."
        )
    return name


def _index(folder: Path) -> dict[str, str] | None:
    """Tensor name -> shard, or None where one file holds all."""
    path = folder / _chosen(folder)
    if path.suffix != ".json":
        return None
    places = _json(path).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise WeightsError(f"{path} is no index of shards: it has no weight_map of tensor names to file names.")
    return places


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as JSON ({error}); fetch the directory again.") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} must hold a JSON object, not a {type(content).__name__}.")
    return content
