"""Weight files on this machine: nnvit's cache folder and the hashes remembered in it, and the cache of huggingface_hub."""

import contextlib
import glob
import os
from dataclasses import dataclass
from pathlib import Path

from nnvit.errors import WeightsError
from nnvit.records.hashes import sha256_of
from nnvit.records.json_files import read_json, write_json
from nnvit.types import Backbone

_INDEX = ".sha256.json"
_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")


def cache_folder() -> Path:
    """Returns $NNVIT_CACHE/weights, or ~/.cache/nnvit/weights. It need not exist."""
    root = os.environ.get("NNVIT_CACHE") or Path.home() / ".cache" / "nnvit"
    return Path(root).expanduser() / "weights"


def find_cached(backbone: Backbone) -> Path | None:
    """Finds the cached file or model directory with the publisher's name, else a file with the publisher's hash.

    Files whose size does not fit the model are not hashed. Raises WeightsError for a file with the publisher's name and
    another hash.
    """
    wanted = backbone.default_weights
    if wanted is None:
        return None
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
    parameters = sum(parameter.numel() for parameter in backbone.model.parameters())
    for path in sorted(cache_folder().glob("*")):
        # 2 to 4 bytes a parameter, with a margin for heads and headers
        plausible = path.suffix in _SUFFIXES and 1.8 * parameters < path.stat().st_size < 5 * parameters + 2**20
        if plausible and remembered_sha256(path).startswith(wanted.sha256):
            return path
    return None


def cached_files(name: str = "") -> list[Path]:
    """Returns the files, or those with this name, of all repositories in huggingface_hub's cache on this machine."""
    from huggingface_hub import constants

    return sorted(Path(constants.HF_HUB_CACHE).glob(f"models--*/snapshots/*/{glob.escape(name) or '*'}"))


def remembered_sha256(path: Path) -> str:
    """Returns the file's SHA-256; remembers it in the file's folder as long as size and modification time stay the same."""
    stat = path.stat()
    key = f"{path.name}, {stat.st_size} bytes, changed {stat.st_mtime_ns}"
    index = Record(path.parent / _INDEX)
    if known := index.read().get(key):
        return known
    digest = sha256_of(path)
    index.add({key: digest})
    return digest


@dataclass(frozen=True)
class Record:
    """A small JSON file of names and values in a cache folder."""

    path: Path

    def read(self) -> dict[str, str]:
        """Returns what the file holds; {} if it is absent or damaged."""
        try:
            return dict(read_json(self.path, WeightsError))
        except (OSError, WeightsError, TypeError, ValueError):
            return {}

    def add(self, new: dict[str, str]) -> None:
        """Adds names that the file does not hold yet, atomically; does nothing if the folder cannot be written to."""
        held = self.read()  # just before writing: another run may have written in the meantime
        missing = {name: value for name, value in new.items() if not held.get(name)}
        with contextlib.suppress(OSError):
            write_json(self.path, held | missing, indent=1)
