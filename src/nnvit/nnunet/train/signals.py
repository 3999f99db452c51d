"""Answers Ctrl-C, SLURM's warnings and `kill`: a training finishes its iteration, writes a checkpoint and stops."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)  # Windows has no SIGUSR1


class Interrupted(KeyboardInterrupt):
    """Raised when a signal has ended a training after its checkpoint was written; `signal` is its number."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = number


@contextmanager
def awaited(say: Callable[[str], None]) -> Iterator[Callable[[], int | None]]:
    """Only notes the first of SIGNALS within the context; the second acts at once.

    Yields a function that returns the number of the signal that came, None for none. Python delivers signals to the main thread
    alone; in another thread nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        for other, handler in before.items():
            signal.signal(other, handler)
        say(f"{signal.Signals(number).name}: a checkpoint is written after this iteration (once more stops at once)")

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield lambda: came[0] if came else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def withheld() -> Iterator[None]:
    """Makes processes that are started within the context ignore Ctrl-C and SIGUSR1, which reach a whole process group."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS if number != signal.SIGTERM}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore(*_: int) -> None:
    """Ignores all SIGNALS, in a worker that its parent ends by other means."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
