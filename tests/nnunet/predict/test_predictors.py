"""The fast predictor gives nnU-Net's answer: in fp32 its logits, in bf16 masks that differ in single pixels."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nnvit.model import Segmenter, precision
from nnvit.model.precision import Precision
from nnvit.nnunet import checkpoint_file
from nnvit.nnunet.model_folder import ModelFolder, TrainedModel
from nnvit.nnunet.predict.ensemble import Ensemble
from nnvit.nnunet.predict.photographs import _overlapped
from nnvit.nnunet.predict.prediction_options import PredictionOptions
from nnvit.nnunet.predict.predictors import FastPredictor, StockPredictor, _TileBatches, _views_of
from nnvit.nnunet.train import run_training
from tests.contract.cells import HEADS, Cell, build, neck_for
from tests.nnunet.conftest import SHORT, VESSELS, Run, masks, train

CPU = torch.device("cpu")
SMALL = ["model.decoder_hidden_size=16", "model.neck_args.out_channels=16"]
BF16 = Precision(dtype=torch.bfloat16, reason="a test")


@pytest.fixture
def without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that has no bf16."""
    monkeypatch.setattr(precision, "_has_bf16", lambda device: False)


@pytest.fixture
def with_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_has_bf16", lambda device: True)


@pytest.fixture(scope="module")
def image(crop: Image.Image) -> Tensor:
    """(3, 1, 200, 220) in 0..1, as preprocessed."""
    return torch.from_numpy(np.asarray(crop, np.float32).transpose(2, 0, 1)[:, None] / 255)


def tile_by_tile(predictor: nnUNetPredictor, image: Tensor) -> Tensor:
    """nnU-Net's own tiles, mirrors and networks one after the other, added up in fp32 where nnU-Net rounds to fp16."""
    patch = tuple(predictor.configuration_manager.patch_size)
    gaussian = compute_gaussian(patch, 1 / 8, 10, device=CPU).float()
    classes = predictor.label_manager.num_segmentation_heads
    total, weights = torch.zeros(classes, *image.shape[1:]), torch.zeros(image.shape[1:])
    for parameters in predictor.list_of_parameters:
        predictor.network.load_state_dict(parameters)
        predictor.network.eval()
        for place in predictor._internal_get_sliding_window_slicers(image.shape[1:]):
            total[place] += predictor._internal_maybe_mirror_and_predict(image[place][None])[0] * gaussian
            weights[place[1:]] += gaussian
    return total / weights


def dice(one: np.ndarray | Tensor, other: np.ndarray | Tensor) -> float:
    """The least over the labels but the background."""
    one, other = np.asarray(one), np.asarray(other)
    labels = (set(np.unique(one)) | set(np.unique(other))) - {0}
    assert labels
    return min(2 * ((one == v) & (other == v)).sum() / ((one == v).sum() + (other == v).sum()) for v in labels)


def assert_differ_only_where_undecided(got: Tensor, wanted: Tensor) -> None:
    """Logits (K, ...) differ little, and labels only where two classes are close, as often after seconds of training."""
    largest = float(wanted.abs().max())
    assert float((got - wanted).abs().max()) < 0.05 * largest
    best, next_best = wanted.topk(2, dim=0).values
    differ = got.argmax(0) != wanted.argmax(0)
    assert bool((best - next_best < 0.05 * largest)[differ].all())
    assert dice(got.argmax(0), wanted.argmax(0)) >= 0.99


def fast(model: TrainedModel, **settings: Any) -> FastPredictor:
    return FastPredictor.of(model, CPU, PredictionOptions(**settings))


def stock_of(model: TrainedModel, **settings: Any) -> StockPredictor:
    return StockPredictor.of(model, CPU, PredictionOptions(**settings))


