from pathlib import Path

import pytest
import torch
from torch import nn

from nnvit.errors import WeightsError
from nnvit.nnunet import checkpoint_file


class Network(nn.Module):
    def __init__(self, width: int = 4, classes: int = 2) -> None:
        super().__init__()
        self.neck = nn.Linear(width, width)
        self.head = nn.ModuleDict({"classifier": nn.Linear(width, classes)})


def saved(network: nn.Module, path: Path) -> Path:
    checkpoint_file.write(path, {"network_weights": network.state_dict()})
    return path


def test_a_write_that_dies_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = saved(Network(), tmp_path / "checkpoint_latest.pth")
    before = path.read_bytes()
    with pytest.raises(AttributeError):  # a local function cannot be pickled: the write breaks halfway
        checkpoint_file.write(path, {"network_weights": torch.zeros(1000), "bad": lambda: None})
    assert path.read_bytes() == before


def test_c_prefers_final_over_latest_over_best(tmp_path: Path) -> None:
    assert checkpoint_file.find(tmp_path) is None
    for name in reversed(checkpoint_file.NAMES):
        saved(Network(), tmp_path / name)
        assert checkpoint_file.find(tmp_path) == tmp_path / name


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {}}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="no 'network_weights'"):
        checkpoint_file.read(tmp_path / "other.pth")


def test_a_transfer_takes_all_but_the_last_layer(tmp_path: Path) -> None:
    source, target = Network(classes=5), Network(classes=2)
    own_classifier = target.head["classifier"].weight.clone()
    assert checkpoint_file.transfer(target, saved(source, tmp_path / "c.pth")) == 2
    assert torch.equal(target.neck.weight, source.neck.weight)
    assert torch.equal(target.head["classifier"].weight, own_classifier)


def test_a_transfer_from_another_network_takes_nothing(tmp_path: Path) -> None:
    target = Network(width=4)
    before = target.neck.weight.clone()
    with pytest.raises(WeightsError, match="2 of another shape"):
        checkpoint_file.transfer(target, saved(Network(width=6), tmp_path / "c.pth"))
    assert torch.equal(target.neck.weight, before)
