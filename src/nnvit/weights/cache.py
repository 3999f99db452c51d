"""The cache folder for weight files that users got from their publishers, and the hashes remembered in it."""

import contextlib
import os
from pathlib import Path

from nnvit.errors import WeightsError
from nnvit.records.hashes import sha256_of
from nnvit.records.json_files import read_json, write_json
from nnvit.types import DefaultWeights

INDEX = ".sha256.json"
_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")


def cache_folder() -> Path:
    """Returns $NNVIT_CACHE/weights, or ~/.cache/nnvit/weights. It need not exist."""
    root = os.environ.get("NNVIT_CACHE") or Path.home() / ".cache" / "nnvit"
    return Path(root).expanduser() / "weights"


def find_cached(wanted: DefaultWeights, parameters: int) -> Path | None:
    """Finds the cached file or model directory with the publisher's name, else a file with the publisher's hash.

    parameters: how many the model has; files of another size are not hashed. Raises WeightsError for a file with the
    publisher's name and another hash.
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
    for path in sorted(cache_folder().glob("*")):
        # 2 to 4 bytes a parameter, with a margin for heads and headers
        plausible = path.suffix in _SUFFIXES and 1.8 * parameters < path.stat().st_size < 5 * parameters + 2**20
        if plausible and remembered_sha256(path).startswith(wanted.sha256):
            return path
    return None


def remembered_sha256(path: Path) -> str:
    """Returns the file's SHA-256; remembers it in the file's folder as long as size and modification time stay the same."""
    stat = path.stat()
    key = f"{path.name}, {stat.st_size} bytes, changed {stat.st_mtime_ns}"
    index = path.parent / INDEX
    if known := read_record(index).get(key):
        return known
    digest = sha256_of(path)
    # Read again: hashing takes seconds, and another run may have written in the meantime.
    write_record(index, read_record(index) | {key: digest})
    return digest


def read_record(path: Path) -> dict[str, str]:
    """Reads a small JSON file of names and values; {} if it is absent or damaged."""
    try:
        return dict(read_json(path, WeightsError))
    except (OSError, WeightsError, TypeError, ValueError):
        return {}


def write_record(path: Path, content: dict[str, str]) -> None:
    """Writes such a file atomically; does nothing if the folder cannot be written to."""
    with contextlib.suppress(OSError):
        write_json(path, content, indent=1)
