import hashlib
import os
import pickle
from argparse import Namespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nnvit.errors import WeightsError
from nnvit.records.hashes import sha256_of
from nnvit.weights import safe_load


class Evil:
    """A pickle that creates a folder when an ordinary unpickler reads it."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.fixture
def nnunet_checkpoint():
    """The content that nnU-Net 2.8's nnUNetTrainer.save_checkpoint writes."""
    network = torch.nn.Conv2d(1, 2, 3)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.99, nesterov=True)
    network(torch.ones(1, 1, 4, 4)).sum().backward()
    optimizer.step()
    return {
        "network_weights": network.state_dict(),
        "optimizer_state": optimizer.state_dict(),
        "grad_scaler_state": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 3},
        "logging": {
            "mean_fg_dice": [np.float64(0.5), np.float32(0.25)],
            "dice_per_class_or_region": [[np.float64(0.5), np.float64("nan")]],
            "train_losses": [np.float32(-0.1), np.float16(0.5)],
            "epoch_start_timestamps": [1.7e9],
        },
        "_best_ema": np.float64(0.75),
        "current_epoch": np.int64(7),
        "init_args": {
            "plans": {"dataset_name": "Dataset001_A", "configurations": {"2d": {"patch_size": [64, 64]}}},
            "configuration": "2d",
            "fold": 0,
            "dataset_json": {"labels": {"background": 0}},
            "device": torch.device("cuda", 0),
        },
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1),
    }


def test_an_nnunet_checkpoint_loads_with_its_numpy_numbers(tmp_path, nnunet_checkpoint):
    torch.save(nnunet_checkpoint, tmp_path / "checkpoint_final.pth")
    loaded = safe_load(tmp_path / "checkpoint_final.pth")
    assert type(loaded["_best_ema"]) is np.float64
    assert loaded["_best_ema"] == 0.75
    assert loaded["logging"]["mean_fg_dice"] == [0.5, 0.25]
    assert loaded["init_args"] == nnunet_checkpoint["init_args"]
    assert torch.equal(loaded["network_weights"]["weight"], nnunet_checkpoint["network_weights"]["weight"])


def test_numpy_random_states_and_argument_namespaces_load(tmp_path):
    state = np.random.RandomState(5).get_state()
    torch.save({"rng": state, "args": Namespace(lr=0.1), "flag": np.bool_(True)}, tmp_path / "a.pth")
    loaded = safe_load(tmp_path / "a.pth")
    np.testing.assert_array_equal(loaded["rng"][1], state[1])
    assert loaded["args"] == Namespace(lr=0.1)


@pytest.mark.parametrize("core", ["core", "_core"])
def test_both_of_numpys_module_names_load(tmp_path, core):
    written, other = b"numpy._core.multiarray", f"numpy.{core}.multiarray".encode()
    content = pickle.dumps(np.float64(0.5), protocol=2).replace(written, other)
    legacy = [pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    (tmp_path / "a.pth").write_bytes(b"".join(legacy) + content + pickle.dumps([], protocol=2))
    assert safe_load(tmp_path / "a.pth") == 0.5


def test_safetensors_load(tmp_path):
    save_file({"a": torch.arange(3.0)}, tmp_path / "a.safetensors")
    assert torch.equal(safe_load(tmp_path / "a.safetensors")["a"], torch.arange(3.0))


def test_a_malicious_pickle_is_refused_and_not_executed(tmp_path):
    torch.save({"model": Evil(str(tmp_path / "made"))}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match=r"evil\.pth asks to run 'posix\.mkdir'.*save its state dict alone"):
        safe_load(tmp_path / "evil.pth")
    assert not (tmp_path / "made").exists()


def test_a_bare_malicious_pickle_is_refused_and_not_executed(tmp_path):
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil(str(tmp_path / "made"))))
    with pytest.raises(WeightsError, match=r"evil\.pth"):
        safe_load(tmp_path / "evil.pth")
    assert not (tmp_path / "made").exists()


def test_a_pickled_module_is_refused_by_the_name_of_its_class(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(WeightsError, match=r"asks to run 'torch\.nn\.modules\.linear\.Linear'"):
        safe_load(tmp_path / "module.pth")


def test_numpy_arrays_of_objects_are_refused(tmp_path):
    torch.save({"a": np.array([None, "x"], dtype=object)}, tmp_path / "objects.pth")
    with pytest.raises(WeightsError, match=r"objects\.pth"):
        safe_load(tmp_path / "objects.pth")


def test_the_allow_list_is_left_as_it_was(tmp_path, nnunet_checkpoint):
    before = torch.serialization.get_safe_globals()
    torch.save(nnunet_checkpoint, tmp_path / "a.pth")
    safe_load(tmp_path / "a.pth")
    assert set(torch.serialization.get_safe_globals()) == set(before)  # a list of a set, whose order may change


@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors"])
def test_a_truncated_file_is_refused(tmp_path, name):
    path = tmp_path / name
    (torch.save if path.suffix == ".pth" else save_file)({"a": torch.ones(100)}, path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(WeightsError, match=rf"{name} cannot be read as a checkpoint: it is damaged, cut short"):
        safe_load(path)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>"], ids=["empty", "web page"])
def test_what_is_no_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=r"a\.pth cannot be read as a checkpoint"):
        safe_load(tmp_path / "a.pth")


@pytest.mark.parametrize("name", ["absent.pth", "."])
def test_what_is_no_file_is_refused(tmp_path, name):
    with pytest.raises(WeightsError, match="is not a file"):
        safe_load(tmp_path / name)


def test_the_hash_is_sha256_of_the_whole_file(tmp_path):
    content = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(content)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(content).hexdigest()
