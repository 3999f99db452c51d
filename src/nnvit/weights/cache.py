"""The local folder of weight files that users asked their publishers for, and the hashes remembered in it."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from nnvit.errors import WeightsError
from nnvit.records.hashes import sha256_of
from nnvit.types import DefaultWeights

INDEX = ".sha256.json"
SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")


def cache_folder() -> Path:
    """$NNVIT_CACHE/weights, or ~/.cache/nnvit/weights. It need not exist."""
    root = os.environ.get("NNVIT_CACHE") or Path.home() / ".cache" / "nnvit"
    return Path(root).expanduser() / "weights"


def find_cached(wanted: DefaultWeights, parameters: int) -> Path | None:
    """The cached file or model directory of the publisher's name, or else one of the publisher's hash under another name.

    parameters: how many the model has; files that cannot hold them are not hashed. Raises WeightsError for a
    file of the right name whose hash is another.
    """
    named = cache_folder() / wanted.file
    if named.is_dir():
        return named
    if named.is_file():
        digest = remembered_sha256(named)
        if not digest.startswith(wanted.sha256):
            raise WeightsError(
                f"{named} has sha256 {digest}, but the publisher's file begins with {wanted.sha256}:"
                " it is damaged or another file. Fetch it again, or name it with model.weights=/path/to/file."
            )
        return named
    if not wanted.sha256:
        return None
    candidates = _plausible(parameters)
    return next((path for path in candidates if remembered_sha256(path).startswith(wanted.sha256)), None)


def _plausible(parameters: int) -> Iterator[Path]:
    """Weight files whose size fits 2 to 4 bytes a parameter, give or take heads and headers."""
    for path in sorted(cache_folder().glob("*")):
        if path.suffix in SUFFIXES and 1.8 * parameters < path.stat().st_size < 5 * parameters + 2**20:
            yield path


def remembered_sha256(path: Path) -> str:
    """The file's SHA-256, kept beside it as long as its size and its time of change stay the same."""
    stat = path.stat()
    key = f"{path.name}, {stat.st_size} bytes, changed {stat.st_mtime_ns}"
    index = path.parent / INDEX
    if known := read_json(index).get(key):
        return known
    digest = sha256_of(path)
    # Read again: hashing takes seconds, and another run may have written meanwhile.
    write_json(index, read_json(index) | {key: digest})
    return digest


def read_json(path: Path) -> dict[str, str]:
    """A small file of names and values; empty where it is absent or damaged."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


def write_json(path: Path, content: dict[str, str]) -> None:
    """Whole or not at all; in a folder that is absent or read-only, nothing is remembered."""
    part = path.with_suffix(f".{os.getpid()}.part")
    with contextlib.suppress(OSError):
        part.write_text(json.dumps(content, indent=1))
        part.replace(path)
