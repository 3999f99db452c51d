"""Scores in parallel, from the cache, and when a mask has changed."""

import json
from pathlib import Path

import numpy as np
import pytest

from nnvit.compare.scores import scoring
from nnvit.compare.scores.metrics import Labels
from nnvit.compare.scores.scoring import ScoringJob
from nnvit.errors import CompareError
from tests.compare.planted import predicted_mask, reference_mask, write_png

LABELS = Labels(values={"disc": (1,), "vessel": (2,)}, tubular=("vessel",))


@pytest.fixture
def jobs(tmp_path: Path) -> list[ScoringJob]:
    found = []
    for number in range(1, 25):
        paths = [tmp_path / f"{number}_{kind}.png" for kind in ("reference", "prediction")]
        write_png(paths[0], reference_mask(number))
        write_png(paths[1], predicted_mask(reference_mask(number), seed=number, noise=2))
        found.append(ScoringJob(reference=paths[0], prediction=paths[1], labels=LABELS, tolerance=1.0))
    return found


def test_many_processes_score_as_one_does_and_in_the_same_order(
    jobs: list[ScoringJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = ScoringJob.score_all(jobs, processes=1, quiet=True)
    monkeypatch.setattr(scoring, "PATIENCE", 0.0)
    assert str(ScoringJob.score_all(jobs, processes=2, quiet=True)) == str(expected)


def test_an_error_in_another_process_names_the_file(jobs: list[ScoringJob], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "PATIENCE", 0.0)
    jobs[20].prediction.write_bytes(jobs[20].prediction.read_bytes()[:60])
    with pytest.raises(CompareError, match=r"21_prediction\.png cannot be read"):
        ScoringJob.score_all(jobs, processes=2, quiet=True)


def test_only_what_has_changed_is_scored_again(
    jobs: list[ScoringJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache.json"
    first = ScoringJob.score_all(jobs, cache=cache, processes=1, quiet=True)
    scored: list[Path] = []
    real = scoring._score_job

    def counting(job: ScoringJob) -> scoring.Scores:
        scored.append(job.prediction)
        return real(job)

    monkeypatch.setattr(scoring, "_score_job", counting)
    assert str(ScoringJob.score_all(jobs, cache=cache, processes=1, quiet=True)) == str(first)
    assert scored == []
    write_png(jobs[3].prediction, np.zeros((48, 48)))
    again = ScoringJob.score_all(jobs, cache=cache, processes=1, quiet=True)
    assert scored == [jobs[3].prediction]
    assert again[3]["disc"]["missed"] is True


def test_another_tolerance_is_another_score(jobs: list[ScoringJob], tmp_path: Path) -> None:
    cache = tmp_path / "cache.json"
    loose = [ScoringJob(reference=j.reference, prediction=j.prediction, labels=LABELS, tolerance=3.0) for j in jobs]
    strict = ScoringJob.score_all(jobs, cache=cache, processes=1, quiet=True)
    sums = [
        sum(row["vessel"]["nsd"] for row in rows)
        for rows in (strict, ScoringJob.score_all(loose, cache=cache, processes=1, quiet=True))
    ]
    assert sums[0] < sums[1]


def test_what_was_scored_before_an_error_is_kept(jobs: list[ScoringJob], tmp_path: Path) -> None:
    cache = tmp_path / "cache.json"
    jobs[5].prediction.write_bytes(b"broken")
    with pytest.raises(CompareError):
        ScoringJob.score_all(jobs, cache=cache, processes=1, quiet=True)
    assert len(json.loads(cache.read_text())) == 5


def test_a_damaged_cache_is_made_anew(jobs: list[ScoringJob], tmp_path: Path) -> None:
    cache = tmp_path / "cache.json"
    cache.write_text('{"cut sh')
    ScoringJob.score_all(jobs[:2], cache=cache, processes=1, quiet=True)
    assert len(json.loads(cache.read_text())) == 2


def test_progress_is_told_by_lines_where_there_is_no_terminal(
    jobs: list[ScoringJob], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scoring, "LINE_EVERY", 0.0)
    ScoringJob.score_all(jobs[:3], processes=1)
    assert "scoring masks: 2 of 3, " in capsys.readouterr().err
    ScoringJob.score_all(jobs[:3], processes=1, quiet=True)
    assert capsys.readouterr().err == ""
