"""A training killed twelve times ends as one that was never interrupted, to the last bit: with 0 and with 2 workers.

    python proofs/resume.py --data DATA [--work WORK] [--kills 12]

DATA holds imagesTr/ and labelsTr/ of CHASE_DB1. The training: LoRA with dropout on the pretrained ViT-S of `nnvit[demo]`,
patch 126, batch 2, 5 epochs of 50 iterations, a checkpoint every 5 iterations. Each process gets a SIGKILL after a seeded
number of new checkpoints and a seeded delay; the next continues with --c. At the end the losses of all epochs, all weights, the
optimiser's state and the random streams are compared with those of a training that ran through. Prints JSON and writes
resume.json beside itself; what is done is not repeated.
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from nnvit.nnunet import checkpoint_file

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "examples" / "chase_db1"))
from run import commit, cpu, prepare  # noqa: E402

EPOCHS, ITERATIONS = 5, 50
KEYS = [
    "model.neck_args.out_channels=64", "model.decoder_hidden_size=64", "lora.enabled=true", "lora.lora_dropout=0.1",
    "training.patch_size=[126,126]", "training.batch_size=2", f"training.num_epochs={EPOCHS}",
    f"training.num_iterations_per_epoch={ITERATIONS}", "training.num_val_iterations_per_epoch=5", "training.warmup_epochs=1",
    "training.save_every=1", "training.save_every_iterations=5", "training.mirroring=false", "training.lr=1e-3",
    "training.seed=0",
]  # fmt: skip


class Run:
    """A training with a name of its own."""

    def __init__(self, work: Path, name: str, workers: int) -> None:
        self.words = ["nnvit", "train", "101", "2d", "0", "--recipe", "segformer_packaged", *KEYS, f"name={name}"]
        self.words += ["-device", "cpu"]
        self.log = work / f"{name}.log"
        self.environment = {**os.environ, "nnUNet_n_proc_DA": str(workers)}
        results = work / "results" / "Dataset101_CHASE"
        self.fold = results / f"nnUNetTrainer_nnvit__nnUNetPlans_{name}_s0__2d" / "fold_0"

    @property
    def final(self) -> Path:
        """Its last checkpoint."""
        return self.fold / "checkpoint_final.pth"

    def start(self) -> subprocess.Popen:
        """A process that begins the training, or continues it."""
        begun = (self.fold / "nnvit_run.json").is_file()
        program = str(Path(sys.executable).parent / self.words[0])
        words = [program, *self.words[1:], *(["--c"] if begun else [])]
        return subprocess.Popen(
            words,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def through(self) -> None:
        """Trains to the end, without the final validation."""
        process = self.start()
        while process.poll() is None and not self.final.exists():
            time.sleep(0.2)
        stop(process)
        if not self.final.exists():
            sys.exit(f"{self.log} ends without checkpoint_final.pth:\n{self.log.read_text()[-3000:]}")

    def killed(self, checkpoints: int, delay: float) -> dict[str, Any]:
        """Continues, and is killed `delay` seconds after so many new checkpoints; returns where it was then."""
        latest = self.fold / "checkpoint_latest.pth"
        process, seen = self.start(), written(latest)
        while checkpoints and process.poll() is None and not self.final.exists():
            time.sleep(0.02)
            if (now := written(latest)) != seen:
                seen, checkpoints = now, checkpoints - 1
        time.sleep(delay)
        stop(process)
        held = checkpoint_file.read(latest)
        losses = held["nnvit"]["losses"]
        return {
            "epoch": held["current_epoch"],
            "iteration": 0 if losses is None else len(losses),
            "delay": round(delay, 3),
        }


def written(path: Path) -> int:
    """Returns the time at which a file was written last, 0 where there is none."""
    return path.stat().st_mtime_ns if path.exists() else 0


def stop(process: subprocess.Popen) -> None:
    """SIGKILL to the training and its workers."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def differences(one: Path, other: Path) -> list[str]:
    """Lists what is not equal in two checkpoints, leaving out times and names."""
    first, second = (checkpoint_file.read(path) for path in (one, other))
    found = [
        key
        for key in ("train_losses", "val_losses", "mean_fg_dice", "ema_fg_dice", "lrs", "dice_per_class_or_region")
        if first["logging"][key] != second["logging"][key]
    ]
    for key in ("network_weights", "optimizer_state"):
        a, b = dict(leaves(first[key])), dict(leaves(second[key]))
        if a.keys() != b.keys():
            found.append(f"{key}: other names")
        found += [f"{key}{name}" for name in a.keys() & b.keys() if not same(a[name], b[name])]
    streams = (dict(leaves(content["nnvit"]["random"])) for content in (first, second))
    a, b = streams
    return found + [f"random{name}" for name in a if not same(a[name], b[name])]


def leaves(value: Any, name: str = "") -> list[tuple[str, Any]]:
    """Everything inside dictionaries and sequences, with its place."""
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in leaves(inner, f"{name}.{key}")]
    if isinstance(value, list | tuple):
        return [leaf for i, inner in enumerate(value) for leaf in leaves(inner, f"{name}.{i}")]
    return [(name, value)]


def same(one: Any, other: Any) -> bool:
    """Equal to the last bit."""
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def prove(work: Path, workers: int, kills: int, through: Run) -> dict[str, Any]:
    """Interrupts and continues a training with so many workers; returns how it compares with the uninterrupted one."""
    run, log = Run(work, f"killed_{workers}", workers), work / f"killed_{workers}.json"
    draw, done = random.Random(workers), json.loads(log.read_text()) if log.is_file() else []
    moments = [(draw.randint(1, 4), draw.uniform(0, 1)) for _ in range(kills)]
    for checkpoints, delay in moments[len(done) :]:
        done.append(run.killed(checkpoints, delay))
        log.write_text(json.dumps(done))
        print(f"workers {workers}, kill {len(done)}/{kills}: {done[-1]}", file=sys.stderr, flush=True)
    if not run.final.exists():
        run.through()
    wrong = differences(through.final, run.final)
    account = json.loads((run.fold / "nnvit_run.json").read_text())
    return {
        "workers": workers,
        "kills": done,
        "inside_an_epoch": sum(kill["iteration"] > 0 for kill in done),
        "continued": len(account["resumed"]),
        "differences": wrong,
        "equal_to_the_last_bit": not wrong,
    }


def main() -> None:
    """Proves, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("work/resume"))
    parser.add_argument("--kills", type=int, default=12)
    arguments = parser.parse_args()
    prepare(arguments.data, arguments.work)
    through = Run(arguments.work, "through", 1)
    if not through.final.exists():
        through.through()
    found = {
        "commit": commit(),
        "machine": f"{os.cpu_count()} cores, {cpu()}, no GPU",
        "training": re.sub(r" -device.*", "", " ".join(through.words)),
        "through": {
            "workers": 1,
            "train_losses": [float(x) for x in checkpoint_file.read(through.final)["logging"]["train_losses"]],
        },
        "killed": [prove(arguments.work, workers, arguments.kills, through) for workers in (0, 2)],
    }
    text = json.dumps(found, indent=2)
    (HERE / "resume.json").write_text(text + "\n")
    print(text)
    sys.exit(not all(one["equal_to_the_last_bit"] for one in found["killed"]))


if __name__ == "__main__":
    main()
