"""Every family's published layout, row by row of the table that the families were taken from."""

import pytest
import torch

from nnvit import registry
from nnvit.backbones import visionfm
from nnvit.errors import ConfigError, WeightsError
from nnvit.weights import load_backbone
from nnvit.weights.state_dicts import target_tensors
from tests.weights import helpers

REGISTERS = {"name": "vit_small_patch14_reg4_dinov2"}


def meddinov3(model):
    return helpers.teacher(helpers.dinov3_hub(model))


def retfound_dinov2(model):
    return helpers.teacher(helpers.dinov2_hub(model))


def retfound_dinov2_chunked(model):
    """The file has no mask_token; only the chunks identify it."""
    hub = helpers.dinov2_hub(model, chunks=1)
    del hub["mask_token"]
    return helpers.teacher(hub)


def visionfm_finetuned(model):
    """150 plain names, as the fine-tuned checkpoints of the publisher have them."""
    return {"visionfm_state_dict": dict(model.state_dict()), "classifier_state_dict": {"a": torch.ones(1)}}


# family's file: (maker of a backbone, its arguments, maker of the file, the layout's name, keys that are left out)
ROWS = {
    "DINOv3 hub": (helpers.dinov3, {}, helpers.dinov3_hub, "DINOv3 hub", 7),
    "MedDINOv3": (helpers.dinov3, {}, meddinov3, "DINOv3 hub", 15),
    "DINOv2": (helpers.dinov2, {}, helpers.dinov2_hub, "DINOv2 hub", 1),
    "DINOv2 registers": (helpers.dinov2, REGISTERS, helpers.dinov2_hub, "DINOv2 hub", 1),
    "RETFound MAE": (helpers.retfound, {}, helpers.mae_checkpoint, "MAE", 6),
    "RETFound-DINOv2": (helpers.retfound, {"variant": "dinov2"}, retfound_dinov2, "DINOv2 hub", 9),
    "RETFound-DINOv2 chunked": (helpers.retfound, {"variant": "dinov2"}, retfound_dinov2_chunked, "DINOv2 hub", 8),
    "VisionFM": (helpers.visionfm, {}, helpers.ibot_checkpoint, "VisionFM (iBOT)", 3),
    "VisionFM fine-tuned": (helpers.visionfm, {}, visionfm_finetuned, "VisionFM (iBOT)", 0),
}


@pytest.fixture(params=ROWS.values(), ids=ROWS.keys())
def row(request):
    return request.param


def test_a_file_fills_its_family_whole_and_with_its_values(row, tmp_path):
    make, arguments, layout, name, left_out = row
    source, target = make(0, **arguments), make(1, **arguments)
    torch.save(layout(source.model), tmp_path / "file.pth")
    report = load_backbone(target, str(tmp_path / "file.pth"))
    assert (report.layout, len(report.dropped)) == (name, left_out)
    assert report.loaded == len(target_tensors(target.model))
    assert all(torch.equal(tensor, source.model.state_dict()[key]) for key, tensor in target.model.state_dict().items())
    assert torch.equal(helpers.features(target.model), helpers.features(source.model))


def test_each_layout_says_what_else_has_it(row, tmp_path):
    make, arguments, layout, *_ = row
    torch.save(layout(make(0, **arguments).model), tmp_path / "file.pth")
    report = load_backbone(make(1, **arguments), str(tmp_path / "file.pth"))
    assert report.ambiguity.startswith("every ")
    assert report.ambiguity.endswith(f"rests on the file, sha256 {report.sha256}")
    assert f"origin: {report.ambiguity}" in report.lines()


def test_left_out_keys_are_spelled_as_in_the_file(tmp_path):
    torch.save(helpers.ibot_checkpoint(helpers.visionfm(0).model), tmp_path / "file.pth")
    report = load_backbone(helpers.visionfm(1), str(tmp_path / "file.pth"))
    assert set(report.dropped) == {
        "module.backbone.masked_embed",
        "module.head.mlp.0.weight",
        "module.head.last_layer2.weight_g",
    }


# (the file's maker and source, the backbone that is asked for, what the refusal calls the file)
FOREIGN = {
    "MAE as DINOv2": (helpers.mae_checkpoint, helpers.retfound, helpers.dinov2, "a masked autoencoder, as RETFound"),
    "MAE as VisionFM": (helpers.mae_checkpoint, helpers.retfound, helpers.visionfm, "a masked autoencoder"),
    "DINOv3 as RETFound": (helpers.dinov3_hub, helpers.dinov3, helpers.retfound, "DINOv3 as Meta publishes it"),
    "DINOv3 as VisionFM": (helpers.dinov3_hub, helpers.dinov3, helpers.visionfm, "DINOv3 as Meta publishes it"),
    "DINOv2 as DINOv3": (helpers.dinov2_hub, helpers.dinov2, helpers.dinov3, "DINOv2 as Meta publishes it"),
    "DINOv2 as RETFound": (helpers.dinov2_hub, helpers.dinov2, helpers.retfound, "DINOv2 as Meta publishes it"),
    "VisionFM as DINOv3": (helpers.ibot_checkpoint, helpers.visionfm, helpers.dinov3, "iBOT, as VisionFM"),
}


@pytest.mark.parametrize(("layout", "source", "target", "words"), FOREIGN.values(), ids=FOREIGN.keys())
def test_another_familys_file_is_refused_by_what_it_looks_like(layout, source, target, words, tmp_path):
    torch.save(layout(source(0).model), tmp_path / "file.pth")
    with pytest.raises(WeightsError, match=f"The file looks like {words}.*Nothing was loaded"):
        load_backbone(target(1), str(tmp_path / "file.pth"))


