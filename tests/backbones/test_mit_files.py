"""SegFormer's layouts, as transformers itself writes them."""

import re

import pytest
import torch
from transformers import (
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerModel,
)

from nnvit import registry
from nnvit.errors import WeightsError
from nnvit.model import Segmenter, arch_kwargs
from nnvit.recipe import loading
from nnvit.recipe.schema import ARCH_VERSION
from nnvit.weights import licences, load_backbone
from nnvit.weights.load import _fill_head
from nnvit.weights.safe_reading import read_config, read_weights
from nnvit.weights.state_dicts import describe, target_tensors

CLASSES, HIDDEN = 5, 24
MODELS = [SegformerModel, SegformerForSemanticSegmentation, SegformerForImageClassification]
LAYOUTS = {"hub": "SegFormer hub", "memory": "SegFormer in transformers' memory"}


def theirs(model=SegformerForSemanticSegmentation, seed=0):
    torch.manual_seed(seed)
    network = model(
        SegformerConfig(
            depths=[1, 1, 1, 1],
            hidden_sizes=[16, 16, 32, 32],
            num_attention_heads=[1, 1, 2, 2],
            decoder_hidden_size=HIDDEN,
            num_labels=CLASSES,
        )
    )
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) * 0.2 + 0.1)
    return network.eval()


def ours(classes=CLASSES, hidden=HIDDEN):
    torch.manual_seed(1)
    return Segmenter(
        3,
        classes,
        arch_version=ARCH_VERSION,
        backbone={"name": "tiny", "size": "mit", "taps": [0, 1, 2, 3], "args": {}},
        neck={"name": "same_scale", "args": {}},
        head={"name": "segformer", "decoder_hidden_size": hidden, "num_encoder_blocks": 4, "dropout": 0.1},
        tuning="full",
    ).eval()


def state_of(model, layout, folder):
    """The directory that transformers' own save_pretrained writes."""
    theirs(model).save_pretrained(folder, save_original_format=layout == "hub")
    return read_weights(folder)


def split(state):
    return registry.family("mit").recognise(state)


def decode_head():
    """The tensors of a decode head, as a file spells them."""
    return {f"decode_head.{name}": tensor for name, tensor in theirs().decode_head.state_dict().items()}


def image():
    return torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("model", MODELS)
def test_every_file_that_transformers_writes_fills_the_encoder_whole(model, layout, tmp_path):
    parts = split(state_of(model, layout, tmp_path))
    assert parts.layout == LAYOUTS[layout]
    backbone = ours().backbone
    backbone.model.load_state_dict(parts.state, strict=True)
    original = theirs(model)
    encoder = original if model is SegformerModel else original.segformer
    with torch.no_grad():
        torch.testing.assert_close(backbone(image())[-1], encoder(image()).last_hidden_state, rtol=1e-5, atol=1e-6)
    assert bool(parts.decode_head) == (model is SegformerForSemanticSegmentation)
    classifier = ("classifier.bias", "classifier.weight") if model is SegformerForImageClassification else ()
    assert parts.dropped == (*classifier, *parts.decode_head)


def test_shards_are_the_same_as_one_file(tmp_path):
    whole = state_of(SegformerForSemanticSegmentation, "hub", tmp_path / "one")
    theirs().save_pretrained(tmp_path / "many", max_shard_size="50KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 3
    many = read_weights(tmp_path / "many")
    assert many.keys() == whole.keys()
    assert all(torch.equal(many[name], whole[name]) for name in whole)


@pytest.mark.parametrize("prefix", ["segformer.", "segformer.encoder.", "encoder."])
def test_a_hub_file_without_its_prefixes_is_known(prefix, tmp_path):
    """Unwrapped.of removes a common `encoder.` prefix before the layouts see the file."""
    model = SegformerForImageClassification if "segformer" in prefix else SegformerModel
    state = state_of(model, "hub", tmp_path)
    parts = split({name.removeprefix(prefix): tensor for name, tensor in state.items()})
    ours().backbone.model.load_state_dict(parts.state, strict=True)


def test_what_no_layout_knows_keeps_its_name(tmp_path):
    state = state_of(SegformerModel, "hub", tmp_path) | {"adapter.weight": torch.ones(1)}
    foreign = split(state).state.keys() - ours().backbone.model.state_dict().keys()
    assert foreign == {"adapter.weight"}


def test_both_layouts_in_one_file_are_refused(tmp_path):
    both = state_of(SegformerModel, "hub", tmp_path / "a") | state_of(SegformerModel, "memory", tmp_path / "b")
    with pytest.raises(WeightsError, match="in both of transformers' SegFormer layouts"):
        split(both)


def test_another_familys_file_is_not_taken():
    state = registry.family("tiny")().build("vit", [3]).model.state_dict()
    assert split(state) is None
    assert "MiT" not in describe(state)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_segmentation_directory_loads_whole_where_the_classes_fit(layout, tmp_path):
    parts = split(state_of(SegformerForSemanticSegmentation, layout, tmp_path))
    network = ours()
    network.backbone.model.load_state_dict(parts.state, strict=True)
    assert _fill_head(network.head, parts.decode_head) == "16 tensors loaded from the file"
    with torch.no_grad():
        reference = SegformerForSemanticSegmentation.from_pretrained(tmp_path).eval()
        logits = network.head(network.neck(network.backbone(image()), image()), image())
        torch.testing.assert_close(logits, reference(image()).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"classes": 3}, r"classifier\.weight \(got \(5, 24, 1, 1\), expected \(3, 24, 1, 1\)\); classifier\.bias"),
        ({"hidden": 32}, r"projections\.0\.weight \(got \(24, 16\), expected \(32, 16\)\).*and \d+ more"),
    ],
)
def test_a_decode_head_that_does_not_fit_is_left_out_with_the_reason(keys, reason, tmp_path):
    head = ours(**keys).head
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    reason = "left random, the file's does not fit: " + reason
    assert re.match(reason, _fill_head(head, decode_head()))
    assert all(torch.equal(tensor, before[name]) for name, tensor in head.state_dict().items())


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda s: s.pop("decode_head.batch_norm.weight"), "norm.weight is in only one of them"),
        (lambda s: s.update(extra=torch.ones(1)), "extra is in only one of them"),
        (
            lambda s: s["decode_head.batch_norm.weight"].fill_(float("nan")),
            "norm.weight holds NaN, Inf or quantised numbers",
        ),
        (
            lambda s: s.update({"decode_head.batch_norm.weight": torch.ones(HIDDEN, dtype=torch.int8)}),
            "norm.weight holds NaN, Inf",
        ),
    ],
)
def test_a_damaged_decode_head_is_left_out_whole(damage, reason):
    head = ours().head
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    state = decode_head()
    damage(state)
    assert _fill_head(head, state).startswith(f"left random, the file's does not fit: {reason}")
    assert all(torch.equal(tensor, before[name]) for name, tensor in head.state_dict().items())