def folds_of(model: Path, out: Path, change: Callable[[str], bool], count: int = 3) -> TrainedModel:
    """A model folder whose further folds differ from fold 0 in the tensors that `change` names."""
    shutil.copytree(model, out)
    content = checkpoint_file.read(out / "fold_0" / "checkpoint_final.pth")
    generator = torch.Generator().manual_seed(0)
    for fold in range(1, count):
        weights = dict(content["network_weights"])
        for name in filter(change, content["network_weights"]):
            if weights[name].is_floating_point():
                noise = torch.randn(weights[name].shape, generator=generator)
                weights[name] = weights[name] + 0.1 * noise * weights[name].abs()
        (out / f"fold_{fold}").mkdir()
        checkpoint_file.write(out / f"fold_{fold}" / "checkpoint_final.pth", content | {"network_weights": weights})
    return ModelFolder.read(out).open()


# --- one network -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mirroring", [True, False])
def test_in_fp32_the_logits_are_nnunets(vessels: Path, image: Tensor, mirroring: bool, without_bf16: None) -> None:
    model = ModelFolder.read(vessels).open()
    ours, stock = fast(model, mirroring=mirroring), stock_of(model, mirroring=mirroring)
    wanted, got = tile_by_tile(stock, image), ours.predict_logits_from_preprocessed_data(image)
    assert got.dtype == torch.float32
    assert wanted.abs().max() > 1
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4)
    assert dice(got.argmax(0), wanted.argmax(0)) >= 0.9999
    assert dice(got.argmax(0), stock.predict_logits_from_preprocessed_data(image).argmax(0)) >= 0.998  # nnU-Net's fp16
    assert "fp32 (auto: this cpu has no bf16 matrix instructions)" in ours.lines[0]


def test_an_image_smaller_than_a_patch_is_padded_as_nnunet_does(
    vessels: Path, image: Tensor, without_bf16: None
) -> None:
    model = ModelFolder.read(vessels).open()
    small = image[..., :90, :150].contiguous()
    got = fast(model).predict_logits_from_preprocessed_data(small)
    wanted = stock_of(model).predict_logits_from_preprocessed_data(small)
    torch.testing.assert_close(got, wanted.float(), rtol=0, atol=2e-3 * float(wanted.abs().max()))  # nnU-Net's fp16


def test_in_bf16_the_masks_agree(vessels: Path, image: Tensor, with_bf16: None) -> None:
    model = ModelFolder.read(vessels).open()
    ours, stock = fast(model), stock_of(model)
    got, wanted = (one.predict_logits_from_preprocessed_data(image).float() for one in (ours, stock))
    assert_differ_only_where_undecided(got, wanted)
    assert "bf16 (auto: this cpu has bf16 matrix instructions)" in ours.lines[0]
    layers = [m for m in ours.ensemble.modules() if isinstance(m, torch.nn.Linear)]
    assert {layer.weight.dtype for layer in layers if layer in ours.ensemble.networks[0].backbone.modules()} == {
        torch.bfloat16
    }


@pytest.mark.parametrize("neck", ["simple_pyramid", "detail"])
def test_in_bf16_masks_of_thin_structures_agree_to_two_per_mille(neck: str, shared_data: Path) -> None:
    """Trains 40 steps on a crop of a photograph. Without the refinement in fp32, the masks of `detail` have a Dice of 0.993."""
    torch.manual_seed(0)
    names, box = ("imagesTr/Image_03L.jpg", "labelsTr/Image_03L_1stHO.png"), (380, 380, 600, 580)
    pixels, drawn = (np.asarray(Image.open(shared_data / "chase_db1" / name).crop(box)) for name in names)
    image, vessels = (
        torch.from_numpy(pixels.transpose(2, 0, 1) / np.float32(255))[None],
        torch.from_numpy(drawn > 0)[None],
    )
    network = build(Cell(family="vit", neck=neck, head="segformer", tuning="full", channels=3)).train()
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    for _ in range(40):
        y, x = (int(torch.randint(side - 128, (1,))) for side in image.shape[-2:])
        cut = (..., slice(y, y + 128), slice(x, x + 128))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(image[cut]), vessels[cut].long()).backward()
        optimizer.step()
    ensemble = Ensemble(network, [network.state_dict()])
    with torch.inference_mode():
        wanted = mirrored(network, image)
        ensemble.hold_weights_in(BF16, image)
        with BF16.autocast(CPU):
            got = mirrored(ensemble, image)
    assert 0.1 < wanted.argmax(1).float().mean() < 0.5
    assert dice(got.argmax(1), wanted.argmax(1)) >= 0.998


