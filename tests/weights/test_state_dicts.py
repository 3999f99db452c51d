from collections import OrderedDict

import pytest
import torch
from timm.models import eva, vision_transformer

from nnvit.errors import WeightsError
from nnvit.weights.state_dicts import Unwrapped, target_tensors

from . import helpers

PLUS = {"name": "vit_small_plus_patch16_dinov3"}
PLUS_BIASED = {"name": "vit_small_plus_patch16_dinov3_qkvb"}
BIASED = {"name": "vit_small_patch16_dinov3_qkvb"}
REGISTERS = {"name": "vit_small_patch14_reg4_dinov2"}
GIANT = {"name": "vit_giant_patch14_dinov2"}
GIANT_REGISTERS = {"name": "vit_giant_patch14_reg4_dinov2"}

# (a backbone's maker, its arguments, the published layout's maker, its arguments, timm's own converter)
CASES = {
    "dinov3": (helpers.dinov3, {}, helpers.dinov3_hub, {}, eva),
    "dinov3 biased": (helpers.dinov3, BIASED, helpers.dinov3_hub, {"bias_mask": 1.0}, eva),
    "dinov3 gated": (helpers.dinov3, PLUS, helpers.gated_dinov3_hub, {}, eva),
    "dinov3 gated biased": (helpers.dinov3, PLUS_BIASED, helpers.gated_dinov3_hub, {"bias_mask": 1.0}, eva),
    "dinov2": (helpers.dinov2, {}, helpers.dinov2_hub, {}, vision_transformer),
    "dinov2 registers": (helpers.dinov2, REGISTERS, helpers.dinov2_hub, {}, vision_transformer),
    "dinov2 gated": (helpers.dinov2, GIANT, helpers.dinov2_hub, {"gated": True}, vision_transformer),
    "dinov2 gated registers": (
        helpers.dinov2,
        GIANT_REGISTERS,
        helpers.dinov2_hub,
        {"gated": True},
        vision_transformer,
    ),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request):
    """(a filled backbone, an empty one, its file in the published layout, timm's module)"""
    make, arguments, layout, layout_arguments, module = request.param
    source = make(0, **arguments)
    return source, make(1, **arguments), layout(source.model, **layout_arguments), module


def converted(hub, backbone):
    return Unwrapped.of(hub).convert(backbone.family, target_tensors(backbone.model))


def test_a_published_layout_makes_the_same_network(case):
    source, target, hub, _ = case
    result = converted(hub, target)
    target.model.load_state_dict(result.state, strict=True)
    assert result.layout == {"dinov3": "DINOv3 hub", "dinov2": "DINOv2 hub"}[source.family]
    assert torch.equal(helpers.features(target.model), helpers.features(source.model))


def test_conversion_equals_timms_own(case, capsys):
    _, target, hub, module = case
    theirs = module.checkpoint_filter_fn(dict(hub), target.model)
    ours = converted(hub, target).state
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_every_key_of_the_file_is_used_or_reported(case):
    _, target, hub, _ = case
    result = converted(hub, target)
    biased = sum(name.endswith("q_bias") for name in result.state)
    assert len(hub) == len(result.state) + len(result.dropped) - biased
    assert set(result.dropped) <= hub.keys()


def test_dinov3_says_what_it_leaves_out():
    backbone = helpers.dinov3()
    assert converted(helpers.dinov3_hub(backbone.model), backbone).dropped == (
        "mask_token", "rope_embed.periods", "local_cls_norm.weight", "blocks.0.attn.qkv.bias",
        "blocks.0.attn.qkv.bias_mask", "blocks.1.attn.qkv.bias", "blocks.1.attn.qkv.bias_mask",
    )  # fmt: skip


def test_dinov3_biases_that_matter_are_not_dropped_silently():
    hub = helpers.dinov3_hub(helpers.dinov3(**BIASED).model, bias_mask=1.0)
    with pytest.raises(WeightsError, match=r"'blocks\.0\.attn\.qkv\.bias' is not zero.*qkv_bias=true"):
        converted(hub, helpers.dinov3())


