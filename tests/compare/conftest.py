"""Results folders to compare."""

from pathlib import Path

import pytest

from .planted import Study, copy_study, recipe


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A stock arm and an arm of nnvit, alike in everything that must be equal."""
    study = Study(tmp_path_factory.mktemp("study"))
    study.draw_references()
    study.stock()
    study.nnvit("vit_s0", recipe())
    return study


@pytest.fixture
def study(template: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A copy of the template to be changed; nnU-Net's variables name its folders."""
    copied = copy_study(template, tmp_path / "study")
    monkeypatch.setenv("nnUNet_results", str(copied.results.parent))
    monkeypatch.setenv("nnUNet_preprocessed", str(copied.references.parents[1]))
    monkeypatch.delenv("nnUNet_raw", raising=False)
    return copied