def mirrored(network: torch.nn.Module, image: Tensor) -> Tensor:
    """The sum over the four mirrored forms, as in prediction."""
    return torch.stack([network(image.flip(axes)).flip(axes) for axes in ((), (2,), (3,), (2, 3))]).sum(0)


@pytest.mark.parametrize("head", HEADS)
def test_every_head_holds_its_weights_in_bf16_as_autocast_would_cast_them(head: str) -> None:
    torch.manual_seed(0)
    cell = Cell(family="vit", neck=neck_for("vit", head), head=head, tuning="frozen", channels=3)
    network, picture = build(cell).eval(), torch.rand(2, 3, 64, 64)
    with torch.inference_mode(), BF16.autocast(CPU):
        wanted = network(picture)
    ensemble = Ensemble(network, [network.state_dict()])
    assert ensemble.hold_weights_in(BF16, picture) > 10
    with torch.inference_mode(), BF16.autocast(CPU):
        got = ensemble(picture)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, wanted, rtol=2e-2, atol=2e-2 * float(wanted.abs().max()))


def test_stock_networks_of_slices_and_volumes_are_predicted(
    hippocampus: str, folders: Path, without_bf16: None
) -> None:
    """U-Nets with random weights; in 3D every axis is tiled."""
    plans = json.loads((folders / "preprocessed" / hippocampus / "nnUNetPlans.json").read_text())
    described = json.loads((folders / "preprocessed" / hippocampus / "dataset.json").read_text())
    for name, patch in (("2d", [32, 24]), ("3d_fullres", [16, 24, 16])):
        planned = plans["configurations"][name]
        planned["patch_size"] = patch
        network = planned["architecture"]["arch_kwargs"]
        network |= {"n_stages": 2, "features_per_stage": [4, 8], "n_conv_per_stage_decoder": [1]}
        network |= {key: network[key][:2] for key in ("kernel_sizes", "strides", "n_conv_per_stage")}
        manager = PlansManager(plans)
        torch.manual_seed(0)
        net = nnUNetTrainer.build_network_architecture(manager, manager.get_configuration(name), 1, 3, False)
        ours, stock = FastPredictor(device=CPU), nnUNetPredictor(device=CPU)
        axes = tuple(range(len(patch)))
        for predictor, weights in ((ours, None), (stock, [net.state_dict()])):
            predictor.manual_initialization(
                net, manager, manager.get_configuration(name), weights, described, "nnUNetTrainer", axes
            )
        volume = torch.randn(1, 20, 40, 33)
        wanted = tile_by_tile(stock, volume)
        torch.testing.assert_close(ours.predict_logits_from_preprocessed_data(volume), wanted, rtol=0, atol=1e-4)


# --- folds -------------------------------------------------------------------------------------------------------------


def calls_of(network: torch.nn.Module) -> list[int]:
    """Grows by the batch size with each call."""
    calls: list[int] = []
    network.register_forward_hook(lambda module, given, result: calls.append(len(given[0])))
    return calls


def test_folds_with_one_frozen_backbone_run_it_once(
    vessels: Path, image: Tensor, tmp_path: Path, without_bf16: None
) -> None:
    model = folds_of(vessels, tmp_path / "model", lambda name: not name.startswith(("backbone.", "input.")))
    ours = fast(model)
    views = 4 * len(ours._internal_get_sliding_window_slicers(image.shape[1:]))
    backbone, heads = calls_of(ours.ensemble.networks[0].backbone), calls_of(ours.ensemble.networks[2].head)
    got = ours.predict_logits_from_preprocessed_data(image)
    assert sum(backbone) == views
    assert len(heads) == len(backbone)
    assert "the 3 folds have one backbone, which runs once for all of them" in ours.lines
    torch.testing.assert_close(got, tile_by_tile(stock_of(model), image), rtol=0, atol=1e-4)
    one = fast(ModelFolder.read(vessels).open()).predict_logits_from_preprocessed_data(image)
    assert (got - one).abs().max() > 0.1
    distinct = {parameter.data_ptr() for parameter in ours.ensemble.networks[1].backbone.parameters()}
    assert distinct == {parameter.data_ptr() for parameter in ours.ensemble.networks[0].backbone.parameters()}


