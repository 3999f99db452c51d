"""The stem that corrects logits close to the image."""

import pytest
import torch

from nnvit.errors import ConfigError
from nnvit.necks.detail import Args, Neck


def refinement(**args: int) -> torch.nn.Module:
    torch.manual_seed(0)
    return Neck.refinement([32, 32], 3, Args(stem_channels=8, **args)).eval()


def inputs(stride: int, size: int = 32) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    maps = [torch.randn(2, 32, size // 4, size // 4, generator=generator)]
    return (
        torch.randn(2, 3, size // stride, size // stride, generator=generator),
        maps,
        torch.randn(2, 3, size, size, generator=generator),
    )


@pytest.mark.parametrize(("stem", "logits", "out"), [(2, 4, 16), (2, 16, 16), (1, 4, 32), (2, 1, 32)])
def test_the_finer_of_both_strides_comes_out(stem: int, logits: int, out: int) -> None:
    """Logits that are finer than the stem (progressive's, dpt's) must not be blurred by it."""
    refined = refinement(stem_stride=stem)(*inputs(logits))
    assert refined.shape == (2, 3, out, out)


def test_it_begins_close_to_the_heads_own_logits() -> None:
    logits, maps, image = inputs(1)
    assert (refinement()(logits, maps, image) - logits).abs().max() < 0.2


def test_it_sees_what_is_thinner_than_a_patch() -> None:
    """A line of one pixel changes the correction there, although it is in neither the map nor the logits."""
    network, (logits, maps, image) = refinement(), inputs(4)
    line = image.clone()
    line[:, :, 16] += 3
    change = (network(logits, maps, line) - network(logits, maps, image)).abs().amax((0, 1, 3))
    assert change[8] > 0
    assert change[:2].max() == 0


@pytest.mark.parametrize("args", [{"stem_stride": 3}, {"stem_channels": 0}, {"out_channels": 0}])
def test_widths_and_strides_that_cannot_be_are_refused(args: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(args))):
        Args(**args)
