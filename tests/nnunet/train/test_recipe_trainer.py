"""Weights that are taken from another checkpoint."""

from pathlib import Path

import pytest
import torch
from torch import nn

from nnvit.errors import WeightsError
from nnvit.nnunet import checkpoint_file
from nnvit.nnunet.train.recipe_trainer import _transfer


class Network(nn.Module):
    def __init__(self, width: int = 4, classes: int = 2) -> None:
        super().__init__()
        self.neck = nn.Linear(width, width)
        self.head = nn.ModuleDict({"classifier": nn.Linear(width, classes)})


def saved(network: nn.Module, path: Path) -> Path:
    checkpoint_file.write(path, {"network_weights": network.state_dict()})
    return path


def test_a_transfer_takes_all_but_the_last_layer(tmp_path: Path) -> None:
    source, target = Network(classes=5), Network(classes=2)
    own_classifier = target.head["classifier"].weight.clone()
    assert _transfer(target, saved(source, tmp_path / "c.pth")) == 2
    assert torch.equal(target.neck.weight, source.neck.weight)
    assert torch.equal(target.head["classifier"].weight, own_classifier)


def test_a_transfer_from_another_network_takes_nothing(tmp_path: Path) -> None:
    target = Network(width=4)
    before = target.neck.weight.clone()
    with pytest.raises(WeightsError, match="2 of another shape"):
        _transfer(target, saved(Network(width=6), tmp_path / "c.pth"))
    assert torch.equal(target.neck.weight, before)
