"""The folders an import writes to: their names, whether they are free, and how they come into being whole."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnvit.errors import DataError

SPLITS_FILE = "splits_final.json"


def folder_name(dataset_id: int, name: str) -> str:
    """`DatasetXXX_Name`.

    Raises:
        DataError: an id outside 1..999 or a name that nnU-Net could not take apart again.
    """
    if not 1 <= dataset_id <= 999:
        raise DataError(f"the data set id is {dataset_id}; expected 1 to 999, nnU-Net reads three digits")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or "__" in name:
        raise DataError(
            f"the data set name is '{name}'; expected letters, digits, '-' and single '_' "
            "(nnU-Net splits folder names at '__')"
        )
    return f"Dataset{dataset_id:03d}_{name}"


def claim(target: Path, preprocessed: Path | None, overwrite: bool) -> list[Path]:
    """The raw folders of the target's id, which `overwrite` allows to be replaced.

    Raises:
        DataError: there are some and `overwrite` is off, or preprocessed data use the id under another name.
    """
    prefix = target.name[: len("Dataset000_")]
    old = sorted(target.parent.glob(f"{prefix}*"))
    if old and not overwrite:
        raise DataError(f"'{old[0]}' has this id already; give --overwrite to replace it, or another id")
    known = sorted(preprocessed.glob(f"{prefix}*")) if preprocessed else []
    foreign = [folder for folder in known if folder.name != target.name]
    if foreign:
        raise DataError(
            f"preprocessed data '{foreign[0]}' use this id under another name, which nnU-Net refuses; "
            f"give another id, the name '{foreign[0].name[len(prefix) :]}', or remove that folder"
        )
    return old


def recover(target: Path) -> None:
    """Undo what an import of this id left half done when it was killed without a chance to clean up."""
    prefix = target.name[: len("Dataset000_")]
    for aside in target.parent.glob(f".{prefix}*.old"):
        if any(target.parent.glob(f"{prefix}*")):
            shutil.rmtree(aside)
        else:
            aside.rename(aside.with_name(aside.name[1:].removesuffix(".old")))
    for partial in target.parent.glob(f".{prefix}*.partial"):
        shutil.rmtree(partial)


def check_splits(file: Path | None, splits: list[dict[str, list[str]]], overwrite: bool) -> None:
    """Raise `DataError` if there are splits to write and `file` holds others that may not be overwritten."""
    if file and splits and file.is_file() and not overwrite and file.read_text() != _dumps(splits):
        raise DataError(f"'{file}' holds other splits; give --overwrite to replace them, or move it away")


@contextmanager
def replacing(target: Path, old: list[Path]) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of the target and of `old` once the block succeeds."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        _swap(partial, target, old)
    except BaseException:  # Ctrl-C too
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_json(file: Path, content: Any) -> None:
    """Write it whole or not at all; the folder is made if need be."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(_dumps(content))
    os.replace(partial, file)


def _swap(partial: Path, target: Path, old: list[Path]) -> None:
    aside = {folder: folder.with_name(f".{folder.name}.old") for folder in old}
    moved = []
    try:
        for folder, away in aside.items():
            shutil.rmtree(away, ignore_errors=True)
            folder.rename(away)
            moved.append(folder)
        partial.rename(target)
    except OSError:
        for folder in moved:
            aside[folder].rename(folder)
        raise
    for away in aside.values():
        shutil.rmtree(away)


def _dumps(content: Any) -> str:
    return json.dumps(content, indent=1) + "\n"
