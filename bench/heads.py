"""Training steps of every arm of examples/chase_db1, taken in turn: medians, and the ratio to the first.

    python bench/heads.py [--arms segformer_frozen segformer_detail_frozen …] [--repeats 5] [--json FILE]

ViT-S/14 with random weights (values do not change the time), patch 252, batch 4, the precision that
`training.precision: auto` takes here. Segmentation losses as in training; data loading is left out.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import nn

from nnvit.model import Segmenter, arch_kwargs
from nnvit.model.precision import Precision
from nnvit.model.training import build_optimizer
from nnvit.recipe import loading

EXAMPLE = Path(__file__).parents[1] / "examples" / "chase_db1"
sys.path.insert(0, str(EXAMPLE))
from run import EVERY_HEAD  # noqa: E402

CPU = torch.device("cpu")


class Step:
    """A training step of one arm on one random batch."""

    def __init__(self, arm: str) -> None:
        recipe = loading.load_recipe([EXAMPLE / "heads.yaml"], EVERY_HEAD[arm])
        self.native = recipe.training.loss == "native"
        self.network = Segmenter(3, 2, deep_supervision=self.native, **arch_kwargs(recipe)).train()
        self.loss = self.network.head.native_loss(None) if self.native else nn.functional.cross_entropy
        self.optimizer = build_optimizer(self.network, recipe.training)
        self.precision = Precision.choose(recipe.training.precision, CPU)
        self.image, self.target = torch.rand(4, 3, 252, 252), torch.randint(0, 2, (4, 252, 252))

    def seconds(self) -> float:
        """Returns the seconds of one step."""
        start = time.perf_counter()
        self.optimizer.zero_grad()
        with self.precision.autocast(CPU):
            loss = self.loss(self.network(self.image), [self.target[:, None]] if self.native else self.target)
        loss.backward()
        self.optimizer.step()
        return time.perf_counter() - start


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=list(EVERY_HEAD), default=list(EVERY_HEAD), metavar="ARM")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    steps = {arm: Step(arm) for arm in arguments.arms}
    rounds = [{arm: step.seconds() for arm, step in steps.items()} for _ in range(arguments.repeats + 1)][1:]
    first = arguments.arms[0]
    rows = {
        arm: {
            "seconds": round(statistics.median(times[arm] for times in rounds), 3),
            "ratio": round(statistics.median(times[arm] / times[first] for times in rounds), 2),
        }
        for arm in arguments.arms
    }
    for arm, row in rows.items():
        print(f"{arm:<26} {row['seconds']:.3f} s   {row['ratio']:.2f} x {first}")
    print(f"{os.cpu_count()} cores, {steps[first].precision.name}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
