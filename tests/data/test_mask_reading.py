"""The spellings of a stored value that a user may give, and how values are told apart."""

import numpy as np
import pytest

from nnvit.data.mask_reading import LabelValues
from nnvit.data.survey import _count


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("0", 0),
        ("255", 255),
        ("#ff8000", (255, 128, 0)),
        ("#FF8000", (255, 128, 0)),
        ("255,128,0", (255, 128, 0)),
        ("255, 128, 0", (255, 128, 0)),
        ("256,0,0", None),
        ("1,2", None),
        ("1,2,3,4", None),
        ("1,,2,3", None),
        ("#ff80", None),
        ("#gg0000", None),
        ("-1", None),
        ("1.5", None),
        ("", None),
    ],
)
def test_values_and_colours_are_parsed(text: str, stored: object) -> None:
    assert LabelValues.parse_stored(text) == stored


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, ">u2", np.int32, np.uint64])
def test_values_are_counted_in_any_type(dtype: str) -> None:
    assert _count(np.array([[0, 7, 7], [0, 0, 100]], dtype)) == {0: 3, 7: 2, 100: 1}


def test_negative_and_large_values_are_counted() -> None:
    assert _count(np.array([-1, 0xFF0000, 0xFF0000])) == {-1: 1, 0xFF0000: 2}


def test_the_background_may_be_any_value() -> None:
    mask = np.array([[0xFFFFFF, 5], [9, 0xFFFFFF]])
    values = LabelValues(stored={"a": 9, "b": 5}, background=0xFFFFFF, colours=True)
    assert values.numbers == {"background": 0, "a": 1, "b": 2}
    labels = values.relabel(mask)
    assert labels.dtype == np.uint8
    assert labels.tolist() == [[0, 2], [1, 0]]
