"""Measures the peak memory of a run from its own start: one process may train several folds."""

import sys
from contextlib import suppress
from pathlib import Path

import torch

PROCESS = Path("/proc/self")


def forget_peak(device: torch.device) -> None:
    """Resets the peak, as far as the system allows it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):  # not Linux, or not allowed
        (PROCESS / "clear_refs").write_text("5")


def peak(device: torch.device) -> int:
    """Returns the peak since the last reset in bytes: of GPU memory on a GPU, else of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    with suppress(OSError):
        status = (PROCESS / "status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    import resource  # Windows has no such module

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
