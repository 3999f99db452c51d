"""The fork's network, built from timm, peft and transformers as its note plans it, and what `nnvit convert` makes of it."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import timm
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers import SegformerConfig, SegformerForSemanticSegmentation
from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

from nnvit import registry
from nnvit.cli import app
from nnvit.errors import NnvitError, PlansError, WeightsError
from nnvit.model import Segmenter, arch_kwargs
from nnvit.nnunet import checkpoint_file, paths
from nnvit.nnunet.share.foreign_checkpoints import convert
from nnvit.nnunet.train.recipe_trainer import _transfer
from nnvit.recipe import loading
from nnvit.weights import load_backbone

CLASSES, HIDDEN, TAPS = 2, 24, [0, 1, 2, 3]
YAML = """
model: {backbone: tiny, backbone_size: SIZE, decoder_hidden_size: 24}
lora: {enabled: LORA, r: 2, lora_alpha: 4}
"""


class SegFormerSegmentationModel(nn.Module):
    """`self.backbone`, a timm ViT that peft may have wrapped, and `self.decode_head`; norm: what timm does to the features."""

    def __init__(
        self, backbone: Any, width: int, *, lora: bool = False, norm: bool = True, taps: Sequence[int] = TAPS
    ) -> None:
        super().__init__()
        settings = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["qkv"])
        self.backbone = peft.get_peft_model(backbone, settings) if lora else backbone
        head = SegformerConfig(hidden_sizes=[width] * 4, num_labels=CLASSES, decoder_hidden_size=HIDDEN)
        self.decode_head = SegformerDecodeHead(head)
        self.norm, self.taps = norm, list(taps)

    def forward(self, image: Tensor) -> Tensor:
        features = self.backbone.forward_intermediates(
            image, indices=self.taps, norm=self.norm, intermediates_only=True
        )
        return interpolate(self.decode_head(features), size=image.shape[-2:], mode="bilinear")


def fork(size: str = "eva", **keys: Any) -> SegFormerSegmentationModel:
    """A network as if trained: no tensor has its initial value."""
    backbone = registry.family("tiny")().build(size, TAPS)
    return trained(SegFormerSegmentationModel(backbone.model, 32, **keys))


def trained(network: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator)
                tensor.copy_(0.5 + noise if name.endswith("running_var") else tensor + 0.2 * noise - 0.05)
    return network.eval()


def image() -> Tensor:
    return torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def yaml(folder: Path, size: str = "eva", lora: bool = True) -> str:
    path = folder / "my.yaml"
    path.write_text(YAML.replace("SIZE", size).replace("LORA", str(lora).lower()))
    return str(path)


def in_hub_names(name: str) -> str:
    return name.replace("linear_projections", "linear_c")


WRITTEN: dict[str, Callable[[str], str]] = {
    "as it is": lambda name: name,
    "the hub's head": in_hub_names,
    "DDP": lambda name: f"module.{name}",
    "torch.compile": lambda name: f"_orig_mod.{name}",
    "DDP around torch.compile": lambda name: f"module._orig_mod.{in_hub_names(name)}",
    "a compiled backbone": lambda name: name.replace("backbone.", "backbone._orig_mod.", 1),
}


def saved(network: nn.Module, path: Path, rename: Callable[[str], str] = str) -> Path:
    """A checkpoint as an nnU-Net trainer of the fork saves it."""
    content = {
        "network_weights": {rename(name): tensor for name, tensor in network.state_dict().items()},
        "optimizer_state": {"state": {}, "param_groups": []},
        "grad_scaler_state": None,
        "logging": {"ema_fg_dice": [np.float64(0.5)]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 1000,
        "init_args": {
            "configuration": "2d",
            "fold": 0,
            "device": torch.device("cpu"),
            "segformer_config_path": "my.yaml",
        },
        "trainer_name": "nnUNetTrainerNoDeepSupervision_segformer",
        "inference_allowed_mirroring_axes": (0, 1),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def rebuilt(path: Path, *sources: str, overrides: Sequence[str] = ()) -> Segmenter:
    network = Segmenter(3, CLASSES, **arch_kwargs(loading.load_recipe(sources, overrides))).eval()
    network.load_state_dict(checkpoint_file.read(path)["network_weights"], strict=True)
    return network


def assert_same(network: nn.Module, reference: nn.Module, pixels: Tensor | None = None) -> None:
    pixels = image() if pixels is None else pixels
    with torch.no_grad():
        expected = reference(pixels)
        assert expected.std() > 0.01
        torch.testing.assert_close(network(pixels), expected, rtol=1e-4, atol=1e-5)


# --- one file -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [True, False], ids=["LoRA", "plain"])
@pytest.mark.parametrize("size", ["vit", "vit14", "eva"])
def test_a_converted_checkpoint_computes_what_the_forks_network_did(size: str, lora: bool, tmp_path: Path) -> None:
    reference = fork(size, lora=lora)
    given = yaml(tmp_path, size, lora)
    done = convert(saved(reference, tmp_path / "fork.pth"), tmp_path / "ours.pth", [given])
    pixels = torch.rand(1, 3, 56, 84) if size == "vit14" else None
    assert_same(rebuilt(done.paths[0], "segformer_fork", given), reference, pixels)


@pytest.mark.parametrize("layout", WRITTEN)
def test_every_way_of_writing_the_names_is_understood(layout: str, tmp_path: Path) -> None:
    reference = fork(lora=True)
    source = saved(reference, tmp_path / "fork.pth", WRITTEN[layout])
    given = yaml(tmp_path)
    assert_same(rebuilt(convert(source, tmp_path / "ours.pth", [given]).paths[0], "segformer_fork", given), reference)


def test_features_without_the_final_norm_are_a_key_of_the_backbone(tmp_path: Path) -> None:
    """timm's forward_intermediates and get_intermediate_layers leave it out unless they are asked for it."""
    reference, given = fork(lora=True, norm=False), yaml(tmp_path)
    out = convert(saved(reference, tmp_path / "fork.pth"), tmp_path / "ours.pth", [given]).paths[0]
    assert_same(rebuilt(out, "segformer_fork", given, overrides=["model.backbone_args.final_norm=false"]), reference)
    with pytest.raises(AssertionError, match="not close"):
        assert_same(rebuilt(out, "segformer_fork", given), reference)


