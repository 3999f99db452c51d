"""Mask2Former against transformers' Mask2FormerForUniversalSegmentation, fed the same maps, on the same weights."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

from nnvit.errors import ConfigError
from nnvit.heads.mask2former import Config, Head

WIDTHS, STRIDES, CLASSES = [16, 32, 64, 128], [4, 8, 16, 32], 3
KEYS: dict[str, Any] = {
    "decoder_hidden_size": 32,
    "num_queries": 9,
    "encoder_layers": 2,
    "decoder_layers": 5,
    "encoder_feedforward_dim": 24,
    "feedforward_dim": 40,
    "num_attention_heads": 4,
}
NO_IMAGE = torch.empty(0)  # this head reads maps alone
SIZES = [(64, 64), (72, 100)]


class GivenMaps(nn.Module):
    """Takes the place of transformers' backbone and returns the maps that the head gets."""

    def forward(self, image: Tensor) -> SimpleNamespace:
        return SimpleNamespace(feature_maps=pyramid(*image.shape[-2:]))


def reference() -> Mask2FormerForUniversalSegmentation:
    torch.manual_seed(0)
    swin = SwinConfig(
        embed_dim=16,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(
        backbone_config=swin,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        num_queries=9,
        encoder_layers=2,
        decoder_layers=5,
        encoder_feedforward_dim=24,
        dim_feedforward=40,
        num_attention_heads=4,
        num_labels=CLASSES,
    )
    model = Mask2FormerForUniversalSegmentation(config)
    for parameter in model.parameters():  # so that no offset, bias or scale is at its neutral initial value
        nn.init.normal_(parameter, std=0.15)
    model.model.pixel_level_module.encoder = GivenMaps()
    return model.eval()


def _from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the head's state dict from transformers' Mask2FormerForUniversalSegmentation; backbone and loss are left out.

    Raises KeyError where the mapping holds no such head.
    """
    parts = {
        "model.pixel_level_module.decoder.": "pixel_decoder.",
        "model.transformer_module.": "decoder.",
        "class_predictor.": "classifier.",
    }
    out = {
        ours + name.removeprefix(theirs): value
        for name, value in state.items()
        for theirs, ours in parts.items()
        if name.startswith(theirs)
    }
    _ = out["classifier.weight"]
    return out


def ours(theirs: nn.Module) -> Head:
    head = Head(WIDTHS, STRIDES, CLASSES, Config(**KEYS))
    head.load_state_dict(_from_transformers(theirs.state_dict()), strict=True)
    return head.eval()


def image(height: int, width: int) -> Tensor:
    return torch.empty(2, 3, height, width)


def pyramid(height: int, width: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(2, channels, -(-height // s), -(-width // s), generator=generator)
        for channels, s in zip(WIDTHS, STRIDES, strict=True)
    ]


@pytest.mark.parametrize("size", SIZES)
def test_classes_and_masks_of_every_layer_equal_transformers(size: tuple[int, int]) -> None:
    theirs = reference()
    expected = theirs(image(*size), output_auxiliary_logits=True)
    layers = ours(theirs).layers(pyramid(*size), NO_IMAGE)
    pairs = [(a["class_queries_logits"], a["masks_queries_logits"]) for a in expected.auxiliary_logits]
    pairs.append((expected.class_queries_logits, expected.masks_queries_logits))
    assert len(pairs) == len(layers) == 5
    for (classes, masks), (their_classes, their_masks) in zip(layers, pairs, strict=True):
        torch.testing.assert_close(classes, their_classes, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(masks, their_masks, rtol=1e-4, atol=1e-6)


def test_gradients_equal_transformers() -> None:
    theirs = reference()
    mine = ours(theirs)
    for logits in (theirs(image(64, 64)).masks_queries_logits, mine.layers(pyramid(64, 64), NO_IMAGE)[-1][1]):
        logits.square().mean().backward()
    expected = _from_transformers({n: p.grad for n, p in theirs.named_parameters()})
    for name, parameter in mine.named_parameters():
        if name.startswith("classifier"):
            assert parameter.grad is None
            assert expected[name] is None
        else:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("regions", [False, True])
def test_each_term_of_the_loss_equals_transformers(regions: bool) -> None:
    """Both use equal points, because they draw them from torch's generator in the same order."""
    theirs, maps = reference(), pyramid(64, 96)
    mine = ours(theirs)
    mine.regions = regions
    target = torch.randint(0, CLASSES - 1, (2, 1, 64, 96), generator=torch.Generator().manual_seed(2)).float()
    if regions:
        target = torch.cat([target, torch.zeros_like(target), (target == 0).float()], dim=1)
        present = [torch.tensor([0, 2])] * 2
        masks = [target[i, [0, 2]] for i in range(2)]
    else:
        present = [torch.tensor([0, 1])] * 2
        masks = [torch.cat([target[i] == 0, target[i] == 1]).float() for i in range(2)]
    torch.manual_seed(3)
    whole = theirs(image(64, 96), mask_labels=masks, class_labels=present).loss
    torch.manual_seed(3)
    result = theirs(image(64, 96), output_auxiliary_logits=True)
    expected = theirs.get_loss_dict(
        result.masks_queries_logits, result.class_queries_logits, masks, present, result.auxiliary_logits
    )
    layers = mine.layers(maps, NO_IMAGE)
    outputs = [mine.logits(*layers[-1]), *(part for layer in layers for part in layer)]
    loss = mine.native_loss(None)
    torch.manual_seed(3)
    terms = loss.terms(outputs, [target])
    assert terms.keys() == expected.keys()
    for name, value in terms.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)
    torch.manual_seed(3)
    torch.testing.assert_close(loss(outputs, [target]), whole, rtol=1e-4, atol=1e-6)


