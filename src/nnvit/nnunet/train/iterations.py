"""Runs an epoch's iterations; Ctrl-C, SLURM's warnings and `kill` end it after an iteration, with its place kept."""

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any

from .meter import Meter

_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)  # Windows has no SIGUSR1
Outputs = list[dict[str, Any]]


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

    @staticmethod
    def withheld() -> _Handled:
        """Makes processes that are started within the context ignore Ctrl-C and SIGUSR1, which reach a whole process group."""
        return _Handled(signal.SIG_IGN, [number for number in _SIGNALS if number != signal.SIGTERM])

    @staticmethod
    def ignore(*_: int) -> None:
        """Ignores all signals, in a worker that its parent ends by other means."""
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def iterate(
    step: Callable[[dict], dict[str, Any]],
    batches: Iterator[dict],
    outputs: Outputs,
    total: int,
    *,
    signals: Signals,
    meter: Meter | None = None,
    after: Callable[[int], None],
) -> None:
    """Appends what `step` returns for each batch to `outputs`, until there are `total`. Raises Interrupted after a signal.

    meter: times the steps; after: is told how many are done.
    """
    while len(outputs) < total:
        start = time.perf_counter()
        signals.obey()
        try:
            batch = next(batches)
        except RuntimeError:
            signals.obey()  # it may have ended the workers too
            raise
        if meter is not None:
            meter.begin(time.perf_counter() - start)
        outputs.append(step(batch))
        if meter is not None:
            meter.end()
        after(len(outputs))
