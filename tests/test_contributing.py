"""The examples in CONTRIBUTING.md, as written there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import nnvit.heads
from nnvit import registry
from nnvit.model import Segmenter
from nnvit.model.arch_kwargs import arch_kwargs
from nnvit.recipe import loading

from .conftest import REPOSITORY


def example(heading: str) -> str:
    """The code of the section with this heading."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    return str(code)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The head lies in a folder that belongs to nnvit.heads, as if it were in the package's own."""
    code = example("A new head in thirty lines")
    (tmp_path / "mine.py").write_text(code)
    monkeypatch.setattr(nnvit.heads, "__path__", [*nnvit.heads.__path__, str(tmp_path)])
    return code


def test_the_example_is_about_thirty_lines(mine: str) -> None:
    assert len([line for line in mine.splitlines() if line.strip()]) <= 30


def test_the_example_head_is_found_planned_and_trained(mine: str) -> None:
    assert "mine" in registry.names("head")
    keys = ["model.head=mine", "model.width=16", "model.backbone=tiny", "model.backbone_size=vit", "lora.enabled=false"]
    recipe = loading.load_recipe([], [*keys, "model.neck_args.out_channels=16"])
    assert recipe.name.startswith("mine_tiny_vit_frozen")
    torch.manual_seed(0)
    network = Segmenter(3, 2, **json.loads(json.dumps(arch_kwargs(recipe))))
    image, target = torch.rand(2, 3, 50, 61), torch.randint(0, 2, (2, 50, 61))
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(image), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.grad is not None and p.grad.any() for p in network.head.parameters())
    assert losses[-1] < losses[0]


def test_the_example_command_is_one_file_and_one_line(tmp_path: Path) -> None:
    """In a copy of the package, since the line goes into a file of it."""
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
