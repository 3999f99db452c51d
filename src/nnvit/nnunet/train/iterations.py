"""Signals that end a training between two iterations, and a meter of the iterations' time and memory.

Ctrl-C, SLURM's warnings and `kill` end a training after an iteration, with its place kept.
"""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from nnvit.nnunet.progress import duration

PARTS = ("data_wait", "forward", "backward", "step")
"""data_wait: waiting for the batch. forward: copying it to the device, network and loss. backward: gradients. step: clipping,
optimiser, gradient scaler, running mean, and reading the loss."""
_PROCESS = Path("/proc/self")
_SIGNALS = [
    known for known in signal.Signals if known.name in ("SIGINT", "SIGTERM", "SIGUSR1")
]  # Windows lacks the last


class Interrupted(KeyboardInterrupt):
    """Raised between two iterations when a signal has come; `signal` is its number."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number


class _Handled:
    """Gives signals to a handler within its context.

    Python delivers signals to the main thread alone; in another thread nothing is changed.
    """

    def __init__(self, handler: Any, numbers: Iterable[int] = _SIGNALS) -> None:
        self._handler, self._numbers = handler, numbers
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handler) for number in self._numbers}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Signals(_Handled):
    """Notes the first of Ctrl-C, SIGTERM and SIGUSR1 within its context; the second acts at once. say: prints a line."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(self._note)
        self.say = say
        self.came: int | None = None

    def _note(self, number: int, _: FrameType | None) -> None:
        self.came = number
        self.__exit__()
        self.say(
            f"{signal.Signals(number).name}: a checkpoint is written after this iteration (once more stops at once)"
        )

    def obey(self) -> None:
        """Raises Interrupted if a signal has come."""
        if self.came is not None:
            raise Interrupted(self.came)

    def next_batch(self, batches: Iterator[dict]) -> dict:
        """Returns the next batch. Raises Interrupted if a signal has come."""
        self.obey()
        try:
            return next(batches)
        except RuntimeError:
            self.obey()  # it may have ended the workers too
            raise

    @staticmethod
    def withheld() -> _Handled:
        """Makes processes that are started within the context ignore Ctrl-C and SIGUSR1, which reach a whole process group."""
        return _Handled(signal.SIG_IGN, [number for number in _SIGNALS if number != signal.SIGTERM])

    @staticmethod
    def ignore(*_: int) -> None:
        """Ignores all signals, in a worker that its parent ends by other means."""
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)


class Meter:
    """Times the iterations of one epoch, and measures the peak memory since `forget_peak`.

    On a CPU the clock is read at once. A GPU computes later than it is told to: there the moments are events in its queue, read
    once the epoch is over. Reading the loss ends every step of nnU-Net's and waits for the GPU; the GPU is then idle while the
    next batch is waited for, so that the host's clock is right for that part.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.restart()

    def restart(self) -> None:
        """Forgets the last epoch."""
        self._waits: list[float] = []
        self._moments: list[list[Any]] = []
        self._open: list[Any] | None = None

    def begin(self, waited: float) -> None:
        """Starts a step; waited: seconds that its batch was waited for."""
        self._waits.append(waited)
        self._open = [self._now()]

    def mark(self) -> None:
        """Notes the end of the forward pass, then of the backward pass; does nothing outside begin and end."""
        if self._open is not None:
            self._open.append(self._now())

    def end(self) -> None:
        """Ends the step."""
        assert self._open is not None
        self._moments.append([*self._open, self._now()])
        self._open = None

    def medians(self) -> dict[str, float]:
        """Returns the median seconds of each part over the epoch's iterations, {} where there was none.

        For a trainer whose own train_step marks nothing there are two parts, data_wait and step.
        """
        if not self._moments:
            return {}
        steps = np.array([self._lengths(moments) for moments in self._moments])
        parts = PARTS if steps.shape[1] == len(PARTS) - 1 else ("data_wait", "step")
        if len(parts) == 2:
            steps = steps.sum(axis=1, keepdims=True)
        waits = np.array(self._waits[: len(steps)])[:, None]
        return dict(zip(parts, np.median(np.hstack([waits, steps]), axis=0).tolist(), strict=True))

    def pace(self, starts: list[float], ends: list[float], epochs_left: int) -> str:
        """Says how fast the training goes and how long it will take. starts, ends: of the epochs so far, in seconds."""
        left = f"ETA {duration(float(np.median(np.subtract(ends, starts))) * epochs_left)}"
        seconds = self.medians()
        if not seconds:  # the epoch was interrupted between its last iteration and its validation
            return left
        total = sum(seconds.values())
        return f"{total:.2f} s/it ({seconds['data_wait'] / total:.0%} waiting for data)  {left}"

    def forget_peak(self) -> None:
        """Resets the peak memory as far as the system allows it: one process may train several folds."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        with suppress(OSError):  # not Linux, or not allowed
            (_PROCESS / "clear_refs").write_text("5")

    def peak(self) -> int:
        """Returns the peak since the last reset in bytes: of GPU memory on a GPU, else of this process."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        with suppress(OSError):
            status = (_PROCESS / "status").read_text()
            return 1024 * int(status.partition("VmHWM:")[2].split()[0])
        import resource  # Windows has no such module

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def _now(self) -> Any:
        if self.device.type == "cpu":
            return time.perf_counter()
        event = torch.Event(device=self.device, enable_timing=True)
        event.record()
        return event

    def _lengths(self, moments: list[Any]) -> list[float]:
        """Returns the seconds between neighbouring moments."""
        if self.device.type == "cpu":
            return np.diff(moments).tolist()
        moments[-1].synchronize()
        return [a.elapsed_time(b) / 1000 for a, b in pairwise(moments)]
