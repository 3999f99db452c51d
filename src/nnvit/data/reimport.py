"""Knows an import again, so that doing it twice changes nothing."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BLOCK = "nnvit_import"
"""nnU-Net passes over keys of dataset.json that it does not know, so where the cases came from can travel along."""

PARTS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")


def fingerprint(options: Mapping[str, Any], digests: Sequence[str]) -> str:
    """Of what was asked for and of the files it was asked of."""
    return _hash([options, sorted(digests)])


def seal(folder: Path, dataset: Mapping[str, Any]) -> str:
    """Of what an import has written: dataset.json but for its own block, and the names and sizes of the cases' files."""
    files = sorted(
        (f"{part}/{path.name}", path.stat().st_size)
        for part in PARTS
        if (folder / part).is_dir()
        for path in (folder / part).iterdir()
    )
    return _hash([{key: value for key, value in dataset.items() if key != BLOCK}, files])


def earlier_import(folder: Path) -> dict[str, Any] | None:
    """The dataset.json of an import that still stands there as it was written; None if there is none."""
    file = folder / "dataset.json"
    if not file.is_file():
        return None
    try:
        dataset = json.loads(file.read_text())
        whole = dataset[BLOCK]["seal"] == seal(folder, dataset)
    except (json.JSONDecodeError, KeyError, TypeError):
        return None
    return dataset if whole else None


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
