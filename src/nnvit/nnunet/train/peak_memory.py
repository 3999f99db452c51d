"""The most memory that a run takes, counted from its own start: a process may train fold after fold."""

import sys
from contextlib import suppress
from pathlib import Path

import torch

PROCESS = Path("/proc/self")


def forget_peak(device: torch.device) -> None:
    """Counts anew from here, as far as the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):  # not Linux, or not allowed
        (PROCESS / "clear_refs").write_text("5")


def peak(device: torch.device) -> int:
    """Bytes: of the GPU's memory, or of this process's."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    with suppress(OSError):
        status = (PROCESS / "status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    import resource  # which Windows does not have

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
