"""Files of earlier releases still load, and their networks still compute the same."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import Tensor, nn

from nnvit.nnunet import checkpoint_file
from nnvit.recipe import loading
from nnvit.records.plans_block import SCHEMA, PlansBlock

from . import form, make

RELEASES = sorted(path for path in Path(__file__).parent.iterdir() if path.is_dir() and path.name[0].isdigit())
NETWORKS = [
    (release, name)
    for release in RELEASES
    for name in json.loads((release / form.NETWORKS).read_text(encoding="utf-8"))["networks"]
]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def assert_logits(network: nn.Module, channels: int, expected: list[float]) -> None:
    with torch.no_grad():
        found = torch.tensor(form.sample(network(form.image(channels))))
    wanted = torch.tensor(expected)
    assert wanted.std() > 1e-3
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def assert_recipe_is_kept(recipe: dict[str, Any]) -> None:
    """Every key that the old recipe has means the same now; keys that came later have their defaults."""
    assert same_keys(recipe, asdict(loading.from_dict(recipe))) == recipe


def same_keys(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    return {key: same_keys(value, new[key]) if isinstance(value, dict) else new[key] for key, value in old.items()}


@pytest.mark.parametrize(("release", "name"), NETWORKS, ids=lambda value: getattr(value, "name", value))
def test_a_network_of_an_earlier_release_is_rebuilt_and_computes_the_same(release: Path, name: str) -> None:
    content = read(release / form.NETWORKS)
    golden = content["networks"][name]
    network = get_network_from_plans(
        "nnvit.model.Segmenter",
        golden["arch_kwargs"],
        [],
        golden["channels"],
        content["classes"],
        allow_init=True,
        deep_supervision=False,
    )
    network.load_state_dict(form.state_of(form.unpacked(content, name)), strict=True)
    assert_logits(network.eval(), golden["channels"], golden["logits"])
    assert golden["schema"] <= SCHEMA
    assert_recipe_is_kept(golden["recipe"])


@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.name)
def test_a_checkpoint_of_an_earlier_release_is_predicted_with_by_stock_nnunet(release: Path, tmp_path: Path) -> None:
    fold = tmp_path / "fold_all"
    fold.mkdir()
    (fold / "checkpoint_final.pth").write_bytes(form.read_bytes(release / form.CHECKPOINT))
    for name in ("plans.json", "dataset.json"):
        shutil.copy(release / name, tmp_path)
    content = checkpoint_file.read(fold / "checkpoint_final.pth")
    block = PlansBlock.of(read(tmp_path / "plans.json"), "2d")
    assert block is not None
    assert content["nnvit"]["hash"] == block.hash
    assert_recipe_is_kept(block.recipe)
    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(tmp_path), ("all",))
    predictor.network.load_state_dict(predictor.list_of_parameters[0], strict=True)
    assert_logits(predictor.network.eval(), 3, read(release / form.EXPECTED)["logits"])


def scrambled(state: dict[str, Tensor], tell: Callable[[str], bool]) -> dict[str, Tensor]:
    """Swaps the tensors that `tell` names with others of the same shape."""
    names = [name for name in state if tell(name)]
    same = {name: [n for n in names if state[n].shape == state[name].shape] for name in names}
    return state | {n: state[same[n][(same[n].index(n) + 1) % len(same[n])]] for n in names}


@pytest.mark.parametrize("part", ["mlp.fc1.weight", "lora_A", "head.projections"])
def test_the_golden_notices_tensors_that_change_places(part: str) -> None:
    """The strict load does not notice it, because names and shapes stay."""
    release, name = next(entry for entry in NETWORKS if entry[1].startswith("eva-simple_pyramid-segformer-lora"))
    content = read(release / form.NETWORKS)
    golden = content["networks"][name]
    network = get_network_from_plans("nnvit.model.Segmenter", golden["arch_kwargs"], [], 3, 2, deep_supervision=False)
    state = form.state_of(form.unpacked(content, name))
    network.load_state_dict(scrambled(state, lambda name: part in name), strict=True)
    with pytest.raises(AssertionError, match="not close"):
        assert_logits(network.eval(), 3, golden["logits"])


@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.name)
def test_a_golden_is_small_and_is_never_written_again(release: Path) -> None:
    assert sum(path.stat().st_size for path in release.iterdir()) < 300 * 1024
    before = {path: path.read_bytes() for path in release.iterdir()}
    with pytest.raises(SystemExit, match="is never written again"):
        make.make(release)
    assert before == {path: path.read_bytes() for path in release.iterdir()}
