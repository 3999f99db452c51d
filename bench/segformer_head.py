"""SegFormer's head, ours against transformers' on the same weights, in fp32: `python bench/segformer_head.py`."""

import os
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import SegformerConfig
from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

from harness import Row, alternately, bound, device, main, shares, timed
from nnvit.heads.segformer import Config, Head

# name: width of the maps, side of the finest one (strides 4, 8, 16, 32 of a square patch), batch, the ratio that is asked for
PYRAMIDS = {"ViT-S, patch 256": (384, 64, 2, None), "ViT-L, patch 512": (1024, 128, 1, 2)}


def pair(width: int) -> tuple[Head, SegformerDecodeHead]:
    """Our head and transformers', with the same weights."""
    theirs = SegformerDecodeHead(SegformerConfig(hidden_sizes=[width] * 4, decoder_hidden_size=256, num_labels=3))
    ours = Head([width] * 4, [4, 8, 16, 32], 3, Config())
    ours.load_state_dict(Head.from_segformer(theirs.state_dict()))
    return ours, theirs


def forward(head: Callable[[list[Tensor]], Tensor], maps: list[Tensor]) -> Callable[[], None]:
    """A forward pass without gradients."""

    def run() -> None:
        with torch.no_grad():
            head(maps)

    return run


def step(head: Callable[[list[Tensor]], Tensor], maps: list[Tensor]) -> Callable[[], None]:
    """A forward and a backward pass, into the maps as well."""
    leaves = [m.clone().requires_grad_() for m in maps]
    return lambda: head(leaves).square().mean().backward()


def agreement(
    ours: Callable[[list[Tensor]], Tensor], theirs: Callable[[list[Tensor]], Tensor], maps: list[Tensor]
) -> str:
    """Returns a sentence on how far the logits agree, in the precision that is timed."""
    with torch.no_grad():
        return f"logits differ by at most {float((ours(maps) - theirs(maps)).abs().max()):.1e}"


def flops(run: Callable[[], None]) -> int:
    """Returns the seconds of one call."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def rows() -> list[Row]:
    """Both pyramids, forward, and forward with backward."""
    torch.set_num_threads(os.cpu_count() or 1)
    found = []
    for name, (width, side, batch, bar) in PYRAMIDS.items():
        ours, theirs = (head.to(device()).train() for head in pair(width))
        imageless = partial(ours, image=torch.empty(0))
        maps = [torch.randn(batch, width, side // s, side // s, device=device()) for s in (1, 2, 4, 8)]
        same = agreement(partial(ours.eval(), image=torch.empty(0)), theirs.eval(), maps)
        ours.train(), theirs.train()
        for kind, make in (("forward", forward), ("forward + backward", step)):
            mine, other = make(imageless, maps), make(theirs, maps)
            times = alternately(mine, other)
            note = f"{bound(flops(mine), None, times[1])}; of a pass: {shares(mine)}"
            work = f"SegFormer head, {name}, batch {batch}, {kind}"
            found.append(timed(work, "transformers", times, bar, agreement=same, note=note))
    return found


if __name__ == "__main__":
    main(__file__, rows, __doc__)
