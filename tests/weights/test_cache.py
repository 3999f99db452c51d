import json
import os

import pytest
from torch import nn

from nnvit.errors import WeightsError
from nnvit.records.hashes import sha256_of
from nnvit.types import DefaultWeights
from nnvit.weights import cache

from . import helpers

PARAMETERS = 100


def found(wanted):
    """Looks in the cache for the published weights `wanted` of a model with PARAMETERS parameters."""
    return cache.find_cached(helpers.StandIn("x", nn.Linear(PARAMETERS, 1, bias=False), default_weights=wanted))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NNVIT_CACHE", str(tmp_path))
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


@pytest.fixture
def hashed(monkeypatch):
    """The names of the files that were hashed."""
    names = []

    def counting(path):
        names.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr(cache, "sha256_of", counting)
    return names


def wanted(path):
    return DefaultWeights(file="publisher.pth", sha256=sha256_of(path)[:8], licence="x")


def write(path, size=400):
    path.write_bytes(b"w" * size)
    return path


def test_without_the_variable_the_folder_is_in_the_home(monkeypatch, tmp_path):
    monkeypatch.delenv("NNVIT_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / ".cache" / "nnvit" / "weights"


def test_a_folder_that_does_not_exist_holds_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("NNVIT_CACHE", str(tmp_path / "absent"))
    assert found(DefaultWeights(file="a.pth", sha256="ab", licence="x")) is None


def test_the_publishers_name_is_found(folder):
    path = write(folder / "publisher.pth")
    assert found(wanted(path)) == path


def test_a_file_whose_publisher_names_no_hash_is_found_by_name_alone(folder):
    path = write(folder / "publisher.pth")
    assert found(DefaultWeights(file=path.name, licence="x")) == path
    assert found(DefaultWeights(file="other.pth", licence="x")) is None


def test_the_right_name_with_another_hash_is_refused_with_both(folder):
    path = write(folder / "publisher.pth")
    other = DefaultWeights(file=path.name, sha256="0123abcd", licence="x")
    with pytest.raises(WeightsError, match=rf"{sha256_of(path)}.*begins with 0123abcd"):
        found(other)


def test_a_renamed_file_is_found_by_its_hash(folder):
    write(folder / "another.pth", 401)
    path = write(folder / "renamed.pt")
    assert found(wanted(path)) == path


def test_files_that_cannot_be_it_are_not_hashed(folder, hashed):
    write(folder / "small.pth", 100)
    write(folder / "large.pth", 2**21)
    write(folder / "notes.txt")
    assert found(DefaultWeights(file="a.pth", sha256="ab", licence="x")) is None
    assert hashed == []


def test_a_file_is_hashed_once_until_it_changes(folder, hashed):
    path = write(folder / "renamed.pth")
    first = [cache.remembered_sha256(path) for _ in range(2)]
    assert first == [sha256_of(path)] * 2
    assert hashed == ["renamed.pth"]
    write(path, 401)
    assert cache.remembered_sha256(path) == sha256_of(path)
    assert hashed == ["renamed.pth"] * 2


def test_the_same_size_at_another_time_is_hashed_again(folder, hashed):
    path = write(folder / "a.pth")
    cache.remembered_sha256(path)
    os.utime(path, ns=(0, 0))
    cache.remembered_sha256(path)
    assert hashed == ["a.pth"] * 2


def test_the_index_keeps_the_hashes_of_other_files(folder):
    paths = [write(folder / "a.pth"), write(folder / "b.pth", 401)]
    digests = [cache.remembered_sha256(path) for path in paths]
    assert list(json.loads((folder / cache._INDEX).read_text()).values()) == digests


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_index_is_made_anew(folder, content):
    (folder / cache._INDEX).write_text(content)
    path = write(folder / "a.pth")
    assert cache.remembered_sha256(path) == sha256_of(path)
    assert list(json.loads((folder / cache._INDEX).read_text()).values()) == [sha256_of(path)]


def test_an_index_that_cannot_be_written_does_no_harm(folder, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError("read-only")

    path = write(folder / "a.pth")
    monkeypatch.setattr(type(path), "replace", refuse)
    assert cache.remembered_sha256(path) == sha256_of(path)
