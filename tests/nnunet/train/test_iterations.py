"""Signals, the split of an iteration's time, and the peak of memory; test_runs tests how the trainer uses them."""

import mmap
import signal
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from nnvit.nnunet.train.iterations import Interrupted, Meter, Signals

CPU = torch.device("cpu")
PAUSE = 0.02
SIZE = 2**28


def test_each_part_gets_the_time_that_was_spent_in_it() -> None:
    watch = Meter(CPU)
    for waited in (0.1, 0.5, 0.3):
        watch.begin(waited)
        time.sleep(PAUSE)
        watch.mark()
        watch.mark()
        time.sleep(2 * PAUSE)
        watch.end()
    seconds = watch.medians()
    assert list(seconds) == ["data_wait", "forward", "backward", "step"]
    assert seconds["data_wait"] == 0.3
    assert seconds["forward"] >= PAUSE
    assert seconds["backward"] < PAUSE
    assert seconds["step"] >= 2 * PAUSE


def test_a_train_step_that_marks_nothing_is_one_part() -> None:
    watch = Meter(CPU)
    watch.begin(0.0)
    time.sleep(PAUSE)
    watch.end()
    assert list(watch.medians()) == ["data_wait", "step"]
    assert watch.medians()["step"] >= PAUSE


def test_what_is_not_timed_leaves_nothing_behind() -> None:
    """A step outside an epoch, a new epoch, and a step that raised."""
    watch = Meter(CPU)
    watch.mark()
    assert watch.medians() == {}
    watch.begin(0.0)
    watch.mark()
    assert watch.medians() == {}
    watch.restart()
    watch.begin(1.0)
    watch.end()
    assert watch.medians()["data_wait"] == 1.0
    watch.restart()
    assert watch.medians() == {}


def test_the_peak_of_an_earlier_fold_is_forgotten() -> None:
    meter = Meter(CPU)
    meter.forget_peak()
    before = meter.peak()
    pages = mmap.mmap(-1, SIZE)  # from the kernel, where malloc might hand out what the process already holds
    np.frombuffer(pages, np.uint8)[:] = 1
    during = meter.peak()
    assert during - before > 0.9 * SIZE
    pages.close()
    assert meter.peak() >= during - 2**20  # a peak, not what is held now
    meter.forget_peak()
    assert meter.peak() - before < SIZE // 2


def test_workers_that_a_signal_ended_too_are_no_error_of_their_own() -> None:
    def dead() -> Iterator[dict]:
        raise RuntimeError("a worker died")
        yield {}

    signals = Signals(lambda line: None)
    with pytest.raises(RuntimeError, match="a worker died"):
        signals.next_batch(dead())

    def ended_by_a_signal() -> Iterator[dict]:
        signals.came = signal.SIGTERM
        raise RuntimeError("a worker died")
        yield {}

    with pytest.raises(Interrupted) as raised:
        signals.next_batch(ended_by_a_signal())
    assert raised.value.signal == signal.SIGTERM
