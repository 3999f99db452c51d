"""The examples in CONTRIBUTING.md, as written there: one file each, and nothing else is touched."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from nnvit import registry
from nnvit.describe import listing
from nnvit.errors import WeightsError
from nnvit.model import Segmenter, arch_kwargs
from nnvit.recipe import loading
from nnvit.types import BaseFamily
from nnvit.weights import licences, load_backbone
from nnvit.weights.check import check

from .conftest import REPOSITORY


def example(heading: str) -> str:
    """The code of the section with this heading."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    return str(code)


KINDS = {
    "head": "A new head in thirty lines",
    "neck": "A new neck in thirty lines",
    "backbone": "A new backbone family in thirty lines",
}
CODE = {kind: example(heading) for kind, heading in KINDS.items()}
LINES = {"head": 30, "neck": 30, "backbone": 30}
TINY = ["model.backbone=tiny", "model.backbone_size=vit"]
NETWORKS = {
    "head": [*TINY, "model.head=mine", "model.width=16", "model.neck_args.out_channels=16"],
    "neck": [*TINY, "model.head=linear", "model.neck=mine", "model.neck_args.out_channels=16"],
    "backbone": ["model.backbone=mine", "model.backbone_size=tiny", "model.head=linear"],
}


@pytest.fixture
def mine(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A kind whose example lies in a folder that belongs to the kind's package, as if it were in the package's own."""
    kind = request.param
    package = import_module(f"nnvit.{registry.KINDS[kind]}")
    (tmp_path / "mine.py").write_text(CODE[kind])
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    return kind


every_kind = pytest.mark.parametrize("mine", KINDS, indirect=True)


def built(kind: str, *overrides: str) -> Segmenter:
    """The example in a network, as its plans build it."""
    recipe = loading.load_recipe([], [*NETWORKS[kind], "lora.enabled=false", *overrides])
    torch.manual_seed(0)
    return Segmenter(3, 2, **json.loads(json.dumps(arch_kwargs(recipe))))


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_is_as_short_as_the_page_says(kind: str) -> None:
    assert len([line for line in CODE[kind].splitlines() if line.strip()]) <= LINES[kind]


@every_kind
def test_the_example_is_found_and_listed(mine: str) -> None:
    assert "mine" in registry.names(mine)
    summary = CODE[mine].split('"""')[1]
    assert f"  mine: {summary}" in listing(f"{mine}s")


@every_kind
def test_the_example_is_planned_and_trained(mine: str) -> None:
    recipe = loading.load_recipe([], [*NETWORKS[mine], "lora.enabled=false"])
    names = {"head": "mine_tiny_vit_frozen", "neck": "linear_tiny_vit_frozen", "backbone": "linear_mine_tiny_frozen"}
    assert recipe.name.startswith(names[mine])
    network = built(mine, *(["model.freeze_backbone=false"] if mine == "backbone" else []))
    image, target = torch.rand(2, 3, 50, 61), torch.randint(0, 2, (2, 50, 61))
    optimizer = torch.optim.AdamW(
        [p for p in network.parameters() if p.requires_grad], lr=1e-3 if mine == "backbone" else 1e-2
    )
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(image), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    part: Any = getattr(network, mine)
    assert all(p.grad is not None and p.grad.any() for p in part.parameters())
    assert losses[-1] < losses[0]


@every_kind
def test_the_examples_state_dict_rebuilds_it(mine: str) -> None:
    network, twin = built(mine).eval(), built(mine).eval()
    for parameter in twin.parameters():
        torch.nn.init.zeros_(parameter)
    twin.load_state_dict(network.state_dict(), strict=True)
    image = torch.rand(1, 3, 32, 48)
    assert torch.equal(twin(image), network(image))


@pytest.mark.parametrize("mine", ["backbone"], indirect=True)
class TestTheExampleFamily:
    @pytest.fixture
    def file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The published file, in the layout that the family declares."""
        monkeypatch.setenv("NNVIT_CACHE", str(tmp_path))
        monkeypatch.setenv(licences.VARIABLE, "")
        torch.manual_seed(1)
        state = registry.build_backbone("mine", "tiny", [11], {}).model.state_dict()
        published = {f"net.{name.replace('cls_token', 'token')}": tensor for name, tensor in state.items()}
        (tmp_path / "weights").mkdir()
        torch.save(published | {"projector.weight": torch.ones(2)}, tmp_path / "weights" / "hospital_vit.pth")
        return tmp_path / "weights" / "hospital_vit.pth"

    def test_it_declares_all_that_its_base_names(self, mine: str) -> None:
        family = registry.family("mine")
        assert issubclass(family, BaseFamily)
        assert [name for name in BaseFamily.__annotations__ if not hasattr(family, name)] == []

    def test_its_weights_load_by_its_layout_once_its_licence_is_accepted(self, mine: str, file: Path) -> None:
        network = built(mine)
        with pytest.raises(WeightsError, match=r"hospital_vit\.pth: the licence 'cc-by-nc-4\.0' must be accepted"):
            load_backbone(network.backbone, "default")
        licences.accept(["cc-by-nc-4.0"])
        report = load_backbone(network.backbone, "default")
        assert (report.layout, report.licence, report.source) == ("hospital", "cc-by-nc-4.0", "cache")
        assert report.dropped == ("projector.weight",)
        torch.manual_seed(1)
        expected = registry.build_backbone("mine", "tiny", [11], {}).model.state_dict()
        assert report.loaded == len(expected)
        assert all(torch.equal(network.backbone.model.state_dict()[name], expected[name]) for name in expected)

    def test_weights_check_knows_its_file(self, mine: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(registry, "names", lambda kind: ["mine"])
        (fit,) = check(file).fits
        assert (fit.recipe, fit.converted.layout) == ("model.backbone=mine model.backbone_size=tiny", "hospital")
        assert fit.licence == "cc-by-nc-4.0"


def test_the_example_command_is_one_file_and_one_line(tmp_path: Path) -> None:
    """Works in a copy of the package, because the line is added to one of its files."""
    package = tmp_path / "nnvit"
    shutil.copytree(REPOSITORY / "src" / "nnvit", package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "cli" / "labels.py").write_text(example("A new command"))
    table = package / "cli" / "__init__.py"
    table.write_text(table.read_text().replace('    "dataset",\n)', '    "dataset",\n    "labels",\n)'))
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "vessel": 1}}')

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        command = [sys.executable, "-m", "nnvit", *words]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert "  labels     Print the labels of a data set, one per line." in run("--help").stdout
    assert "Example: nnvit labels" in run("labels", "--help").stdout
    assert run("labels", ".").stdout == "0: background\n1: vessel\n"
    (tmp_path / "dataset.json").write_text("{")
    failed = run("labels", ".")
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: dataset.json is not valid JSON")