def test_a_published_familys_backbone_fits_as_timm_builds_it(tmp_path: Path) -> None:
    backbone = timm.create_model("vit_small_patch16_dinov3", pretrained=False)  # with timm's own head and pooling
    reference = trained(SegFormerSegmentationModel(backbone, 384, taps=[2, 5, 8, 11]))
    given = ["model.backbone_size=small", "model.decoder_hidden_size=24", "lora.enabled=false"]
    done = convert(saved(reference, tmp_path / "fork.pth"), tmp_path / "ours.pth", [], given)
    assert_same(rebuilt(done.paths[0], "segformer_fork", overrides=given), reference)


def test_a_bare_state_dict_is_converted_too_and_timms_classifier_is_dropped_with_the_reason(tmp_path: Path) -> None:
    reference = fork()
    torch.save(
        {"state_dict": reference.state_dict() | {"backbone.head.weight": torch.ones(5, 32)}}, tmp_path / "bare.pth"
    )
    given = yaml(tmp_path, lora=False)
    done = convert(tmp_path / "bare.pth", tmp_path / "ours.pth", [given])
    assert_same(rebuilt(done.paths[0], "segformer_fork", given), reference)
    lines = done.lines()
    assert lines[0].endswith("tensors mapped from the fork's SegFormer model")
    assert "  dropped 1 (timm's classifier, which segmentation does not read): backbone.head.weight" in lines
    assert any(re.fullmatch(r"  renamed backbone\.\* -> backbone\.model\.\*: \d+", line) for line in lines)
    assert any(line.startswith("  renamed decode_head.* (with linear_projections) -> head.*: 16") for line in lines)
    assumed = "model.feature_layers=[0,1,2,3] model.backbone_args.final_norm=true model.input_norm=none"
    assert lines[-3].endswith(f"so they were assumed: {assumed}")


