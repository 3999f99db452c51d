"""The UPerNet head against transformers' own, on the same weights, in double precision."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn
from transformers import UperNetConfig
from transformers.models.upernet.modeling_upernet import UperNetHead

from nnvit.heads._conv import BatchNorm
from nnvit.heads.upernet import Config, Head

WIDTHS = [16, 24, 32, 40]
CLASSES, HIDDEN = 5, 12
NEAR = {"rtol": 1e-8, "atol": 1e-10}
SIZES = [(48, 48), (32, 56), (18, 27), (5, 9)]  # with steps of two; the last one's coarsest map is 1 x 2


def reference() -> UperNetHead:
    torch.manual_seed(0)
    head = UperNetHead(UperNetConfig(hidden_size=HIDDEN, num_labels=CLASSES), WIDTHS)
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return head.double()


def build(**own_keys: object) -> Head:
    torch.manual_seed(1)
    return Head(WIDTHS, [4, 8, 16, 32], CLASSES, Config(**{"decoder_hidden_size": HIDDEN, "dropout": 0.0} | own_keys))


def _from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the head's state dict from transformers' UperNetHead, or from the `decode_head` of a whole UPerNet.

    Raises KeyError where the mapping holds neither.
    """
    renamed = {
        "psp_modules": "pools",
        "bottleneck": "context",
        "lateral_convs": "laterals",
        "fpn_convs": "smooth",
        "fpn_bottleneck": "fuse",
    }
    whole = any(name.startswith("decode_head.") for name in state)
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        if whole and not name.startswith("decode_head."):
            continue
        part, _, rest = name.removeprefix("decode_head.").partition(".")
        if part == "psp_modules":  # index.1.conv: 0 is the pooling
            rest = rest.replace(".1.", ".", 1)
        out[f"{renamed.get(part, part)}.{rest.replace('batch_norm.', 'norm.')}"] = value
    _ = out["fuse.conv.weight"]
    return out


def ours(theirs: UperNetHead) -> Head:
    head = build().double()
    head.load_state_dict(_from_transformers(theirs.state_dict()), strict=True)
    return head


def pyramid(height: int, width: int, batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    sizes = [(-(-height // s), -(-width // s)) for s in (1, 2, 4, 8)]
    maps = [torch.randn(batch, c, *size, generator=generator) for c, size in zip(WIDTHS, sizes, strict=True)]
    return [map_BChw.double().requires_grad_() for map_BChw in maps]


def image_of(maps: list[Tensor]) -> Tensor:
    batch, _, height, width = maps[0].shape
    return torch.zeros(batch, 3, 4 * height, 4 * width)


@pytest.mark.parametrize("size", SIZES)
def test_logits_equal_transformers_in_eval_mode(size: tuple[int, int]) -> None:
    theirs, maps = reference().eval(), pyramid(*size)
    torch.testing.assert_close(ours(theirs).eval()(maps, image_of(maps)), theirs(maps), **NEAR)


@pytest.mark.parametrize("size", SIZES)
def test_logits_statistics_and_gradients_equal_transformers_in_train_mode(size: tuple[int, int]) -> None:
    theirs = reference().train()
    mine = ours(theirs).train()
    maps, same_maps = pyramid(*size), pyramid(*size)
    expected, got = theirs(maps), mine(same_maps, image_of(maps))
    torch.testing.assert_close(got, expected, **NEAR)
    torch.testing.assert_close(mine.state_dict(), _from_transformers(theirs.state_dict()), **NEAR)
    target = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    (expected * target).mean().backward()
    (got * target).mean().backward()
    for theirs_map, my_map in zip(maps, same_maps, strict=True):
        torch.testing.assert_close(my_map.grad, theirs_map.grad, **NEAR)
    gradients = _from_transformers({name: p.grad for name, p in theirs.named_parameters()})
    for name, parameter in mine.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], **NEAR)


def test_the_head_is_found_in_a_whole_upernet() -> None:
    state = reference().state_dict()
    whole = {f"decode_head.{name}": value for name, value in state.items()}
    whole |= {"backbone.embedder.weight": torch.zeros(1), "auxiliary_head.classifier.bias": torch.zeros(1)}
    assert _from_transformers(whole).keys() == _from_transformers(state).keys()


def test_one_image_trains_where_the_original_stops() -> None:
    theirs, maps = reference().train(), pyramid(32, 32, batch=1)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        theirs(maps)
    mine = ours(theirs).train()
    mine(maps, image_of(maps)).square().mean().backward()
    assert [name for name, p in mine.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_single_value_per_channel_is_normalised_alike_in_training_and_prediction() -> None:
    torch.manual_seed(0)
    norm, map_BChw = BatchNorm(4), torch.randn(1, 4, 1, 1)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2.0)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    assert torch.equal(norm.train()(map_BChw), norm.eval()(map_BChw))
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


@pytest.mark.parametrize("shape", [(2, 4, 1, 1), (1, 4, 1, 2), (2, 4, 3, 3)])
def test_more_values_are_normalised_as_by_torch(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    mine, theirs, map_BChw = BatchNorm(4), nn.BatchNorm2d(4), torch.randn(*shape)
    assert torch.equal(mine(map_BChw), theirs(map_BChw))
    torch.testing.assert_close(mine.state_dict(), theirs.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("size", [(18, 27), (5, 9), (1, 1)])
def test_odd_and_tiny_maps_export(size: tuple[int, int]) -> None:
    head, maps = build().double().eval(), [m.detach() for m in pyramid(*size)]
    exported = torch.export.export(head, (maps, image_of(maps)))
    torch.testing.assert_close(exported.module()(maps, image_of(maps)), head(maps, image_of(maps)), **NEAR)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_number_of_maps_of_one_stride_is_joined(count: int) -> None:
    head = Head([8] * count, [14.0] * count, CLASSES, Config(decoder_hidden_size=8, pool_scales=[1, 4]))
    logits = head([torch.randn(2, 8, 5, 7) for _ in range(count)], torch.zeros(2, 3, 70, 98))
    assert logits.shape == (2, CLASSES, 5, 7)
    logits.square().mean().backward()
    assert [name for name, p in head.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("wrong", [{"pool_scales": [1, 0]}, {"decoder_hidden_size": 0}])
def test_impossible_sizes_are_refused(wrong: dict[str, object]) -> None:
    from nnvit.errors import ConfigError

    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Config(**wrong)
