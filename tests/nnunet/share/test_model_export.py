"""`nnvit export`: stock nnU-Net predicts the same masks with the exported model as with the trained one."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nnvit import registry
from nnvit.errors import ConfigError, PlansError, WeightsError
from nnvit.nnunet import checkpoint_file
from nnvit.nnunet.share import model_export
from nnvit.nnunet.share.model_export import ExportOptions, export
from nnvit.records.json_files import read_json
from nnvit.weights import external
from nnvit.weights.state_dicts import target_tensors
from tests.nnunet.conftest import ONE_TILE, TINY, command, masks, probabilities, untrained

LORA = [*TINY, ONE_TILE, "lora.enabled=true", "lora.r=2"]
CHECKPOINT = "fold_0/checkpoint_final.pth"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    family, path = registry.family("tiny"), tmp_path_factory.mktemp("base") / "base.safetensors"
    torch.manual_seed(12)
    save_file(target_tensors(family().build("vit", [3]).model), path)
    return path


@pytest.fixture(scope="module")
def model(hippocampus: str, base: Path) -> Path:
    """A model with LoRA whose checkpoint leaves the frozen weights out."""
    keys = [f"model.weights={base}", "checkpoint.frozen_weights=reference", "name=to_export"]
    return untrained(hippocampus, *LORA, *keys)


@contextmanager
def without(path: Path) -> Iterator[None]:
    """The file is missing within the context."""
    external.forget()
    path.rename(path.with_name("away"))
    try:
        yield
    finally:
        path.with_name("away").rename(path)


def predicted(dataset: str, model: Path, out: Path) -> Path:
    """The mask of one case by stock nnUNetv2_predict."""
    images = out / "in"
    images.mkdir(parents=True)
    shutil.copy(sorted((Path(os.environ["nnUNet_raw"]) / dataset / "imagesTr").iterdir())[-1], images)
    trainer, plans, _ = model.name.split("__")
    words = ["-i", str(images), "-o", str(out), "-f", "0", "-device", "cpu", "--save_probabilities"]
    command("nnUNetv2_predict", *words, "-d", model.parent.name, "-c", "2d", "-tr", trainer, "-p", plans)
    return out


def weights(model: Path) -> dict[str, torch.Tensor]:
    return checkpoint_file.read(model / CHECKPOINT)["network_weights"]


def test_stock_prediction_is_the_same_without_the_file_and_without_lora(
    model: Path, base: Path, hippocampus: str, tmp_path: Path
) -> None:
    out = model.with_name("nnUNetTrainer_nnvit__exported__2d")
    done = export(model, out)
    assert re.search(
        r"fold 0: adapters merged in fp32, logits differ by at most \d\.\de-0[5-9]", "\n".join(done.lines())
    )
    expected = predicted(hippocampus, model, tmp_path / "expected")
    with without(base):
        got = predicted(hippocampus, out, tmp_path / "got")
    (name,) = masks(expected, ".nii.gz")
    assert len(np.unique(masks(expected, ".nii.gz")[name])) > 1
    assert np.array_equal(masks(expected, ".nii.gz")[name], masks(got, ".nii.gz")[name])
    for case, wanted in probabilities(expected).items():
        np.testing.assert_allclose(probabilities(got)[case], wanted, rtol=0, atol=1e-3)  # nnU-Net adds logits in fp16
    logits = []
    for folder in (model, out):
        network = built(folder).eval()
        network.load_state_dict(weights(folder))
        with torch.no_grad():
            logits.append(network(torch.rand(2, 1, 56, 48, generator=torch.Generator().manual_seed(4))))
    torch.testing.assert_close(*logits, rtol=0, atol=1e-4)
    assert not [key for key in weights(out) if "lora" in key or "base_layer" in key]
    arch = read_json(out / "plans.json")["configurations"]["2d"]["architecture"]["arch_kwargs"]
    assert (arch["tuning"], "lora" in arch) == ("frozen", False)
    content = checkpoint_file.read(out / CHECKPOINT)
    assert content["optimizer_state"] == {}
    assert {path.name for path in out.iterdir()} == {
        "plans.json", "dataset.json", "fold_0", "README.txt", "model_card.json",
    }  # fmt: skip


def test_adapters_may_stay(model: Path, base: Path, tmp_path: Path) -> None:
    export(model, tmp_path / "out", options=ExportOptions(merge=False))
    whole = external.filled(weights(model))
    kept = weights(tmp_path / "out")
    assert kept.keys() == whole.keys()
    assert all(torch.equal(kept[name], whole[name]) for name in whole)
    assert read_json(tmp_path / "out" / "plans.json") == read_json(model / "plans.json")


def test_the_card_says_what_it_is_and_how_to_predict(model: Path, base: Path, tmp_path: Path) -> None:
    export(model, tmp_path / "out")
    card = json.loads((tmp_path / "out" / "model_card.json").read_text())
    block = read_json(model / "plans.json")["configurations"]["2d"]["nnvit"]
    assert (card["recipe_hash"], card["recipe"]) == (block["hash"], block["recipe"])
    assert card["labels"] == {"background": 0, "anterior": 1, "posterior": 2}
    assert card["lora_merged"]
    assert card["backbone_weights"]["path"] == base.name
    text = (tmp_path / "out" / "README.txt").read_text()
    assert "background = 0, anterior = 1, posterior = 2" in text
    assert "the licence of the backbone's weights (base.safetensors) is not known to nnvit" in text
    assert (
        "-d DATASET -tr nnUNetTrainer_nnvit -p nnUNetPlans_to_export -c 2d -f 0" in text
    )  # the receiver chooses the name


def test_a_backbone_that_is_not_free_is_pointed_out(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / model.name)
    content = checkpoint_file.read(model / CHECKPOINT)
    content["nnvit"]["weights"]["licence"] = "dinov3"
    checkpoint_file.write(tmp_path / model.name / CHECKPOINT, content)
    done = export(tmp_path / model.name, tmp_path / "out")
    assert any("are under 'dinov3', which also binds what was made from them" in line for line in done.lines())
    assert "ai.meta.com" in (tmp_path / "out" / "README.txt").read_text()


def test_half_is_half_the_size_and_nearly_the_same(model: Path, tmp_path: Path) -> None:
    export(model, tmp_path / "whole")
    export(model, tmp_path / "half", options=ExportOptions(half=True, safetensors=True))
    whole, half = weights(tmp_path / "whole"), weights(tmp_path / "half")
    for name, tensor in whole.items():
        assert torch.equal(half[name], tensor.half() if tensor.is_floating_point() else tensor), name
    saved = load_file(tmp_path / "half" / "fold_0" / "model.safetensors")
    assert saved.keys() == half.keys()
    assert all(torch.equal(saved[name], half[name]) for name in half)
    with safe_open(tmp_path / "half" / "fold_0" / "model.safetensors", "pt") as file:
        about = file.metadata()
    assert json.loads(about["plans"]) == read_json(tmp_path / "half" / "plans.json")
    assert json.loads(about["labels"])["posterior"] == 2
    assert about["recipe_hash"] == json.loads((tmp_path / "half" / "model_card.json").read_text())["recipe_hash"]


def test_weights_that_fp16_does_not_hold_are_refused_and_nothing_is_left(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / model.name)
    content = checkpoint_file.read(model / CHECKPOINT)
    name = next(key for key in content["network_weights"] if key.endswith("head.classifier.weight"))
    content["network_weights"][name] *= 1e6
    checkpoint_file.write(tmp_path / model.name / CHECKPOINT, content)
    with pytest.raises(WeightsError, match="Leave --half out"):
        export(tmp_path / model.name, tmp_path / "out", options=ExportOptions(half=True))
    assert [path.name for path in tmp_path.iterdir()] == [model.name]


def test_onnx_gives_torchs_logits_for_any_batch(model: Path, tmp_path: Path) -> None:
    import onnxruntime

    done = export(model, tmp_path / "out", options=ExportOptions(onnx=True))
    assert re.search(r"model.onnx takes \[1, 56, 48\], any batch; onnxruntime differs by \d\.\de-0[5-9]", done.notes[1])
    session = onnxruntime.InferenceSession(
        tmp_path / "out" / "fold_0" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    assert json.loads(session.get_modelmeta().custom_metadata_map["labels"])["anterior"] == 1
    network = built(tmp_path / "out")
    network.load_state_dict(weights(tmp_path / "out"))
    for batch in (1, 3):
        images = torch.rand(batch, 1, 56, 48)
        (logits,) = session.run(None, {"image": images.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(logits, network.eval()(images).numpy(), rtol=0, atol=1e-3)


def test_an_onnx_file_that_is_not_the_network_is_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_export, "_ONNX_CLOSE", 0.0)  # a value that rounding always changes
    with pytest.raises(WeightsError, match=r"onnxruntime's logits of model.onnx differ from torch's by"):
        export(model, tmp_path / "out", options=ExportOptions(onnx=True))
    assert not list(tmp_path.iterdir())


def test_differences_of_logits_count_in_units_of_the_largest_and_nan_is_never_small() -> None:
    logits = torch.tensor([50.0, -3.0])
    assert model_export._apart(logits, logits + 0.25) == (0.25, 50.0)
    assert model_export._apart(logits / 100, logits / 100) == (0.0, 1.0)
    worst, _ = model_export._apart(logits, torch.tensor([50.0, math.nan]))
    assert math.isnan(worst)


def test_onnx_without_its_packages_says_what_to_install(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_export, "_ONNX_PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(
        ConfigError, match=r'needs no_such_package, which is not here\. Install with: pip install "nnvit\[onnx\]"'
    ):
        export(model, tmp_path / "out", options=ExportOptions(onnx=True))


def built(model: Path) -> torch.nn.Module:
    """The network as stock nnU-Net builds it from the plans."""
    plans = PlansManager(str(model / "plans.json"))
    configuration = plans.get_configuration("2d")
    return nnUNetTrainer.build_network_architecture(plans, configuration, 1, 3, False)


def test_a_model_of_stock_nnunet_is_exported_too(hippocampus: str, tmp_path: Path) -> None:
    folder = tmp_path / "nnUNetTrainer__nnUNetPlans__2d"
    (folder / "fold_0").mkdir(parents=True)
    for name in ("nnUNetPlans", "dataset"):
        source = Path(os.environ["nnUNet_preprocessed"]) / hippocampus / f"{name}.json"
        shutil.copy(source, folder / ("plans.json" if name == "nnUNetPlans" else "dataset.json"))
    network = built(folder)
    content = {
        "network_weights": network.state_dict(), "optimizer_state": {"state": {0: torch.zeros(9)}}, "grad_scaler_state": None,
        "init_args": {"configuration": "2d", "fold": 0}, "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1), "current_epoch": 3,
    }  # fmt: skip
    torch.save(content, folder / CHECKPOINT)
    export(folder, tmp_path / "out", options=ExportOptions(safetensors=True))
    assert all(torch.equal(t, network.state_dict()[name]) for name, t in weights(tmp_path / "out").items())
    assert json.loads((tmp_path / "out" / "model_card.json").read_text())["needs"] == ["nnunetv2"]


def test_what_exists_is_left_alone_and_absent_folds_are_named(model: Path, tmp_path: Path) -> None:
    with pytest.raises(PlansError, match="exists and is left as it is"):
        export(model, tmp_path)
    with pytest.raises(WeightsError, match=r"fold_3 of .* lacks checkpoint_final.pth"):
        export(model, tmp_path / "out", [3])
    assert not list(tmp_path.iterdir())


def test_an_export_of_an_export_bears_the_models_name_in_its_zip(model: Path, hippocampus: str, tmp_path: Path) -> None:
    export(model, tmp_path / "out")
    export(tmp_path / "out", tmp_path / "out.zip")
    with zipfile.ZipFile(tmp_path / "out.zip") as zipped:
        homes = {name.rpartition("/fold_0")[0] for name in zipped.namelist() if "/fold_0/" in name}
    assert homes == {f"{hippocampus}/nnUNetTrainer_nnvit__nnUNetPlans_to_export__2d"}


def test_the_command_exports_the_folds_that_are_named(model: Path, tmp_path: Path) -> None:
    program = str(Path(sys.executable).parent / "nnvit")
    words = [program, "export", str(model), "-o", str(tmp_path / "out.zip"), "-f", "0", "--no-merge"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert f"wrote {tmp_path / 'out.zip'}" in done.stdout
    assert f"install it: nnvit install {tmp_path / 'out.zip'}, or nnUNetv2_install_pretrained" in done.stdout
    assert f"-d {model.parent.name} -tr nnUNetTrainer_nnvit -p nnUNetPlans_to_export -c 2d -f 0" in done.stdout
