"""SegFormer's head, ours against transformers' on the same weights: `python bench/segformer_head.py [--json FILE]`.

The two run alternately in one process; printed are the medians of each and the median of the ratios pair by pair.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import SegformerConfig
from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

from nnvit.heads.segformer import Head, from_transformers

# name: width of the maps, side of the finest one (strides 4, 8, 16, 32 of a square patch), batch
PYRAMIDS = {"ViT-S, patch 256": (384, 64, 2), "ViT-L, patch 512": (1024, 128, 1)}


def pair(width: int) -> tuple[Head, SegformerDecodeHead]:
    """Our head and the reference, with the same weights."""
    theirs = SegformerDecodeHead(SegformerConfig(hidden_sizes=[width] * 4, decoder_hidden_size=256, num_labels=3))
    ours = Head([width] * 4, [4, 8, 16, 32], 3)
    ours.load_state_dict(from_transformers(theirs.state_dict()))
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


def compare(ours: Callable[[], None], theirs: Callable[[], None], repeats: int) -> dict[str, float]:
    """Medians in seconds, and the median ratio theirs / ours."""
    times: tuple[list[float], list[float]] = ([], [])
    for i in range(repeats + 1):
        for run, seen in zip((ours, theirs), times, strict=True):
            start = time.perf_counter()
            run()
            if i:  # the first round warms up
                seen.append(time.perf_counter() - start)
    ratio = statistics.median(b / a for a, b in zip(*times, strict=True))
    return {"ours_s": statistics.median(times[0]), "transformers_s": statistics.median(times[1]), "ratio": ratio}


def main() -> None:
    """Runs all pyramids and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    rows = {}
    for name, (width, side, batch) in PYRAMIDS.items():
        ours, theirs = (head.train() for head in pair(width))
        imageless = partial(ours, image=torch.empty(0))
        maps = [torch.randn(batch, width, side // s, side // s) for s in (1, 2, 4, 8)]
        for kind, make in (("forward", forward), ("forward + backward", step)):
            rows[f"{name}, {kind}"] = compare(make(imageless, maps), make(theirs, maps), arguments.repeats)
            row = rows[f"{name}, {kind}"]
            times = f"ours {row['ours_s']:.3f} s   transformers {row['transformers_s']:.3f} s"
            print(f"{name:18} {kind:19} {times}   {row['ratio']:.2f}x")
    if arguments.json:
        arguments.json.write_text(json.dumps({"threads": torch.get_num_threads(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
