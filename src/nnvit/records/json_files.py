"""JSON files: read with an error that names the file, written atomically."""

import json
import os
from pathlib import Path
from typing import Any

from nnvit.errors import DataError, NnvitError


def read_json(path: Path, error: type[NnvitError] = DataError) -> Any:
    """Reads a JSON file. Raises `error` if it is not valid JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise error(f"{path} is not valid JSON ({problem}); restore it, or create it again.") from problem


def write_json(path: Path, content: Any, *, indent: int = 4, allow_nan: bool = True) -> None:
    """Writes JSON atomically (temporary file, fsync, rename); creates its folder if missing.

    Two processes may write one path: each has a temporary file of its own, and the last to rename wins.
    allow_nan: False raises ValueError for NaN and infinities, which Python writes and reads although JSON has none.
    """
    text = json.dumps(content, indent=indent, allow_nan=allow_nan) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with open(partial, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
