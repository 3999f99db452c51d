"""The parts of an iteration's time; the trainer's own use of the stopwatch is tested in test_runs."""

import time

import torch

from nnvit.nnunet.train.stopwatch import Stopwatch

CPU = torch.device("cpu")
PAUSE = 0.02


def test_each_part_gets_the_time_that_was_spent_in_it() -> None:
    watch = Stopwatch(CPU)
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
    watch = Stopwatch(CPU)
    watch.begin(0.0)
    time.sleep(PAUSE)
    watch.end()
    assert list(watch.medians()) == ["data_wait", "step"]
    assert watch.medians()["step"] >= PAUSE


def test_what_is_not_timed_leaves_nothing_behind() -> None:
    """A step outside an epoch, a new epoch, and a step that raised."""
    watch = Stopwatch(CPU)
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
