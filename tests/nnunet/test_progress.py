"""A progress bar, and durations in words."""

import pytest

from nnvit.nnunet.progress import bar, duration


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(42, "42 s"), (420, "7 min"), (7190, "2 h 00 min"), (11100, "3 h 05 min"), (187200, "2 d 04 h")],
)
def test_durations_are_said_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_hidden_bar_counts_and_estimates() -> None:
    with bar("title", 2, visible=False) as step:
        assert step()[0] == "1/2"
        assert step() == ("2/2", "ETA 0 s")
