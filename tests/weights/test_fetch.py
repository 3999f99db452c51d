"""`nnvit weights fetch` against a real server that speaks the hub's protocol, then a machine without it."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from nnvit.errors import ConfigError, WeightsError
from nnvit.weights import WeightsFile, licences, sources

from .hub_server import COMMIT, Hub, serving

CONTENT = save({"a": torch.arange(3e6)})
OWN = b"a checkpoint in a repository that names it after itself" * 100
DINOV2 = "timm/vit_small_patch14_dinov2.lvd142m"
NAMES = ["dinov2/small", "hf:owner/name@v1", "retfound/large", "visionfm/base", "unet"]

RESOLVE = """
import json
from nnvit.weights import sources
from nnvit.weights import find_weights, pin
for weights in ("default", "hf:owner/name@v1"):
    spec, backbone = sources._wanted("dinov2/small", [f"model.weights={weights}"])
    file = find_weights(spec, backbone, pin(spec, backbone))
    print(json.dumps([str(file.path), file.source]))
"""


@dataclass(frozen=True)
class Fetches:
    """The finished command that fetched everything, and the hub, which is stopped by then."""

    hub: Hub
    cache: Path
    done: subprocess.CompletedProcess[str]


def run(home: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, without this suite's caches, offline mode and accepted licences."""
    foreign = ("HF_", "NNVIT_", "HUGGINGFACE_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    env |= {"HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment}
    return subprocess.run([sys.executable, *words], env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def fetches(tmp_path_factory: pytest.TempPathFactory) -> Fetches:
    """One command for all names; the first download breaks off in the middle, and the first name comes twice."""
    home, cache = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("shared") / "weights"
    repositories = {DINOV2: {"model.safetensors": CONTENT}, "owner/name": {"name.pth": OWN}}
    gated = frozenset({"YukunZhou/RETFound_mae_natureCFP"})
    flags = ["--cache", str(cache), "--accept-license", "cc-by-nc-4.0"]
    with serving(Hub(repositories, {"license": "mit"}, gated, cut_after=11_000_000)) as server:
        done = run(home, "-m", "nnvit", "weights", "fetch", *NAMES, NAMES[0], *flags, HF_ENDPOINT=server.url)
    return Fetches(server, cache, done)


def test_weights_are_fetched_and_described(fetches: Fetches) -> None:
    snapshot = fetches.cache / "hub" / f"models--{DINOV2.replace('/', '--')}" / "snapshots" / COMMIT
    assert fetches.done.stdout.splitlines()[:5] == [
        "dinov2/small: fetched",
        f"  from hub {DINOV2}@{COMMIT}",
        f"  file {snapshot / 'model.safetensors'}",
        f"  {len(CONTENT):,} bytes, sha256 {sha256(CONTENT).hexdigest()}",
        "  licence apache-2.0",
    ]
    assert (snapshot / "model.safetensors").read_bytes() == CONTENT
    assert f"from hub owner/name@{COMMIT}" in fetches.done.stdout
    assert "licence mit" in fetches.done.stdout


def test_a_download_that_broke_off_goes_on_where_it_stopped(fetches: Fetches) -> None:
    assert fetches.hub.ranges[:2] == ["", f"bytes={10 * 2**20}-"], "the client keeps whole chunks of 10 MiB"
    assert [path.rpartition("/")[2] for path in fetches.hub.downloads] == ["model.safetensors"] * 2 + ["name.pth"]


def test_what_cannot_be_fetched_names_page_file_and_folder_and_does_not_stop_the_rest(fetches: Fetches) -> None:
    assert fetches.done.returncode == 2
    gated, by_hand, unet = fetches.done.stderr.partition("error: retfound/large: ")[2].splitlines()
    folder = fetches.cache / "weights"
    assert "GatedRepoError: 403 Client Error" in gated
    assert f"Visit {fetches.hub.url}/YukunZhou/RETFound_mae_natureCFP, ask there for access" in gated
    assert f"(see https://github.com/rmaphoh/RETFound) at {folder / 'RETFound_mae_natureCFP.pth'}" in gated
    assert "no hub repository holds it" in by_hand
    assert f"(see https://github.com/ABILab-CUHK/VisionFM) at {folder / 'VFM_Fundus_weights.pth'}" in by_hand
    assert unet.startswith("unet: unet trains the base plans' own network")


def test_what_is_here_already_is_verified_and_not_downloaded_again(fetches: Fetches) -> None:
    assert fetches.done.stdout.count("dinov2/small: fetched") == 1
    assert fetches.done.stdout.count("dinov2/small: already here, content verified; nothing was downloaded") == 1


def test_a_machine_without_internet_finds_what_was_fetched(fetches: Fetches, tmp_path: Path) -> None:
    exports = [line.split()[1] for line in fetches.done.stdout.splitlines() if line.startswith("  export ")]
    assert [export.partition("=")[0] for export in exports] == ["HF_HOME", "NNVIT_CACHE", "HF_HUB_OFFLINE"]
    environment = dict(export.split("=", 1) for export in exports) | {"HF_ENDPOINT": fetches.hub.url}
    done = run(tmp_path, "-c", RESOLVE, **environment)
    assert done.returncode == 0, done.stderr
    paths, sources = zip(*map(json.loads, done.stdout.splitlines()), strict=True)
    assert sources == (f"hub {DINOV2}@{COMMIT}", f"hub owner/name@{COMMIT}")
    assert all(Path(path).is_relative_to(fetches.cache) for path in paths)


@pytest.mark.parametrize(
    ("name", "overrides", "expected"),
    [
        ("segformer_default", [], ("default", "dinov3", "large")),
        ("mit/b2", [], ("default", "mit", "b2")),
        ("timm/vit_tiny_patch16_224", [], ("default", "timm", "vit_tiny_patch16_224")),
        ("hf:a/b@v1", ["model.backbone=dinov2", "model.backbone_size=base"], ("hf:a/b@v1", "dinov2", "base")),
    ],
)
def test_a_name_means_what_training_would_look_for(
    name: str, overrides: list[str], expected: tuple[str, str, str]
) -> None:
    spec, backbone = sources._wanted(name, overrides)
    assert backbone is not None
    assert (spec, backbone.family, backbone.size) == expected


def test_keys_of_a_recipe_choose_among_a_familys_files() -> None:
    _, backbone = sources._wanted("visionfm/base", ["model.backbone_args.modality=oct"])
    assert backbone is not None
    assert backbone.default_weights is not None
    assert backbone.default_weights.file == "VFM_OCT_weights.pth"


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NNVIT_CACHE", str(tmp_path))
    monkeypatch.setenv(licences.VARIABLE, "")
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


def test_a_licence_is_asked_for_as_loading_does(own_cache: Path) -> None:
    with pytest.raises(WeightsError, match=r"dinov3 \(large\).*give --accept-license dinov3 once"):
        sources.fetch("segformer_default")


def test_without_internet_the_refusal_says_which_variable_forbids_it(own_cache: Path) -> None:
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE is set here; unset it to fetch"):
        sources.fetch("dinov2/small")


def test_a_publishers_file_put_into_the_cache_by_hand_is_verified(own_cache: Path) -> None:
    path = own_cache / "dinov2_vits14_pretrain.pth"
    torch.save({"a": torch.ones(1)}, path)
    fetched = sources.fetch("dinov2/small")
    assert fetched[0] == "dinov2/small: already here, content verified; nothing was downloaded"
    assert fetched[2] == f"  file {path}"
    index = own_cache / ".sha256.json"
    assert not index.exists() or sha256(path.read_bytes()).hexdigest() in index.read_text()
    index.write_text(index.read_text().replace(sha256(path.read_bytes()).hexdigest(), "0" * 64))
    with pytest.raises(WeightsError, match="damaged: it no longer has the sha256 000"):
        sources.fetch("dinov2/small")


def test_weights_that_need_no_file_say_so() -> None:
    assert sources.fetch("tiny/vit", ["model.weights=random"]) == ["tiny/vit: model.weights=random needs no file"]


def test_the_base_plans_own_network_has_nothing_to_fetch() -> None:
    with pytest.raises(ConfigError, match="has no pretrained weights to fetch"):
        sources.fetch("unet")


def test_a_file_whose_content_is_not_what_the_hub_sent_is_refused(tmp_path: Path) -> None:
    digest = sha256(b"right").hexdigest()
    blob, link = tmp_path / digest, tmp_path / "model.safetensors"
    blob.write_bytes(b"wrong")
    link.symlink_to(blob)
    with pytest.raises(WeightsError, match=f"is damaged.*the hub's {digest}"):
        sources._verify(WeightsFile(path=link, source="hub x@1", sha256=sha256(b"wrong").hexdigest(), licence=""))
    sources._verify(WeightsFile(path=link, source="hub x@1", sha256=digest, licence=""))