def test_an_unknown_prefix_is_named(tmp_path):
    state = {f"student_vit.{key}": value for key, value in helpers.dinov2(0).model.state_dict().items()}
    torch.save(state, tmp_path / "file.pth")
    with pytest.raises(WeightsError, match=r"names carry the unknown prefix 'student_vit\.'.*Nothing was loaded"):
        load_backbone(helpers.dinov2(1), str(tmp_path / "file.pth"))


def test_position_embeddings_of_a_larger_image_say_which_key_takes_them(tmp_path):
    """The published RETFound_dinov2_meh has those of 518 px."""
    larger = helpers.retfound(0, variant="dinov2", img_size=112)
    torch.save(retfound_dinov2(larger.model), tmp_path / "file.pth")
    with pytest.raises(WeightsError, match=r"8 x 8 grid: 112 px\..*model\.backbone_args\.img_size=112"):
        load_backbone(helpers.retfound(1, variant="dinov2"), str(tmp_path / "file.pth"))


def test_a_fine_tuned_retfound_without_the_final_norm_is_refused(tmp_path):
    state = helpers.mae_checkpoint(helpers.retfound(0).model)
    state["model"]["fc_norm.weight"] = state["model"].pop("norm.weight")
    torch.save(state, tmp_path / "file.pth")
    with pytest.raises(WeightsError, match=r"1 missing: norm\.weight; 1 unexpected: fc_norm\.weight"):
        load_backbone(helpers.retfound(1), str(tmp_path / "file.pth"))


def build(family, size, **args):
    chosen = registry.family(family)(**args)
    with torch.device("meta"):
        return chosen.build(size, chosen.resolve_taps(size, None))


@pytest.mark.parametrize(
    ("family", "size", "args", "tensors", "parameters", "positions"),
    [
        ("retfound", "large", {}, 294, 303_301_632, 197),
        ("retfound", "large", {"variant": "dinov2"}, 342, 303_227_904, 257),
        ("retfound", "large", {"variant": "dinov2", "img_size": 518}, 342, 304_367_616, 1370),
        ("visionfm", "base", {"modality": "oct"}, 150, 85_798_656, 197),
    ],
)
def test_the_backbones_have_the_published_sizes(family, size, args, tensors, parameters, positions):
    """RETFound's 294 tensors and VisionFM's 150 are what users count in the published files; DINOv2 ViT-L without its mask
    token has 304,367,616 parameters."""
    model = build(family, size, **args).model
    assert len(model.state_dict()) == tensors
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert model.pos_embed.shape[1] == positions


@pytest.mark.parametrize("modality", ["fundus", "oct", "ffa", "mri", "ubm", "ultrasound", "external_eye", "slit_lamp"])
def test_each_modality_has_its_own_statistics_and_file(modality):
    family = registry.family("visionfm")
    numbers = family(modality=modality).statistics("base")
    others = [family(modality=m).statistics("base") for m in visionfm.MODALITIES if m != modality]
    assert {len(values) for values in numbers.values()} == {3}
    assert all(0 < value < 1 for values in numbers.values() for value in values)
    assert numbers not in others
    assert build("visionfm", "base", modality=modality).default_weights.file.startswith("VFM_")


def test_single_numbers_stand_for_three_channels():
    family = registry.family("visionfm")
    assert family(modality="oct").statistics("base") == {"mean": [0.2109] * 3, "std": [0.1760] * 3}
    assert family().statistics("base") == {
        "mean": [0.4237, 0.2609, 0.1284],
        "std": [0.2948, 0.2017, 0.1367],
    }


def test_satellite_models_have_their_own_statistics_file_and_repository():
    assert registry.family("dinov3")(dataset="sat493m").statistics("large") == {
        "mean": [0.430, 0.411, 0.296],
        "std": [0.213, 0.156, 0.143],
    }
    weights = build("dinov3", "large", dataset="sat493m").default_weights
    assert (weights.file, weights.hub) == (
        "dinov3_vitl16_pretrain_sat493m-eadcf0ff.pth",
        "timm/vit_large_patch16_dinov3.sat493m",
    )
    assert build("dinov3", "7b", dataset="sat493m").default_weights.sha256 == "a6675841"


@pytest.mark.parametrize(
    ("family", "args", "words"),
    [
        ("retfound", {"variant": "dino2"}, "variant='dino2'.*mae, dinov2.*Did you mean 'dinov2'"),
        ("retfound", {"img_size": 518}, "img_size=518 must be a multiple of the patch size, 16"),
        ("visionfm", {"modality": "octa"}, "modality='octa'.*Did you mean 'oct'"),
        ("dinov3", {"dataset": "sat493"}, "dataset='sat493'.*Did you mean 'sat493m'"),
    ],
)
def test_a_value_that_a_family_does_not_know_is_refused_with_the_nearest(family, args, words):
    with pytest.raises(ConfigError, match=words):
        registry.family(family)(**args)


def test_a_size_that_was_not_trained_on_satellite_images_is_refused():
    with pytest.raises(ConfigError, match="exists for the sizes large, 7b of dinov3, not for 'base'"):
        build("dinov3", "base", dataset="sat493m")


@pytest.mark.parametrize(("family", "size"), [("retfound", "base"), ("visionfm", "large")])
def test_a_size_that_does_not_exist_is_refused(family, size):
    with pytest.raises(ConfigError, match=f"'{size}' is not a size of {family}"):
        build(family, size)
