from pathlib import Path

import pytest
import torch
from torch import nn

from nnvit.errors import WeightsError
from nnvit.nnunet import checkpoint_file


def saved(path: Path) -> Path:
    checkpoint_file.write(path, {"network_weights": nn.Linear(4, 2).state_dict()})
    return path


def test_a_write_that_dies_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = saved(tmp_path / "checkpoint_latest.pth")
    before = path.read_bytes()
    with pytest.raises(AttributeError):  # a local function cannot be pickled: the write breaks halfway
        checkpoint_file.write(path, {"network_weights": torch.zeros(1000), "bad": lambda: None})
    assert path.read_bytes() == before


def test_c_prefers_final_over_latest_over_best(tmp_path: Path) -> None:
    assert checkpoint_file.find(tmp_path) is None
    for name in reversed(checkpoint_file.NAMES):
        saved(tmp_path / name)
        assert checkpoint_file.find(tmp_path) == tmp_path / name


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {}}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="no 'network_weights'"):
        checkpoint_file.read(tmp_path / "other.pth")
