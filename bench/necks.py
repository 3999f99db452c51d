"""What neck `detail` costs: training steps of the same network with it and with `simple_pyramid`, alternately.

    python bench/necks.py [--repeats 9]

Frozen ViT-S/14 with random weights (values do not change the time), head segformer, patch 252, batch 4, as in
examples/chase_db1/heads.yaml, in the precision that `training.precision: auto` takes here.
"""

import argparse
import os
import statistics
import time

import torch
from torch import nn

from nnvit import config
from nnvit.architecture import arch_kwargs
from nnvit.model import Segmenter
from nnvit.nnunet.precision import choose
from nnvit.optim import build_optimizer

KEYS = ["model.backbone=dinov2", "model.backbone_size=small", "model.neck_args.out_channels=128", "lora.enabled=false"]


class Step:
    """A training step on one random batch."""

    def __init__(self, neck: str) -> None:
        recipe = config.load_recipe([], [*KEYS, f"model.neck={neck}"])
        self.network = Segmenter(3, 2, **arch_kwargs(recipe)).train()
        self.optimizer = build_optimizer(self.network, recipe.training)
        self.precision = choose(recipe.training.precision, torch.device("cpu"))
        self.image, self.target = torch.rand(4, 3, 252, 252), torch.randint(0, 2, (4, 252, 252))

    def seconds(self) -> float:
        start = time.perf_counter()
        self.optimizer.zero_grad()
        with self.precision.autocast(torch.device("cpu")):
            loss = nn.functional.cross_entropy(self.network(self.image), self.target)
        loss.backward()
        self.optimizer.step()
        return time.perf_counter() - start


def main() -> None:
    """Prints medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    steps = Step("simple_pyramid"), Step("detail")
    rounds = [[step.seconds() for step in steps] for _ in range(arguments.repeats + 1)][1:]
    pyramid, detail = (statistics.median(times) for times in zip(*rounds, strict=True))
    ratio = statistics.median(b / a for a, b in rounds)
    print(f"simple_pyramid {pyramid:.3f} s   detail {detail:.3f} s   ratio {ratio:.2f}   {steps[0].precision.name}")


if __name__ == "__main__":
    main()