def test_the_default_network_is_transformers() -> None:
    """Equal shapes for equal keys: the defaults are transformers' defaults."""
    with torch.device("meta"):
        theirs = Mask2FormerForUniversalSegmentation(Mask2FormerConfig(num_labels=CLASSES))
        mine = Head([96, 192, 384, 768], STRIDES, CLASSES, Config())
    expected = _from_transformers(dict(theirs.named_parameters()))
    assert {n: p.shape for n, p in mine.named_parameters()} == {n: p.shape for n, p in expected.items()}
    assert all(p.is_meta for p in mine.parameters())


def test_the_initialisation_is_transformers_and_nothing_is_left_to_chance() -> None:
    def build() -> Head:
        torch.manual_seed(0)
        return Head([96, 192, 384, 768], STRIDES, CLASSES, Config(encoder_layers=1, decoder_layers=3))

    torch.manual_seed(1)
    model = Mask2FormerForUniversalSegmentation(
        Mask2FormerConfig(num_labels=CLASSES, encoder_layers=1, decoder_layers=3)
    )
    theirs = _from_transformers(dict(model.named_parameters()))
    first = dict(build().named_parameters())
    poison = [torch.full((256, 256), float("nan")) for _ in range(200)]
    del poison
    for name, parameter in build().named_parameters():
        assert torch.equal(parameter, first[name]), name
        if parameter.numel() > 1 and theirs[name].std() == 0:
            assert torch.equal(parameter, theirs[name]), name
        elif parameter.numel() > 200:
            torch.testing.assert_close(parameter.std(), theirs[name].std(), rtol=0.25, atol=0.0)
    offsets = "pixel_decoder.encoder.layers.0.self_attn.sampling_offsets.bias"
    assert torch.equal(first[offsets], theirs[offsets])


def test_every_parameter_takes_part_and_after_one_step_learns() -> None:
    """Deformable attention starts with weights of 0 between positions and offsets, so `level_embed` waits one step."""
    torch.manual_seed(0)
    head = Head(WIDTHS, STRIDES, CLASSES, Config(**KEYS)).train()
    optimizer, silent = torch.optim.SGD(head.parameters(), lr=0.01), []
    for _ in range(2):
        optimizer.zero_grad()
        head(pyramid(64, 64), NO_IMAGE).square().mean().backward()
        assert all(p.grad is not None for p in head.parameters())
        silent.append([n for n, p in head.named_parameters() if not p.grad.any()])
        optimizer.step()
    assert silent == [["pixel_decoder.level_embed"], []]