def test_folds_whose_backbones_differ_run_whole_whatever_the_recipe_says(
    vessels: Path, image: Tensor, tmp_path: Path, without_bf16: None
) -> None:
    model = folds_of(vessels, tmp_path / "model", lambda name: name == "backbone.model.blocks.0.attn.qkv.weight", 2)
    ours = fast(model)
    assert not any("one backbone" in line for line in ours.lines)
    got = ours.predict_logits_from_preprocessed_data(image)
    torch.testing.assert_close(got, tile_by_tile(stock_of(model), image), rtol=0, atol=1e-4)


def test_folds_of_a_head_within_the_encoder_run_whole() -> None:
    cell = Cell(family="vit", neck="same_scale", head="eomt", tuning="frozen", channels=3)
    network, picture = build(cell).eval(), torch.rand(1, 3, 64, 64)
    state = network.state_dict()
    other = {name: tensor + 0.1 if name.startswith("head.classifier") else tensor for name, tensor in state.items()}
    ensemble = Ensemble(network, [state, other])
    assert not ensemble.shared
    with torch.inference_mode():
        first, second = (build_with(cell, weights)(picture) for weights in (state, other))
        torch.testing.assert_close(ensemble(picture), first + second)


def build_with(cell: Cell, weights: dict[str, Tensor]) -> Segmenter:
    network = build(cell).eval()
    network.load_state_dict(weights)
    return network


def test_an_input_layer_that_was_trained_is_no_shared_backbone() -> None:
    cell = Cell(family="vit", neck="simple_pyramid", head="segformer", tuning="frozen", channels=5)
    network = build(cell)
    state = network.state_dict()
    head = state | {"head.classifier.bias": state["head.classifier.bias"] + 1}
    mix = state | {"input.mix.bias": state["input.mix.bias"] + 1}
    assert Ensemble(build(cell), [state, head]).shared
    assert not Ensemble(build(cell), [state, mix]).shared


def test_lora_is_merged_and_agrees(crops: str, image: Tensor, tmp_path: Path, without_bf16: None) -> None:
    keys = [
        *SHORT,
        *SMALL,
        "lora.enabled=true",
        "training.num_epochs=1",
        "training.patch_size=[128,128]",
        "name=adapted",
    ]
    trained = train(crops, "segformer_default", *keys).parent
    model = folds_of(trained, tmp_path / "model", lambda name: ".lora_" in name, 2)
    for parameters in model.parameters:  # as after a long training
        for name, tensor in parameters.items():
            if ".lora_B." in name:
                tensor += 0.5 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(len(name)))
    ours = fast(model)
    assert not [name for name, _ in ours.ensemble.named_parameters() if "lora" in name]
    (line,) = [line for line in ours.lines if "LoRA" in line]
    assert float(line.split(" ")[-1]) < 1e-4
    got = ours.predict_logits_from_preprocessed_data(image)
    torch.testing.assert_close(got, tile_by_tile(stock_of(model), image), rtol=0, atol=1e-4)
    without = [{n: t * 0 if ".lora_B." in n else t for n, t in fold.items()} for fold in model.parameters]
    stock = stock_of(model)
    stock.list_of_parameters = without
    assert (tile_by_tile(stock, image) - got).abs().max() > 0.01


# --- batches and memory ------------------------------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """Bytes of every storage that an operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            storage = result.untyped_storage()
            self.made[storage.data_ptr()] = max(self.made.get(storage.data_ptr(), 0), storage.nbytes())
        return result


