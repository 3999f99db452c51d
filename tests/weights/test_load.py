import json

import peft
import pytest
import torch

from nnvit.errors import WeightsError
from nnvit.records.hashes import sha256_of
from nnvit.weights import load_backbone
from nnvit.weights.state_dicts import describe, target_tensors

from . import helpers


@pytest.fixture
def hub():
    return helpers.dinov3_hub(helpers.dinov3(0).model)


@pytest.fixture
def load(tmp_path):
    def save_and_load(state, backbone):
        torch.save(state, tmp_path / "weights.pth")
        return load_backbone(backbone, str(tmp_path / "weights.pth"))

    return save_and_load


@pytest.fixture
def refused(load):
    """Asserts that loading is refused and leaves the model unchanged; returns the message."""

    def try_to_load(state, backbone):
        before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
        with pytest.raises(WeightsError, match=r"weights\.pth: .* Nothing was loaded\.") as refusal:
            load(state, backbone)
        after = backbone.model.state_dict()
        assert all(torch.equal(after[name], before[name]) for name in before)
        return str(refusal.value)

    return try_to_load


def test_loading_makes_the_same_network_and_reports_it(hub, load, tmp_path):
    source, target = helpers.dinov3(0), helpers.dinov3(1)
    report = load(hub, target)
    assert torch.equal(helpers.features(target.model), helpers.features(source.model))
    assert (report.source, report.path, report.licence) == ("file", "weights.pth", "unknown")
    assert report.sha256 == sha256_of(tmp_path / "weights.pth")
    assert report.layout == "DINOv3 hub"
    assert report.loaded == len(source.model.state_dict())
    assert report.parameters == sum(parameter.numel() for parameter in source.model.parameters())
    assert "mask_token" in report.dropped
    assert report.licence_accepted is False
    assert report.missing == report.unexpected == report.mismatched == ()


def test_the_report_reads_well_and_goes_to_json(hub, load, tmp_path):
    report = load(hub, helpers.dinov3(1))
    assert report.lines() == [
        f"weights: weights.pth (file), sha256 {sha256_of(tmp_path / 'weights.pth')[:12]}, licence unknown",
        f"layout DINOv3 hub: {report.loaded} tensors, {report.parameters:,} parameters, none missing",
        f"left out 7: {', '.join(report.dropped)}",
        f"origin: {report.ambiguity}",
    ]
    assert json.loads(json.dumps(report.to_dict()))["dropped"] == list(report.dropped)


def test_random_loads_nothing():
    backbone = helpers.dinov3(1)
    report = load_backbone(backbone, "random")
    assert (report.source, report.loaded) == ("random", 0)
    assert report.lines() == ["weights: random, nothing was loaded"]
    assert torch.equal(backbone.model.cls_token, helpers.dinov3(1).model.cls_token)


def test_one_missing_tensor_is_refused(hub, refused):
    del hub["norm.weight"]
    message = refused(hub, helpers.dinov3(1))
    assert "31 of the model's 32 tensors match; 1 missing: norm.weight." in message


def test_one_foreign_tensor_is_refused(hub, refused):
    hub["blocks.0.adapter"] = torch.ones(1)
    assert "32 of the model's 32 tensors match; 1 unexpected: blocks.0.adapter." in refused(hub, helpers.dinov3(1))


def test_one_misshapen_tensor_is_refused_with_both_shapes(hub, refused):
    hub["norm.weight"] = torch.ones(47)
    message = refused(hub, helpers.dinov3(1))
    assert "31 of the model's 32 tensors match; 1 mismatched: norm.weight (got (47,), expected (48,))." in message


def test_a_quantised_tensor_is_refused_with_its_type(hub, refused):
    hub["norm.weight"] = torch.ones(48, dtype=torch.int8)
    assert "norm.weight (got (48,) torch.int8, expected (48,))" in refused(hub, helpers.dinov3(1))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(hub, refused, value):
    hub["norm.weight"][3] = value
    assert "1 tensors hold NaN or Inf: norm.weight" in refused(hub, helpers.dinov3(1))


def test_another_size_is_refused_with_what_the_file_looks_like(refused):
    deep, wide = helpers.dinov3(0, depth=3), helpers.dinov3(1, embed_dim=96)
    wide.size = "large"
    message = refused(helpers.dinov3_hub(deep.model), wide)
    assert (
        "The file looks like DINOv3 as Meta publishes it, width 48 and 3 blocks, patch 16, 4 register tokens;"
        in message
    )
    assert "model.backbone_size=large) is width 96 and 2 blocks, patch 16, 4 register tokens." in message
    assert "13 unexpected: blocks.2.gamma_1," in message
    assert "and 5 more; 32 mismatched: cls_token (got (1, 1, 48), expected (1, 1, 96))" in message


