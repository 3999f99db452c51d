"""Fixtures: no licence is accepted, and the user's own cache is not used."""

import pytest

from nnvit.weights import licences


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NNVIT_CACHE", str(tmp_path / "cache"))
    # Set rather than deleted, so that what a test accepts is undone after it.
    monkeypatch.setenv(licences.VARIABLE, "")
    return tmp_path / "cache" / "weights"