@pytest.mark.parametrize("size", [1, 3, 16])
def test_as_many_passes_as_the_batch_size_asks_for(vessels: Path, image: Tensor, size: int, without_bf16: None) -> None:
    ours = fast(ModelFolder.read(vessels).open())
    ours.batches.size = size
    batches = calls_of(ours.ensemble)
    got = ours.predict_logits_from_preprocessed_data(image)
    views = 4 * len(ours._internal_get_sliding_window_slicers(image.shape[1:]))
    assert len(batches) == math.ceil(views / size)
    assert sum(batches) == views
    assert max(batches) - min(batches) <= 1
    ours.batches.size = None
    torch.testing.assert_close(got, ours.predict_logits_from_preprocessed_data(image), rtol=0, atol=1e-5)


def test_what_is_held_grows_only_as_the_image(vessels: Path, without_bf16: None) -> None:
    """The largest tensors for an image far larger than a batch: the sum of the logits, and the weights, once each."""
    ours = fast(ModelFolder.read(vessels).open(), mirroring=False, step_size=1.0)
    ours.batches.size = 1
    ours.ensemble = ours.batches.network = Classes()  # type: ignore[assignment]
    sizes = [1024, 2048]
    large = []
    for side in sizes:
        image = torch.rand(3, 1, side, side)
        with Largest() as seen:
            logits = ours.predict_sliding_window_return_logits(image)
        seen.made.pop(image.untyped_storage().data_ptr(), None)
        pixels = side * side
        large.append(sum(size for size in seen.made.values() if size >= pixels) / pixels)
        torch.testing.assert_close(logits, image[:2], rtol=0, atol=1e-5)
    assert large == [12.0, 12.0]  # bytes per pixel: two classes and one weight, in fp32


class Classes(torch.nn.Module):
    """The first two channels as logits."""

    def __len__(self) -> int:
        return 1

    def forward(self, tiles: Tensor) -> Tensor:
        return tiles[:, :2]


def test_a_batch_that_does_not_fit_is_halved() -> None:
    tried: list[int] = []

    def network(tiles: Tensor) -> Tensor:
        tried.append(len(tiles))
        if len(tiles) > 3:
            raise torch.OutOfMemoryError("not today")
        return tiles

    image = torch.arange(64.0).reshape(1, 1, 8, 8)
    places = [(slice(None), 0, slice(y, y + 2), slice(x, x + 2)) for y in (0, 2, 4, 6) for x in (0, 2, 4, 6)]
    got = list(_TileBatches(network, CPU, 16).run(image, _views_of(places, None)))
    assert tried == [16, 8, 4, 2, 2, 2, 2, 2, 2, 2, 2]
    assert [view.place for view, _ in got] == places
    assert all(torch.equal(tile, image[view.place]) for view, tile in got)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_logits_that_are_no_numbers_are_refused(vessels: Path, image: Tensor, without_bf16: None, value: float) -> None:
    ours = fast(ModelFolder.read(vessels).open())
    ours.ensemble.networks[0].head.classifier.bias.data[:] = value
    with pytest.raises(RuntimeError, match="logits in fp32 hold NaN or infinity"):
        ours.predict_logits_from_preprocessed_data(image)


# --- overlapping -------------------------------------------------------------------------------------------------------


def test_steps_overlap_in_order_and_a_failing_item_costs_only_itself() -> None:
    events: list[str] = []

    def step(name: str) -> Callable[[int], int]:
        def run(number: int) -> int:
            events.append(f"{name} {number}")
            if (name, number) in (("read", 1), ("compute", 2), ("write", 3)):
                raise ValueError(f"{name} {number}")
            return number

        return run

    results = list(_overlapped(list(range(6)), step("read"), step("compute"), step("write")))
    assert [item for item, _ in results] == list(range(6))
    assert [str(future.exception() or future.result()) for _, future in results] == [
        "0",
        "read 1",
        "compute 2",
        "write 3",
        "4",
        "5",
    ]
    assert not {"compute 1", "write 1", "write 2"} & set(events)
    assert events.index("read 5") < events.index("write 5")