@pytest.mark.parametrize("hub", [True, False], ids=["hub", "memory"])
@pytest.mark.parametrize("bare", [True, False], ids=["state dict", "directory"])
def test_transformers_segformer_is_converted_whole_from_either_layout(hub: bool, bare: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = SegformerForSemanticSegmentation(SegformerConfig(num_labels=CLASSES)).eval()
    source = tmp_path / "mine"
    theirs.save_pretrained(source, save_original_format=hub)
    if bare:
        source = source / "model.safetensors"
    recipe = ["model.backbone=mit", "model.backbone_size=b0", "model.neck=same_scale", "lora.enabled=false"]
    out = convert(source, tmp_path / "ours.pth", [], recipe).paths[0]
    ours = rebuilt(out, overrides=[*recipe, "model.input_norm=none"])
    with torch.no_grad():
        expected = interpolate(theirs(image()).logits, size=(64, 96), mode="bilinear")
        torch.testing.assert_close(ours(image()), expected, rtol=1e-4, atol=1e-5)


def test_the_result_starts_a_training_by_pretrained_weights(tmp_path: Path) -> None:
    reference, given = fork(lora=True), yaml(tmp_path)
    out = convert(saved(reference, tmp_path / "fork.pth"), tmp_path / "ours.pth", [given]).paths[0]
    network = Segmenter(3, 5, **arch_kwargs(loading.load_recipe(["segformer_fork", given])))
    assert _transfer(network, out) == len(network.state_dict()) - 2
    fuse = reference.decode_head.linear_fuse.weight
    assert torch.equal(network.head.fuse.weight, fuse)


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "yaml_keys", "overrides", "said"),
    [
        ({"lora": True}, {}, ["lora.r=4"], r"mismatched: .*lora_A.*The file fits lora\.enabled=true lora\.r=2\."),
        ({"lora": False}, {}, [], r"missing: backbone\.model\.blocks.*The file fits lora\.enabled=false\."),
        ({"lora": True}, {"lora": False}, [], r"unexpected: .*The file fits lora\.enabled=true lora\.r=2\."),
        ({"lora": True}, {}, ["model.decoder_hidden_size=32"], r"mismatched: head.*fits model\.decoder_hidden_size=24"),
        (
            {"lora": True},
            {},
            ["model.backbone_size=vit"],
            r"missing: .*pos_embed.*unexpected: .*reg_token.*looks like DINOv3 with timm's names, width 32",
        ),
    ],
)
def test_what_does_not_fit_whole_is_refused_with_the_list_and_the_key(
    keys: dict[str, Any], yaml_keys: dict[str, Any], overrides: list[str], said: str, tmp_path: Path
) -> None:
    source = saved(fork(**keys), tmp_path / "fork.pth")
    with pytest.raises(WeightsError, match=said) as refusal:
        convert(source, tmp_path / "new" / "ours.pth", [yaml(tmp_path, **yaml_keys)], overrides)
    assert "Nothing was written" in str(refusal.value)
    assert not (tmp_path / "new").exists()


def test_a_network_with_another_decoder_is_named_by_its_prefixes(tmp_path: Path) -> None:
    state = {n: t for n, t in fork().state_dict().items() if n.startswith("backbone.")}
    torch.save(state | {"decoder.up.0.weight": torch.ones(1), "decoder.up.0.bias": torch.ones(1)}, tmp_path / "vit.pth")
    said = (
        r"other keys begin with decoder\.\* \(2\)\. The names in the fork's \"ViT model\" and Mask2Former are not known"
    )
    with pytest.raises(WeightsError, match=said):
        convert(tmp_path / "vit.pth", tmp_path / "ours.pth", [yaml(tmp_path, lora=False)])


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"encoder.0.weight": torch.ones(1)}, r"neither a SegFormer model.*its keys begin with encoder\.\* \(1\)"),
        ({"backbone.model.norm.weight": torch.ones(1), "head.norm.weight": torch.ones(1)}, "nnvit's own names already"),
        (
            {"backbone.norm.weight": torch.ones(1), "decode_head.conv_seg.weight": torch.ones(1)},
            "not transformers' SegformerDecodeHead",
        ),
        ({"module.a": torch.ones(1), "a": torch.ones(1)}, "both with and without the prefixes"),
    ],
)
def test_names_that_cannot_be_mapped_are_refused(state: dict[str, Tensor], said: str, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=said):
        convert(tmp_path / "x.pth", tmp_path / "ours.pth")


def test_keys_beside_backbone_and_head_are_refused(tmp_path: Path) -> None:
    torch.save(fork().state_dict() | {"extra.weight": torch.ones(1)}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"no place is known for extra\.weight\. Nothing was written"):
        convert(tmp_path / "x.pth", tmp_path / "ours.pth", [yaml(tmp_path, lora=False)])


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    network = fork()
    network.decode_head.classifier.weight.data[:] = float("nan")
    with pytest.raises(WeightsError, match=r"1 tensors hold NaN or Inf: head\.classifier\.weight"):
        convert(saved(network, tmp_path / "fork.pth"), tmp_path / "ours.pth", [yaml(tmp_path, lora=False)])


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "ours.pth").write_text("mine")
    with pytest.raises(PlansError, match="exists and is left as it is"):
        convert(saved(fork(), tmp_path / "fork.pth"), tmp_path / "ours.pth", [yaml(tmp_path, lora=False)])


