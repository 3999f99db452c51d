"""Peak memory of training steps of a real trainer, each measurement in a process of its own.

The benches call `peak(...)`; run as a script, this file is the child process. It uses the CPU, also if there is a GPU.
The baseline is the resident memory after all imports and a step of a tiny network by the same trainer, which loads every library
and starts every thread that a step uses. The peak is the kernel's high-water mark of resident memory, reset at the baseline. The
allocator is glibc's with its defaults; before the baseline it hands back its free memory once (malloc_trim), so that the network
is not built into that.
"""

import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STEPS = 3
CPU_ALONE = {"CUDA_VISIBLE_DEVICES": ""}
TINY = ["model.backbone=tiny", "model.backbone_size=vit", "model.feature_layers=null"]


def peak(
    trainer: str, recipe: str, overrides: list[str], patch: int, batch: int = 2, *, timeout: int = 900
) -> dict[str, Any]:
    """Returns the bytes above the baseline, by phase, and the last step's seconds.

    trainer: "nnvit", or "stock" for nnU-Net's own on the same network. patch: its side in pixels; three channels, two classes.
    """
    words = json.dumps([trainer, recipe, overrides, patch, batch])
    with tempfile.TemporaryDirectory() as folder:
        folders = {name: str(Path(folder) / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
        command = [sys.executable, __file__, words]
        child = subprocess.run(
            command,
            env=os.environ | folders | CPU_ALONE,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    if child.returncode:
        raise RuntimeError(f"{words}: {child.stderr}")
    return json.loads(child.stdout.splitlines()[-1])


def _child(trainer: str, recipe: str, overrides: list[str], patch: int, batch: int) -> dict[str, Any]:
    _steps(_trainer(trainer, recipe, [*overrides, *TINY], 64, batch))
    trim()
    baseline = resident("VmRSS")
    reset()
    made = _trainer(trainer, recipe, overrides, patch, batch)
    built = resident("VmHWM") - baseline
    gc.collect()
    held = resident("VmRSS") - baseline
    reset()
    seconds = _steps(made)
    stepped = resident("VmHWM") - baseline
    return {"peak": max(built, stepped), "built": built, "held": held, "stepped": stepped, "seconds": seconds}


def _trainer(kind: str, recipe: str, overrides: list[str], patch: int, batch: int) -> Any:
    """Returns a trainer that is ready for its first step, with random weights."""
    import trainers

    make = {"nnvit": trainers.ours, "stock": trainers.stock}[kind]
    return make(recipe, *overrides, "model.weights=random", patch=patch, batch=batch)


def _steps(trainer: Any) -> float:
    """Makes a few steps on one random batch; returns the seconds of the last."""
    import trainers

    data = trainers.batch_of(trainer)
    for _ in range(STEPS):
        start = time.perf_counter()
        trainer.train_step(data)
    return time.perf_counter() - start


def trim() -> None:
    """Makes glibc's malloc hand back its free memory."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def resident(field: str) -> int:
    """Returns the bytes of this process: VmRSS is now, VmHWM the most since `reset`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def reset() -> None:
    """Resets the high-water mark to what is resident now (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    print(json.dumps(_child(*json.loads(sys.argv[1]))))
