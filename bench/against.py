"""Times the same work in two checkouts of nnvit, in turn: SegFormer's head and the training steps.

    python bench/against.py ../before             # that checkout against this one
    python bench/against.py . --starts 9          # this one against itself: what the method itself varies by

Each checkout runs in a process of its own, with its own sources and benches. The two take turns, and who begins changes from
round to round. Two processes of the same code differ by up to 20% on short rows (where their memory lies is decided at the
start), so both are started several times. A figure is the median over the starts of the median of a start. Printed are both
figures, their ratio, before / now (below 1 this checkout is slower), and the range over the starts.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.progress import track

HERE = Path(__file__).resolve().parents[1]


class Contestant:
    """Runs the work of one checkout in a process that waits between its turns."""

    def __init__(self, checkout: Path) -> None:
        paths = [checkout / "src", checkout / "bench"]
        self.process = subprocess.Popen(
            [sys.executable, "-P", __file__, "--worker", str(checkout)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_WAIT_POLICY": "PASSIVE"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.works: list[str] = json.loads(self._answer())

    def seconds(self, work: str) -> float:
        """Returns the seconds of one run of this work."""
        assert self.process.stdin
        self.process.stdin.write(work + "\n")
        self.process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.wait()

    def _answer(self) -> str:
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith("answer "):  # nnU-Net prints lines of its own
                return line.removeprefix("answer ")
        raise SystemExit("A contestant ended; its error stands above.")


def turns(before: Contestant, now: Contestant, work: str, rounds: int) -> tuple[float, float]:
    """Returns the medians of both in seconds, after one round of warming up."""
    pairs = []
    for i in range(rounds + 1):
        order = (before, now) if i % 2 else (now, before)
        taken = {contestant: contestant.seconds(work) for contestant in order}
        pairs.append((taken[before], taken[now]))
    old, new = zip(*pairs[1:], strict=True)
    return statistics.median(old), statistics.median(new)


def work() -> None:
    """Prepares the work of the checkout that PYTHONPATH names, then runs what standard input asks for, line by line."""
    import torch

    import segformer_head
    import step
    import trainers
    from harness import seconds

    torch.set_num_threads(os.cpu_count() or 1)
    runs: dict[str, Callable[[], object]] = {}
    for name, (width, side, batch, _) in segformer_head.PYRAMIDS.items():
        head = partial(segformer_head.pair(width)[0].train(), image=torch.empty(0))
        maps = [torch.randn(batch, width, side // s, side // s) for s in (1, 2, 4, 8)]
        runs[f"SegFormer head, {name}, forward"] = segformer_head.forward(head, maps)
        runs[f"SegFormer head, {name}, forward + backward"] = segformer_head.step(head, maps)
    with trainers.folders():
        for name, recipe, keys, patch in (
            ("frozen ViT-S + segformer, step, 512²", "segformer_default", [*step.VIT_S, step.FROZEN], 512),
            ("LoRA ViT-S + segformer, step, 512²", "segformer_default", [*step.VIT_S, step.LORA], 512),
            ("recipe unet, step, 256²", "unet", [], 256),
        ):
            trainer = trainers.ours(recipe, *keys, patch=patch)
            runs[name] = step.step_of(trainer, trainers.batch_of(trainer))
        tiny = trainers.ours("segformer_default", *step.TINY, step.FROZEN, patch=64)
        runs[f"tiny network, {step.ITERATIONS} iterations"] = step.epoch_of(tiny, trainers.batch_of(tiny))
        print("answer", json.dumps(list(runs)), flush=True)
        for line in sys.stdin:
            print("answer", seconds(runs[line.strip()]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="the other checkout")
    parser.add_argument("--now", type=Path, default=HERE, help="the checkout that is judged (default: this one)")
    parser.add_argument("--starts", type=int, default=5, help="how often both are started (default: 5)")
    parser.add_argument("--rounds", type=int, default=7, help="pairs of runs for each row and start (default: 7)")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return work()
    medians: dict[str, list[tuple[float, float]]] = {}
    sides = {"before": args.before.resolve(), "now": args.now.resolve()}
    for i in track(range(args.starts), "starts"):
        order = sorted(sides, reverse=bool(i % 2))  # who is started first changes from start to start, too
        started = {side: Contestant(sides[side]) for side in order}
        before, now = started["before"], started["now"]
        for name in now.works:
            medians.setdefault(name, []).append(turns(before, now, name, args.rounds))
        before.close()
        now.close()
    for name, pairs in medians.items():
        old, new = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratios = [a / b for a, b in pairs]
        print(
            f"{name}: before {old:.4g} s, now {new:.4g} s, ratio {old / new:.3f}; "
            f"starts {min(ratios):.3f} to {max(ratios):.3f}"
        )


if __name__ == "__main__":
    main()