# --- the backbone alone ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lora", [True, False], ids=["LoRA", "plain"])
def test_the_backbone_alone_has_its_adapters_merged_and_is_loaded_by_its_path(lora: bool, tmp_path: Path) -> None:
    network = fork(lora=lora)
    network.decode_head = None
    source = tmp_path / "vit.pth"
    torch.save(network.state_dict() | {"decoder.weight": torch.ones(1)}, source)
    done = convert(source, tmp_path / "backbone.safetensors", [yaml(tmp_path, lora=lora)], backbone_only=True)
    assert "  left out, not of the backbone: decoder.* (1)" in done.lines()
    backbone = registry.family("tiny")().build("eva", TAPS).eval()
    assert load_backbone(backbone, str(done.paths[0])).loaded == len(load_file(done.paths[0]))
    with torch.no_grad():
        expected = network.backbone.forward_intermediates(image(), indices=TAPS, norm=True, intermediates_only=True)
        torch.testing.assert_close(backbone(image()), expected, rtol=1e-4, atol=1e-5)


# --- a results folder -----------------------------------------------------------------------------------------------


@pytest.fixture
def results(crops: str, tmp_path: Path) -> tuple[Path, SegFormerSegmentationModel]:
    """The folder that the fork's trainer leaves, with two folds of one network."""
    reference = fork(lora=True)
    folder = tmp_path / crops / "nnUNetTrainerNoDeepSupervision_segformer__nnUNetPlans__2d"
    for fold in (0, 1):
        saved(reference, folder / f"fold_{fold}" / "checkpoint_final.pth", WRITTEN["torch.compile"])
    for name, file in (("plans", "nnUNetPlans"), ("dataset", "dataset")):
        (folder / f"{name}.json").write_text(paths.PreprocessedDataset(crops).file(file).read_text())
    return folder, reference


def test_a_results_folder_becomes_one_that_stock_nnunet_predicts_with(
    results: tuple[Path, SegFormerSegmentationModel], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, reference = results
    app(["convert", str(folder), "--segformer_config", yaml(tmp_path)], standalone_mode=False)
    printed = capsys.readouterr().out
    (out,) = [path for path in folder.parent.iterdir() if path != folder]
    assert re.fullmatch(r"nnUNetTrainer_nnvit__nnUNetPlans_segformer_fork_h[0-9a-f]{6}__2d", out.name)
    assert "in each of 2 checkpoints" in printed
    assert "model.feature_layers=[0,1,2,3] model.backbone_args.final_norm=true" in printed
    assert "trained with the configuration my.yaml" in printed
    assert f"nnUNetv2_predict_from_modelfolder -m {out} -i IMAGES -o OUT -f 0 1" in printed
    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(out), (0, 1))
    assert predictor.allowed_mirroring_axes == (0, 1)
    patch = predictor.configuration_manager.patch_size
    for weights in predictor.list_of_parameters:
        predictor.network.load_state_dict(weights)
        pixels = torch.rand(1, 3, *(16 * (side // 16) for side in patch))
        assert_same(predictor.network.eval(), reference, pixels)


def test_a_folder_with_one_fold_that_does_not_fit_is_refused_whole(
    results: tuple[Path, SegFormerSegmentationModel], tmp_path: Path
) -> None:
    folder, _ = results
    saved(fork(lora=False), folder / "fold_1" / "checkpoint_final.pth")
    with pytest.raises(WeightsError, match=r"fold_1/checkpoint_final\.pth: .*missing"):
        convert(folder, None, [yaml(tmp_path)])
    assert list(folder.parent.iterdir()) == [folder]


def test_a_converted_checkpoint_is_not_trained_on(
    results: tuple[Path, SegFormerSegmentationModel], tmp_path: Path
) -> None:
    """The converted checkpoint has no recipe hash, and names the trainer that it came from."""
    folder, _ = results
    out = convert(folder, None, [yaml(tmp_path)]).paths[0]
    content = checkpoint_file.read(out / "fold_0" / "checkpoint_final.pth")
    assert "hash" not in content["nnvit"]
    assert content["nnvit"]["converted"]["trainer"] == "nnUNetTrainerNoDeepSupervision_segformer"
    assert content["init_args"]["plans"] == json.loads((out / "plans.json").read_text())


@pytest.mark.parametrize("problem", ["no checkpoints", "backbone only", "no out"])
def test_requests_that_cannot_be_met_say_so(problem: str, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    if problem == "no out":
        with pytest.raises(WeightsError, match=r"nowhere\.pth does not exist"):
            convert(Path("nowhere.pth"), None)
        (folder / "x.pth").touch()
        with pytest.raises(PlansError, match="--out is missing"):
            convert(folder / "x.pth", None)
        return
    (folder / "plans.json").write_text("{}")
    said = r"fold_0/checkpoint_final\.pth" if problem == "backbone only" else "nothing to convert"
    with pytest.raises(NnvitError, match=said):
        convert(folder, None, backbone_only=problem == "backbone only")
