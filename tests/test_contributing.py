"""The example in CONTRIBUTING.md, as written there."""

import json
import re
from pathlib import Path

import pytest
import torch

import nnvit.heads
from nnvit import registry
from nnvit.model import Segmenter
from nnvit.model.arch_kwargs import arch_kwargs
from nnvit.recipe import loading

from .conftest import REPOSITORY


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The head lies in a folder that belongs to nnvit.heads, as if it were in the package's own."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text()
    code = re.findall(r"## A new head.*?```python\n(.*?)```", text, flags=re.DOTALL)[0]
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
