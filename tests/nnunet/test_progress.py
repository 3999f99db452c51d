"""Durations in words."""

import pytest

from nnvit.nnunet.progress import duration


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(42, "42 s"), (420, "7 min"), (7190, "2 h 00 min"), (11100, "3 h 05 min"), (187200, "2 d 04 h")],
)
def test_durations_are_said_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
