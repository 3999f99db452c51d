"""The examples of a metric and of an audit row in CONTRIBUTING.md, as written there: one file is touched, nothing else."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import REPOSITORY

from .planted import Study

ROOM = "nnvit/compare"


def example(heading: str) -> str:
    """The first Python block under a heading."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return re.findall(rf"## {heading}.*?```python\n(.*?)```", text, flags=re.DOTALL)[0]


def compared(study: Study, tmp_path: Path, file: str, code: str, *words: str) -> Path:
    """The folder of a comparison by a copy of the package in which `code` stands at the end of one file."""
    shutil.copytree(REPOSITORY / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "src" / ROOM / file).open("a", encoding="utf-8") as source:
        source.write(f"\n\n{code}")
    out = tmp_path / "out"
    models = [str(path) for path in sorted(study.results.iterdir())]
    command = [
        sys.executable,
        "-c",
        "from nnvit.cli import main; main()",
        "compare",
        *models,
        "--out",
        str(out),
        *words,
    ]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "src")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return out


@pytest.fixture
def page(study: Study, tmp_path: Path) -> Path:
    metric = example("A new metric")
    return compared(study, tmp_path, "scores/metrics.py", metric, "--metric", "volume_difference_mm3")


def test_the_example_metric_is_scored_judged_and_shown(page: Path) -> None:
    cases = pd.read_csv(page / "cases.csv")
    held = cases[cases["n_ref"] > 0]
    assert (held["volume_difference_mm3"] == (held["n_pred"] - held["n_ref"]).abs()).all()
    assert cases.loc[cases["n_ref"] == 0, "volume_difference_mm3"].isna().all()
    stats = json.loads((page / "stats.json").read_text(encoding="utf-8"))
    block = stats["datasets"]["Dataset777_Planted"]["metrics"]["volume_difference_mm3"]["mean"]
    assert block["lower_is_better"]
    assert block["pairs"][0]["interval"]["low"] is not None
    assert "mean volume difference" in stats["headline"]
    text = (page / "report.html").read_text(encoding="utf-8")
    assert "volume difference (px)" in text
    assert "where the reference is empty) and volume difference, less is better" in text
    assert "volume difference" in (page / "tables" / "scores.tex").read_text(encoding="utf-8")


def test_a_cache_from_before_the_metric_is_not_trusted(study: Study, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    plain = compared(study, tmp_path / "first", "scores/metrics.py", "")
    shutil.copy(plain / "scores_cache.json", tmp_path / "out")
    again = compared(study, tmp_path, "scores/metrics.py", example("A new metric"))
    assert pd.read_csv(again / "cases.csv")["volume_difference_mm3"].notna().any()


def test_the_example_row_is_asked_and_shown(study: Study, tmp_path: Path) -> None:
    out = compared(study, tmp_path, "audit/rows.py", example("A new audit row"))
    rows = json.loads((out / "stats.json").read_text(encoding="utf-8"))["audit"]["rows"]
    (row,) = (row for row in rows if row["key"] == "threads")
    assert (row["status"], row["values"]) == ("unknown", {"nnUNetTrainer": "unknown", "vit": "2"})
    assert "CPU threads" in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("heading", "lines"), [("A new metric", 10), ("A new audit row", 8)])
def test_the_examples_are_as_short_as_their_headings_say(heading: str, lines: int) -> None:
    assert len(example(heading).splitlines()) == lines


def test_every_file_is_read_once(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnvit.compare.comparison import compare
    from nnvit.compare.inputs import references, training_records

    read: list[Path] = []
    real = training_records.read_json

    def counting(path: Path, error: type) -> object:
        read.append(path.resolve())
        return real(path, error)

    for module in (references, training_records):
        monkeypatch.setattr(module, "read_json", counting)
    compare(sorted(study.results.iterdir()), out=tmp_path / "out", quiet=True)
    assert {"plans.json", "dataset.json", "debug.json", "nnvit_run.json", "summary.json"} <= {
        path.name for path in read
    }
    assert len(read) == len(set(read))