def test_dropout_drops_no_whole_layers() -> None:
    """transformers' decoder leaves layers out with this probability, which would leave parameters without a gradient."""
    torch.manual_seed(0)
    head = Head(WIDTHS, STRIDES, CLASSES, Config(**KEYS, dropout=0.9)).train()
    for _ in range(5):
        assert len(head.layers(pyramid(32, 32), NO_IMAGE)) == KEYS["decoder_layers"]


def test_under_autocast_the_pixel_decoder_computes_in_fp32() -> None:
    head = ours(reference())
    expected = head(pyramid(64, 64), NO_IMAGE)
    seen: list[torch.dtype] = []
    head.pixel_decoder.register_forward_hook(lambda module, args, output: seen.append(output.mask_features.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        logits = head([map_BChw.bfloat16() for map_BChw in pyramid(64, 64)], NO_IMAGE)
    assert seen == [torch.float32]
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    assert (logits.argmax(1) == expected.argmax(1)).float().mean() > 0.95


@pytest.mark.slow
def test_it_exports_and_a_sample_does_not_depend_on_its_batch() -> None:
    head, maps = ours(reference()), pyramid(72, 100)
    both = head(maps, NO_IMAGE)
    exported = torch.export.export(head, (maps, NO_IMAGE)).module()
    torch.testing.assert_close(exported(maps, NO_IMAGE), both, rtol=1e-5, atol=1e-6)
    alone = head([map_BChw[:1] for map_BChw in maps], NO_IMAGE)
    torch.testing.assert_close(alone, both[:1], rtol=1e-4, atol=1e-5)


def test_training_goes_on_after_inference_mode() -> None:
    """transformers caches its position embeddings; those of inference mode must not reach the backward pass."""
    head, maps = ours(reference()), pyramid(32, 32)
    with torch.inference_mode():
        head(maps, NO_IMAGE)
    head(maps, NO_IMAGE).mean().backward()
    assert all(p.grad is not None for p in head.parameters())


@pytest.mark.parametrize(
    ("channels", "keys", "message"),
    [
        ([8], {}, "reads 4 maps, but the neck gives 1"),
        (WIDTHS, {"decoder_hidden_size": 100}, "100 must be a multiple of 32"),
        (WIDTHS, {"num_attention_heads": 3}, r"model\.num_attention_heads=3"),
    ],
)
def test_what_does_not_fit_is_refused(channels: list[int], keys: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Head(channels, STRIDES[: len(channels)], CLASSES, Config(**keys))


def test_names_in_the_state_dict_stay_what_they_were() -> None:
    """transformers renames its modules between releases; a change here needs a mapping for old checkpoints."""
    head = Head(WIDTHS, STRIDES, CLASSES, Config(**KEYS | {"encoder_layers": 1, "decoder_layers": 2}))
    both = ("weight", "bias")
    attention = ("attention_weights", "output_proj", "sampling_offsets", "value_proj")
    encoder = [*(f"self_attn.{name}" for name in attention), "self_attn_layer_norm", "fc1", "fc2", "final_layer_norm"]
    layer = [*(f"self_attn.{name}_proj" for name in ("k", "v", "q", "out")), *encoder[4:], "cross_attn_layer_norm"]
    modules = [
        *(f"pixel_decoder.input_projections.{i}.{j}" for i in range(3) for j in range(2)),
        *(f"pixel_decoder.encoder.layers.0.{name}" for name in encoder),
        *("pixel_decoder.mask_projection", "pixel_decoder.adapter_1.1", "pixel_decoder.layer_1.1"),
        *(f"decoder.decoder.layers.0.{name}" for name in [*layer, "cross_attn.out_proj"]),
        *(f"decoder.decoder.mask_predictor.mask_embedder.{i}.0" for i in range(3)),
        *("decoder.decoder.layernorm", "classifier"),
    ]
    expected = {f"{name}.{kind}" for name in modules for kind in both} | {
        "pixel_decoder.level_embed",
        "pixel_decoder.adapter_1.0.weight",
        "pixel_decoder.layer_1.0.weight",
        "decoder.queries_embedder.weight",
        "decoder.queries_features.weight",
        "decoder.level_embed.weight",
        "decoder.decoder.layers.0.cross_attn.in_proj_weight",
        "decoder.decoder.layers.0.cross_attn.in_proj_bias",
    }
    assert set(head.state_dict()) == expected