def test_published_sizes_are_called_by_name():
    blocks = {f"blocks.{block}.norm1.weight": torch.ones(384) for block in range(12)}
    assert (
        describe({"cls_token": torch.ones(1, 1, 384)} | blocks)
        == "a plain vision transformer, width 384 and 12 blocks (a small)"
    )


def test_another_family_is_refused_with_what_the_file_looks_like(hub, refused):
    message = refused(hub, helpers.dinov2(1))
    assert (
        "The file looks like DINOv3 as Meta publishes it, width 48 and 2 blocks, patch 16, 4 register tokens;"
        in message
    )
    assert (
        "model.backbone=dinov2, model.backbone_size=small) is width 48 and 2 blocks, patch 14, 17 positions." in message
    )


def test_a_foreign_network_is_refused_by_its_names(refused):
    message = refused({"conv1.weight": torch.ones(1)}, helpers.dinov2(1))
    assert "no vision transformer known here (its names begin conv1.weight)" in message


def test_the_gated_mlp_of_small_plus_is_told_from_small(hub, refused):
    plus = helpers.dinov3(1, name="vit_small_plus_patch16_dinov3")
    assert "4 register tokens, a gated MLP." in refused(hub, plus)


def test_position_embeddings_of_another_grid_are_refused(refused):
    hub = helpers.dinov2_hub(helpers.dinov2(0, img_size=112).model)
    message = refused(hub, helpers.dinov2(1))
    assert "1 mismatched: pos_embed (got (1, 65, 48), expected (1, 17, 48))" in message


def test_what_is_no_state_dict_is_refused_with_the_files_name(refused):
    assert "holds no state dict" in refused({"current_epoch": 3}, helpers.dinov2(1))


def test_biases_that_the_model_lacks_are_refused_with_the_files_name(refused):
    biased = helpers.dinov3(0, name="vit_small_patch16_dinov3_qkvb")
    message = refused(helpers.dinov3_hub(biased.model, bias_mask=1.0), helpers.dinov3(1))
    assert "Set model.backbone_args.qkv_bias=true" in message


def test_tensors_take_the_precision_of_the_model(hub, load):
    source, target = helpers.dinov3(0), helpers.dinov3(1)
    load({name: tensor.half() for name, tensor in hub.items()}, target)
    state = target.model.state_dict()
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    # Multiples of 1/256 are exact in half precision too.
    assert all(torch.equal(state[name], tensor) for name, tensor in source.model.state_dict().items())


def test_what_the_file_shares_with_the_model_is_a_copy(load):
    source, target = helpers.dinov3(0), helpers.dinov3(1)
    pointers = {name: tensor.data_ptr() for name, tensor in target.model.state_dict().items()}
    load(source.model.state_dict(), target)
    assert {name: tensor.data_ptr() for name, tensor in target.model.state_dict().items()} == pointers


def test_parameters_still_learn_after_loading(hub, load):
    target = helpers.dinov3(1)
    load(hub, target)
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in target.model.parameters())


@pytest.fixture
def adapted():
    backbone = helpers.dinov3(1)
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["qkv"]), backbone.model)
    return backbone


def test_a_model_with_lora_is_filled_beneath_its_adapters(adapted, hub, load):
    source = helpers.dinov3(0)
    report = load(hub, adapted)
    assert report.loaded == len(source.model.state_dict())
    assert torch.equal(helpers.features(adapted.model.eval()), helpers.features(source.model))


def test_loading_leaves_the_adapters_alone(adapted, hub, load):
    before = {name: tensor.clone() for name, tensor in adapted.model.state_dict().items() if "lora_" in name}
    load(hub, adapted)
    assert len(before) == 4
    assert all(torch.equal(adapted.model.state_dict()[name], tensor) for name, tensor in before.items())


def test_a_missing_tensor_beneath_an_adapter_is_refused_by_its_plain_name(adapted, hub, refused):
    del hub["blocks.1.attn.qkv.weight"]
    assert "1 missing: blocks.1.attn.qkv.weight." in refused(hub, adapted)


def test_targets_have_the_plain_models_names(adapted):
    assert target_tensors(adapted.model).keys() == helpers.dinov3().model.state_dict().keys()


def test_a_damaged_file_is_refused_with_its_name_once(tmp_path):
    path = tmp_path / "cut.pth"
    path.write_bytes(b"PK")
    with pytest.raises(WeightsError, match=r"cannot be read as a checkpoint") as refusal:
        load_backbone(helpers.dinov3(), str(path))
    assert str(refusal.value).count("cut.pth") == 1
