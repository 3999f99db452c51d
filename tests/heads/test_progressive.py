"""The progressive decoder: which map joins where, at what size and width, and what it costs."""

from math import ceil
from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from nnvit.errors import ConfigError
from nnvit.heads.progressive import Config, Head

CLASSES = 3
VIT, PATCH_14, PATCH_8, MIT, PYRAMID_14 = [16] * 4, [14] * 4, [8] * 4, [4, 8, 16, 32], [3.5, 7, 14, 28]
LAYOUTS = [VIT, PATCH_14, PATCH_8, MIT, PYRAMID_14, [16], [16, 16], [8, 32]]


def build(strides: list[float], width: int = 8, **own_keys: Any) -> Head:
    torch.manual_seed(0)
    return Head(
        [width] * len(strides), strides, CLASSES, Config(**{"decoder_channels": 32, "stem_channels": 4} | own_keys)
    )


def inputs(
    strides: list[float], height: int = 84, width: int = 112, channels: int = 8, batch: int = 2
) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(1)
    sizes = [(ceil(height / s), ceil(width / s)) for s in strides]
    maps = [torch.randn(batch, channels, *size, generator=generator) for size in sizes]
    return maps, torch.randn(batch, 3, height, width, generator=generator)


@pytest.mark.parametrize("strides", LAYOUTS)
def test_logits_have_the_images_size_and_everything_learns(strides: list[float]) -> None:
    head = build(strides, dropout=0.0)
    maps, image = inputs(strides)
    for source in (*maps, image):
        source.requires_grad_()
    logits = head(maps, image)
    assert logits.shape == (2, CLASSES, 84, 112)
    logits.square().mean().backward()
    assert [name for name, p in head.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert all(source.grad is not None and source.grad.any() for source in (*maps, image))


@pytest.mark.parametrize(
    ("strides", "expected"),
    [
        (VIT, [8, 4, 2, 1]),
        (PATCH_14, [7, 3.5, 1.75, 1]),
        (PATCH_8, [4, 2, 1]),
        (MIT, [16, 8, 4, 2, 1]),
        (PYRAMID_14, [14, 7, 3.5, 1.75, 1]),
    ],
)
def test_each_stage_halves_the_stride(strides: list[float], expected: list[float]) -> None:
    head, sizes = build(strides), []
    assert head.strides == expected
    for stage in head.stages:
        stage.register_forward_hook(lambda module, args, output: sizes.append(tuple(output.shape[-2:])))
    head(*inputs(strides))
    assert sizes == [(ceil(84 / s), ceil(112 / s)) for s in expected]


@pytest.mark.parametrize("strides", [MIT, PYRAMID_14])
def test_maps_of_a_pyramid_join_the_stage_of_their_own_stride(strides: list[float]) -> None:
    head, joins = build(strides), []
    for stage in head.stages:
        stage.register_forward_pre_hook(lambda module, args: joins.append((args[1], args[2])))
    maps, image = inputs(strides)
    head(maps, image)
    for (others, size), skip, map_BChw in zip(joins, head.skips, reversed(maps[:-1]), strict=False):
        assert tuple(map_BChw.shape[-2:]) == size
        assert torch.equal(others[0], skip(map_BChw))
    assert [len(others) for others, _ in joins] == [1, 1, 1, 1, 1]


def test_shallower_taps_join_finer_stages_and_the_image_the_two_finest() -> None:
    head, joins = build(VIT), []
    for stage in head.stages:
        stage.register_forward_pre_hook(lambda module, args: joins.append(args[1]))
    maps, image = inputs(VIT, 64, 96)
    head(maps, image)
    for others, skip, map_BChw in zip(joins[:3], head.skips, maps[2::-1], strict=True):
        assert torch.equal(others[0], skip(map_BChw))
    assert [len(others) for others in joins] == [1, 1, 2, 1]
    assert joins[2][1].shape[-2:] == (32, 48)
    assert joins[3][0].shape[-2:] == (64, 96)


def test_a_pixel_changes_the_logits_around_it_alone_where_the_maps_do_not_change() -> None:
    head = build(VIT).eval()
    maps, image = inputs(VIT, 64, 64, batch=1)
    dotted = image.clone()
    dotted[..., 40, 24] += 10
    moved = (head(maps, dotted) - head(maps, image)).abs().amax(dim=(0, 1)) > 1e-6
    assert moved[40, 24]
    rows, columns = moved.nonzero().unbind(1)
    assert (rows - 40).abs().max() <= 16
    assert (columns - 24).abs().max() <= 16


@pytest.mark.parametrize("strides", LAYOUTS)
@pytest.mark.parametrize("decoder_channels", [16, 256, 1024])
def test_the_full_size_stage_is_narrow(strides: list[float], decoder_channels: int) -> None:
    with torch.device("meta"):
        head = build(strides, decoder_channels=decoder_channels)
    assert 16 <= head.classifier.in_channels <= 32


def test_the_default_costs_less_than_a_tenth_of_a_large_vit() -> None:
    with torch.device("meta"):
        vit = timm.create_model("vit_large_patch16_224", img_size=512, num_classes=0)
        head = Head([1024] * 4, VIT, CLASSES, Config())
        maps, image = [torch.zeros(1, 1024, 32, 32) for _ in VIT], torch.zeros(1, 3, 512, 512)
    with FlopCounterMode(display=False) as decoding:
        head(maps, image)
    with FlopCounterMode(display=False) as encoding:
        vit(image)
    assert 0 < decoding.get_total_flops() < encoding.get_total_flops() / 10


@pytest.mark.parametrize("strides", [VIT, MIT])
def test_eval_does_not_depend_on_the_batch_and_one_image_trains(strides: list[float]) -> None:
    maps, image = inputs(strides, 32, 32)
    head = build(strides).eval()
    alone = head([map_BChw[:1] for map_BChw in maps], image[:1])
    torch.testing.assert_close(alone, head(maps, image)[:1], rtol=1e-4, atol=1e-6)
    assert head.train()([map_BChw[:1] for map_BChw in maps], image[:1]).isfinite().all()


@pytest.mark.parametrize("strides", LAYOUTS)
def test_it_exports(strides: list[float]) -> None:
    head, (maps, image) = build(strides).eval(), inputs(strides, 28, 56)
    exported = torch.export.export(head, (maps, image))
    torch.testing.assert_close(exported.module()(maps, image), head(maps, image), rtol=1e-4, atol=1e-6)


def test_more_maps_than_stages_join_are_refused() -> None:
    build([16] * 5)
    with pytest.raises(ConfigError, match=r"at most 5 maps.*gives 6; set model.feature_layers to 5"):
        build([16] * 6)


@pytest.mark.parametrize("wrong", [{"decoder_channels": 8}, {"stem_channels": 0}])
def test_impossible_widths_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Config(**wrong)