def test_a_head_of_another_kind_takes_no_decode_head():
    module = registry.module("head", "linear")
    head = module.Head([16, 16, 32, 32], [4, 8, 16, 32], CLASSES, module.Config())
    assert _fill_head(head, decode_head()) == "left random, the file's does not fit: it is of another kind"


@pytest.mark.parametrize("name", ["decode_head.conv_seg.weight", "decode_head.linear_c.weight"])
def test_a_decode_head_of_another_network_is_left_out(name):
    outcome = _fill_head(ours().head, {name: torch.ones(1)})
    assert outcome == "left random, the file's does not fit: it is of another kind"


def test_a_file_without_a_decode_head_has_none():
    assert split(theirs(SegformerModel).state_dict()).decode_head == {}
    assert split(theirs().state_dict()).decode_head.keys() == decode_head().keys()


def test_the_published_config_describes_the_model(tmp_path):
    state_of(SegformerModel, "hub", tmp_path)
    ours().backbone.check_config(read_config(tmp_path))
    ours().backbone.check_config({})


@pytest.mark.parametrize(
    ("key", "value"), [("num_attention_heads", [1, 2, 2, 2]), ("hidden_act", "relu"), ("strides", [4, 2, 2, 1])]
)
def test_a_config_of_another_computation_is_refused(key, value, tmp_path):
    state_of(SegformerModel, "hub", tmp_path)
    with pytest.raises(WeightsError, match=rf"config\.json says {key}=.*the model has.*compute something else"):
        ours().backbone.check_config(read_config(tmp_path) | {key: value})


def test_an_encoder_is_described_by_widths_and_blocks(tmp_path):
    encoder = split(state_of(SegformerModel, "hub", tmp_path)).state
    assert describe(encoder) == "a MiT of widths 16, 16, 32, 32 and 1, 1, 1, 1 blocks"


@pytest.mark.parametrize(("classes", "loaded"), [(CLASSES, True), (2, False)])
def test_a_directory_is_loaded_by_its_path_with_the_decode_head_where_it_fits(classes, loaded, tmp_path):
    """The trainer's way for model.weights=DIRECTORY, with the published b0."""
    licences.accept(["nvidia-segformer-noncommercial"])
    torch.manual_seed(0)
    SegformerForSemanticSegmentation(SegformerConfig(num_labels=CLASSES)).save_pretrained(tmp_path / "mine")
    recipe = loading.load_recipe([], ["model.backbone=mit", "model.backbone_size=b0", "model.neck=same_scale"])
    network = Segmenter(3, classes, **arch_kwargs(recipe)).eval()
    report = load_backbone(network.backbone, str(tmp_path / "mine"), head=network.head)
    assert report.loaded == len(target_tensors(network.backbone.model))
    assert report.licence_accepted
    if loaded:
        assert report.decode_head == "16 tensors loaded from the file"
        reference = SegformerForSemanticSegmentation.from_pretrained(tmp_path / "mine").eval()
        with torch.no_grad():
            logits = network.head(network.backbone(image()), image())
            torch.testing.assert_close(logits, reference(image()).logits, rtol=1e-4, atol=1e-5)
    else:
        assert report.decode_head.startswith(
            "left random, the file's does not fit: classifier.weight (got (5, 256, 1, 1)"
        )
