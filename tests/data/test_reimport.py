"""Repeating an import changes nothing; another import is refused, and an interrupted one continues."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from .conftest import BINARY, RGB, Workplace


def state(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def twice(place: Workplace) -> Workplace:
    place.pairs("p1", "p2", "p3")
    place.run(group_by=r"p\d", num_folds=3, preview=1)
    return place


def again(place: Workplace, **options: Any) -> Any:
    return {"group_by": r"p\d", "num_folds": 3} | options


def test_the_same_import_changes_nothing_and_says_so(twice: Workplace) -> None:
    before = state(twice.root)
    first = twice.run(**again(twice), overwrite=True)
    # an import that was asked to overwrite has written; the next one has no need to
    assert state(twice.root).keys() == before.keys() - {twice.target / "preview.png"}
    before = state(twice.root)
    second = twice.run(**again(twice))
    assert state(twice.root) == before
    assert second.unchanged
    assert second.lines()[0].startswith("unchanged: the same files")
    assert second.lines()[1:] == first.lines()


def test_moving_the_sources_changes_nothing(twice: Workplace) -> None:
    (twice.root / "images").rename(twice.root / "elsewhere")
    shutil.copytree(twice.root / "elsewhere", twice.root / "images")
    assert twice.run(**again(twice)).unchanged


def test_splits_that_a_kill_kept_from_their_place_are_written(twice: Workplace) -> None:
    splits = twice.splits.read_text()
    twice.splits.unlink()
    assert twice.run(**again(twice)).unchanged
    assert twice.splits.read_text() == splits


@pytest.mark.parametrize("options", [{"num_folds": 2}, {"hold_out": "p1", "num_folds": 2}, {"normalization": "zscore"}])
def test_other_options_are_another_import(twice: Workplace, options: dict[str, Any]) -> None:
    assert "has this id already; give --overwrite" in twice.refusal(**again(twice, **options))


def test_another_pixel_is_another_import(twice: Workplace) -> None:
    changed = RGB.copy()
    changed[0, 0, 0] ^= 1
    twice.image("p1.png", changed)
    assert "has this id already" in twice.refusal(**again(twice))


def test_another_mask_is_another_import(twice: Workplace) -> None:
    twice.mask("p1.png", 255 - BINARY)
    assert "has this id already" in twice.refusal(**again(twice))


def test_another_case_is_another_import(twice: Workplace) -> None:
    twice.pairs("p4")
    assert "has this id already" in twice.refusal(**again(twice))


@pytest.mark.parametrize("file", ["imagesTr/p1_0000.png", "labelsTr/p3.png"])
def test_a_file_that_went_missing_is_not_passed_over(twice: Workplace, file: str) -> None:
    (twice.target / file).unlink()
    assert "has this id already" in twice.refusal(**again(twice))


def test_a_dataset_json_that_was_edited_is_not_passed_over(twice: Workplace) -> None:
    file = twice.target / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"labels": {"background": 0, "other": 1}}))
    assert "has this id already" in twice.refusal(**again(twice))


def test_a_kill_in_mid_swap_is_mended_by_the_next_import(twice: Workplace) -> None:
    raw = twice.root / "raw"
    twice.target.rename(raw / ".Dataset501_Eyes.old")
    (raw / ".Dataset501_Eyes.partial").mkdir()
    assert twice.run(**again(twice)).unchanged
    assert [path.name for path in raw.iterdir()] == ["Dataset501_Eyes"]


def test_a_kill_after_the_swap_leaves_nothing_for_long(twice: Workplace) -> None:
    shutil.copytree(twice.target, twice.root / "raw" / ".Dataset501_Old.old")
    assert twice.run(**again(twice)).unchanged
    assert [path.name for path in (twice.root / "raw").iterdir()] == ["Dataset501_Eyes"]
