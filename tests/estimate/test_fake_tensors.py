"""FLOPs counted on fake tensors against sums by hand."""

import pytest
import torch
from torch import Tensor, nn

from nnvit.estimate.fake_tensors import flop_counter, forward_flops
from tests.estimate.networks import IMAGE, needed, network, recipe


def test_attention_costs_two_products_of_queries_and_keys_and_its_gradients_five() -> None:
    """torch before 2.15 does not count the fused attention of a CPU."""
    query, key, value = (torch.rand(2, 3, tokens, 16, requires_grad=True) for tokens in (10, 7, 7))
    with flop_counter() as flops:
        out = nn.functional.scaled_dot_product_attention(query, key, value)
        product = 2 * 2 * 3 * 10 * 7 * 16
        assert flops.get_total_flops() == 2 * product
        out.sum().backward()
    assert flops.get_total_flops() == 7 * product  # the backward pass computes the product of queries and keys again


@pytest.mark.parametrize(
    ("layer", "image"),
    [
        (nn.Conv2d(8, 12, 3, stride=2, padding=1), (2, 8, 9, 10)),
        (nn.Conv2d(8, 8, 3, groups=8), (2, 8, 9, 10)),
        (nn.Conv2d(8, 12, 3, groups=4), (2, 8, 9, 10)),
        (nn.ConvTranspose2d(8, 6, 2, stride=2), (2, 8, 9, 10)),
        (nn.ConvTranspose2d(8, 8, 2, stride=2, groups=8), (2, 8, 9, 10)),
    ],
    ids=["plain", "depthwise", "grouped", "transposed", "transposed depthwise"],
)
def test_both_gradients_of_a_convolution_cost_as_much_as_it_does(layer: nn.Module, image: tuple[int, ...]) -> None:
    """torch's own formula multiplies a grouped convolution's by the number of groups."""
    weight = layer.get_parameter("weight")
    with flop_counter() as flops:
        out = layer(torch.rand(image, requires_grad=True))
        places = (out if isinstance(layer, nn.Conv2d) else torch.empty(image)).shape[-2:].numel()
        by_hand = 2 * image[0] * places * weight.numel()
        assert flops.get_total_flops() == by_hand
        out.sum().backward()
    assert flops.get_total_flops() == 3 * by_hand


def test_the_forward_pass_of_any_network_is_counted() -> None:
    of = recipe()
    assert forward_flops(lambda: network(of), IMAGE) == needed(of).forward_flops
    assert forward_flops(Twice, (1, 2, 4, 6, 8)) == 2 * 2 * 5 * 27 * 4 * 6 * 8


class Twice(nn.Module):
    """A convolution under two names, as the blocks of nnU-Net's networks hold theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(2, 5, 3, padding=1, bias=False)
        self.all_modules = nn.Sequential(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        return self.all_modules(x)
