"""The SegFormer head against transformers' own, on the same weights."""

import pytest
import torch
from torch import Tensor
from transformers import SegformerConfig
from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

from nnvit.heads.segformer import Config, Head

WIDTHS = [32, 48, 64, 80]
CLASSES = 5
NO_IMAGE = torch.empty(0)  # this head reads maps alone


def reference(dropout: float = 0.0) -> SegformerDecodeHead:
    torch.manual_seed(0)
    config = SegformerConfig(
        hidden_sizes=WIDTHS, decoder_hidden_size=96, num_labels=CLASSES, classifier_dropout_prob=dropout
    )
    head = SegformerDecodeHead(config)
    head.batch_norm.running_mean.normal_()
    head.batch_norm.running_var.uniform_(0.5, 2.0)
    return head


def ours(theirs: SegformerDecodeHead) -> Head:
    head = Head(WIDTHS, [4, 8, 16, 32], CLASSES, Config(decoder_hidden_size=96, num_encoder_blocks=4, dropout=0.0))
    head.load_state_dict(Head.from_segformer(theirs.state_dict()), strict=True)
    return head


def pyramid(height: int, width: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(2, channels, -(-height // s), -(-width // s), generator=generator)
        for channels, s in zip(WIDTHS, (1, 2, 4, 8), strict=True)
    ]


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (18, 27)])
def test_logits_equal_transformers_in_eval_mode(size: tuple[int, int]) -> None:
    theirs = reference().eval()
    torch.testing.assert_close(
        ours(theirs).eval()(pyramid(*size), NO_IMAGE), theirs(pyramid(*size)), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("size", [(32, 32), (18, 27)])
def test_logits_statistics_and_gradients_equal_transformers_in_train_mode(size: tuple[int, int]) -> None:
    theirs = reference().train()
    mine = ours(theirs).train()
    maps, same_maps = pyramid(*size), pyramid(*size)
    for map_BChw in maps + same_maps:
        map_BChw.requires_grad_()
    expected, got = theirs(maps), mine(same_maps, NO_IMAGE)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mine.norm.running_var, theirs.batch_norm.running_var, rtol=1e-5, atol=1e-6)
    target = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    (expected * target).mean().backward()
    (got * target).mean().backward()
    for theirs_map, my_map in zip(maps, same_maps, strict=True):
        torch.testing.assert_close(my_map.grad, theirs_map.grad, rtol=1e-4, atol=1e-7)
    expected_gradients = Head.from_segformer({name: p.grad for name, p in theirs.named_parameters()})
    for name, parameter in mine.named_parameters():
        torch.testing.assert_close(parameter.grad, expected_gradients[name], rtol=1e-4, atol=1e-6)


def test_the_hubs_names_are_read_too() -> None:
    state = reference().state_dict()
    hub = {f"decode_head.{name.replace('linear_projections', 'linear_c')}": value for name, value in state.items()}
    assert Head.from_segformer(hub).keys() == Head.from_segformer(state).keys()
