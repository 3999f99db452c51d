"""sha256 of plain data and of files."""

import hashlib
import json
from pathlib import Path
from typing import Any


def digest(content: Any) -> str:
    """Returns the sha256 of the canonical JSON of plain data (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sha256_of(path: str | Path) -> str:
    """Returns the sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
