import hashlib
import json
import os

import pytest
import torch
from safetensors.torch import save_file

from nnvit.errors import WeightsError
from nnvit.weights.safe_reading import _weight_files, read_config, read_weights, weights_sha256

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.arange(2.0), "b": torch.ones(1)}
SHARDS = {"x-1.safetensors": ["a.weight", "b"], "x-2.safetensors": ["a.bias"]}


class Evil:
    """A pickle that creates a folder when an ordinary unpickler reads it."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def equal(state, other=STATE):
    return state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in other)


def write_index(folder, weight_map, kind="model.safetensors"):
    (folder / f"{kind}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.fixture
def sharded(tmp_path):
    for file, names in SHARDS.items():
        save_file({name: STATE[name] for name in names}, tmp_path / file)
    write_index(tmp_path, {name: file for file, names in SHARDS.items() for name in names})
    return tmp_path


@pytest.mark.parametrize(("file", "save"), [("model.safetensors", save_file), ("pytorch_model.bin", torch.save)])
def test_one_file_is_read(tmp_path, file, save):
    save(STATE, tmp_path / file)
    assert equal(read_weights(tmp_path))
    assert _weight_files(tmp_path) == [tmp_path / file]
    assert weights_sha256(tmp_path) == hashlib.sha256((tmp_path / file).read_bytes()).hexdigest()


def test_safetensors_are_preferred_to_a_pickle(tmp_path):
    save_file(STATE, tmp_path / "model.safetensors")
    torch.save({"other": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    assert equal(read_weights(tmp_path))


def test_shards_are_joined(sharded):
    assert equal(read_weights(sharded))
    assert _weight_files(sharded) == [sharded / file for file in SHARDS]


def test_shards_of_pickles_are_joined(tmp_path):
    torch.save({"a.weight": STATE["a.weight"], "b": STATE["b"]}, tmp_path / "y-1.bin")
    torch.save({"a.bias": STATE["a.bias"]}, tmp_path / "y-2.bin")
    write_index(tmp_path, {"a.weight": "y-1.bin", "b": "y-1.bin", "a.bias": "y-2.bin"}, "pytorch_model.bin")
    assert equal(read_weights(tmp_path))


def test_the_hash_of_shards_is_that_of_sha256sums_lines(sharded):
    lines = [f"{hashlib.sha256((sharded / file).read_bytes()).hexdigest()}  {file}\n" for file in SHARDS]
    before = weights_sha256(sharded)
    assert before == hashlib.sha256("".join(lines).encode()).hexdigest()
    save_file({"a.bias": torch.ones(2)}, sharded / "x-2.safetensors")
    assert weights_sha256(sharded) != before


def test_a_missing_shard_is_refused_by_name(sharded):
    (sharded / "x-2.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"the shard x-2\.safetensors is missing; fetch"):
        read_weights(sharded)


def test_a_damaged_shard_is_refused_by_name(sharded):
    (sharded / "x-2.safetensors").write_bytes(b"cut")
    with pytest.raises(WeightsError, match=r"x-2\.safetensors cannot be read as a checkpoint"):
        read_weights(sharded)


def test_a_tensor_that_the_index_promises_and_no_shard_holds_is_refused(sharded):
    first, second = SHARDS
    write_index(sharded, {"a.weight": first, "b": first, "a.bias": second, "c": second})
    with pytest.raises(WeightsError, match=r"1 tensors, such as 'c', are not in exactly one shard and in the index"):
        read_weights(sharded)


def test_a_tensor_that_the_index_does_not_know_is_refused(sharded):
    write_index(sharded, {"a.weight": "x-1.safetensors", "a.bias": "x-2.safetensors"})
    with pytest.raises(WeightsError, match=r"1 tensors, such as 'b', are not in"):
        read_weights(sharded)


def test_a_tensor_in_two_shards_is_refused(sharded):
    save_file({"a.bias": STATE["a.bias"], "b": torch.zeros(1)}, sharded / "x-2.safetensors")
    with pytest.raises(WeightsError, match=r"1 tensors, such as 'b', are not in"):
        read_weights(sharded)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "..", ""])
def test_an_index_does_not_reach_outside_the_directory(tmp_path, name):
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(STATE, tmp_path / "secret.safetensors")
    write_index(folder, dict.fromkeys(STATE, name))
    with pytest.raises(WeightsError, match="which is not a file name within the directory"):
        read_weights(folder)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 3}}'])
def test_a_damaged_index_is_refused_by_name(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(WeightsError, match=r"model\.safetensors\.index\.json"):
        read_weights(tmp_path)


def test_a_directory_without_weights_says_what_it_holds(tmp_path):
    (tmp_path / "tf_model.h5").touch()
    with pytest.raises(WeightsError, match=r"holds tf_model\.h5, but none of model\.safetensors"):
        read_weights(tmp_path)


def test_an_empty_directory_says_so(tmp_path):
    with pytest.raises(WeightsError, match="it holds nothing, but none of"):
        read_weights(tmp_path)


def test_a_malicious_pickle_is_refused_and_not_executed(tmp_path):
    torch.save({"a": Evil(str(tmp_path / "made"))}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="asks to run"):
        read_weights(tmp_path)
    assert not (tmp_path / "made").exists()


def test_a_pickle_that_is_no_state_dict_is_refused(tmp_path):
    torch.save([torch.ones(1)], tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="holds no state dict"):
        read_weights(tmp_path)


def test_the_config_is_read_where_there_is_one(tmp_path):
    assert read_config(tmp_path) == {}
    (tmp_path / "config.json").write_text('{"model_type": "segformer"}')
    assert read_config(tmp_path) == {"model_type": "segformer"}
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"config\.json is not valid JSON"):
        read_config(tmp_path)