def test_interrupted_it_finishes_what_is_being_written() -> None:
    written: list[int] = []

    def compute(number: int) -> int:
        if number == 2:
            raise KeyboardInterrupt
        return number

    with pytest.raises(KeyboardInterrupt):
        list(_overlapped([0, 1, 2, 3], lambda number: number, compute, written.append))
    assert written == [0, 1]


# --- the commands ------------------------------------------------------------------------------------------------------


def test_by_default_it_is_fast_and_agrees_with_exact(
    vessels: Path, crop: Image.Image, nnvit: Run, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, box in (("a", (0, 0, 220, 200)), ("b", (20, 10, 190, 150)), ("c", (0, 0, 130, 128))):
        crop.crop(box).save(photos / f"{name}.png")
    words = ["-i", photos, "-m", vessels, "-o"]
    for out, more in (("fast", ["--tile-batch", "3"]), ("exact", ["--exact"])):
        code, printed, _ = nnvit(*words, tmp_path / out, *more)
        assert code == 0
        assert ("fast: tiles and mirrors 3 at a time" in printed) is (out == "fast")
        assert [line[:8] for line in printed.splitlines() if " -> " in line] == ["1/3 a.pn", "2/3 b.pn", "3/3 c.pn"]
        run = json.loads((tmp_path / out / "nnvit_predict.json").read_text())["runs"][0]
        assert run["fast"] == (Precision.choose("auto", CPU).name if out == "fast" else None)
    for name in "abc":
        ours, exact = (np.asarray(Image.open(tmp_path / out / f"{name}.png")) for out in ("fast", "exact"))
        assert dice(ours, exact) >= 0.99  # of a network that was trained for seconds
    code, _, errors = nnvit(*words, tmp_path / "fast", "--exact", "--continue_prediction")
    assert code == 2
    assert "was predicted with fast" in errors
    code, _, errors = nnvit(*words, tmp_path / "fast", "--exact", "--tile-batch", "3")
    assert code == 2
    assert "--tile-batch is for the fast predictor" in errors


def test_fast_validation_leaves_what_nnunets_leaves(
    vessels: Path, crops: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fold = vessels / "fold_0"
    shutil.copytree(fold, tmp_path / "stock")
    shutil.rmtree(fold / "validation")
    try:
        train(crops, "segformer_default", *VESSELS, only_run_validation=True, fast_validation=True)
        printed = capsys.readouterr().out
        shutil.copytree(fold, tmp_path / "fast")
    finally:
        shutil.rmtree(fold)
        shutil.copytree(tmp_path / "stock", fold)
    assert "fast: tiles and mirrors in batches" in printed
    assert "Mean Validation Dice" in printed
    ours, stock = (json.loads((tmp_path / kind / "nnvit_run.json").read_text()) for kind in ("fast", "stock"))
    assert ours["validation"] == stock["validation"] | {"fast": "fp32"}  # what the recipe trains in
    assert ours["recipe_hash"] == stock["recipe_hash"]
    assert ours["DONE"]
    wanted, got = (masks(tmp_path / kind / "validation", ".png") for kind in ("stock", "fast"))
    assert wanted.keys() == got.keys()
    assert all(dice(got[name], wanted[name]) >= 0.99 for name in wanted)  # of a network that was trained for seconds
    score, expected = (
        json.loads((tmp_path / kind / "validation" / "summary.json").read_text())["foreground_mean"]["Dice"]
        for kind in ("fast", "stock")
    )
    assert score == pytest.approx(expected, abs=1e-2)


def test_a_stage_of_a_cascade_is_validated_by_nnunet(vessels: Path, crops: str) -> None:
    trainer = run_training.get_trainer_from_args(
        crops, "2d", 0, "nnUNetTrainer_nnvit", "nnUNetPlans_vessels_s0", device=CPU
    )
    assert trainer._why_not_fast() is None
    trainer.configuration_manager.configuration["next_stage"] = "3d_cascade_fullres"
    assert trainer._why_not_fast() == "it is a stage of a cascade"