def test_dinov3_biases_that_are_masked_do_not_count():
    hub = helpers.dinov3_hub(helpers.dinov3(**BIASED).model, bias_mask=0.0)
    biased = converted(hub, helpers.dinov3(**BIASED)).state
    assert not biased["blocks.0.attn.q_bias"].any()
    assert not biased["blocks.1.attn.v_bias"].any()
    assert "blocks.0.attn.q_bias" not in converted(hub, helpers.dinov3()).state


def test_dinov3_key_biases_without_a_mask_are_refused():
    hub = helpers.dinov3_hub(helpers.dinov3(**BIASED).model)
    del hub["blocks.1.attn.qkv.bias_mask"]
    with pytest.raises(WeightsError, match=r"blocks\.1\.attn\.qkv\.bias' has a key part"):
        converted(hub, helpers.dinov3(**BIASED))


def test_dinov2_blocks_chunked_for_fsdp_are_numbered_through():
    backbone = helpers.dinov2(depth=4)
    chunked = helpers.dinov2_hub(backbone.model, chunks=2)
    assert "blocks.1.3.norm1.weight" in chunked
    result = converted(chunked, backbone).state
    assert result.keys() == target_tensors(backbone.model).keys()
    assert torch.equal(result["blocks.3.norm1.weight"], chunked["blocks.1.3.norm1.weight"])


@pytest.mark.parametrize("family", ["dinov3", "dinov2", "timm", "tiny"])
def test_timms_own_names_pass_through(family):
    backbone = helpers.dinov3() if family == "dinov3" else helpers.dinov2()
    state = backbone.model.state_dict()
    result = Unwrapped.of(state).convert(family, state)
    assert (result.layout, result.dropped) == ("timm", ())
    assert result.state.keys() == state.keys()


def test_a_classifier_is_left_out_of_a_model_without_one():
    result = Unwrapped.of({"norm.weight": torch.ones(2), "head.weight": torch.ones(3, 2)}).convert(
        "timm", ["norm.weight"]
    )
    assert result.dropped == ("head.weight",)
    assert result.state.keys() == {"norm.weight"}


@pytest.mark.parametrize("wrapper", ["teacher", "model", "state_dict", "visionfm_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "encoder.", "module.backbone."])
def test_training_wrappers_and_prefixes_are_taken_off(wrapper, prefix):
    backbone = helpers.dinov3()
    hub = helpers.dinov3_hub(backbone.model)
    raw = {wrapper: OrderedDict((prefix + key, value) for key, value in hub.items()), "epoch": 3}
    found = Unwrapped.of(raw)
    assert found.state.keys() == hub.keys()
    assert (found.wrappers, found.prefix) == ((wrapper,), prefix)
    assert found.spelled == {key: prefix + key for key in hub}


def test_training_heads_beside_a_backbone_are_reported_as_dropped():
    backbone = helpers.dinov3()
    hub = helpers.dinov3_hub(backbone.model)
    raw = {"teacher": {f"backbone.{key}": value for key, value in hub.items()} | {"dino_head.mlp": torch.ones(1)}}
    result = converted(raw, backbone)
    assert result.dropped[0] == "dino_head.mlp"
    assert result.state.keys() == target_tensors(backbone.model).keys()


def test_a_prefix_that_few_keys_carry_stays():
    state = {"a": torch.ones(1), "b": torch.ones(1), "encoder.c": torch.ones(1)}
    assert Unwrapped.of(state).state.keys() == state.keys()


def test_a_key_with_and_without_the_prefix_is_refused():
    state = {"backbone.a": torch.ones(1), "backbone.b": torch.ones(1), "a": torch.ones(1)}
    with pytest.raises(WeightsError, match=r"both with and without 'backbone\.'"):
        Unwrapped.of(state)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (
            {"network_weights": {}, "current_epoch": 3},
            "nnU-Net checkpoint.*'network_weights', 'current_epoch'.*-pretrained_weights takes",
        ),
        ({}, "a dict of"),
        ({"model": {"epoch": 3}}, "a dict of 'epoch'"),
        (torch.ones(2), "a Tensor"),
    ],
    ids=["nnU-Net", "empty", "numbers", "tensor"],
)
def test_what_is_no_state_dict_is_refused(raw, words):
    with pytest.raises(WeightsError, match=f"no state dict.*{words}"):
        Unwrapped.of(raw)
