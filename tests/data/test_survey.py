"""Reading several files at a time: results in order, few files in memory, and the same outcome."""

import threading

import numpy as np
import pytest
from PIL import Image

from nnvit.data.survey import Workers

from .conftest import BINARY, RGB, Workplace


def test_results_come_in_order_and_few_are_held() -> None:
    lock, running, most = threading.Lock(), set(), []

    def slow(item: int) -> int:
        with lock:
            running.add(item)
            most.append(len(running))
        threading.Event().wait(0.005 if item % 2 else 0.001)
        with lock:
            running.remove(item)
        return item * item

    assert list(Workers(3, progress=False).each(slow, range(40), "")) == [i * i for i in range(40)]
    assert 2 <= max(most) <= 3


def test_an_error_stops_what_has_not_begun() -> None:
    begun = []

    def fail(item: int) -> None:
        begun.append(item)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        list(Workers(2, progress=False).each(fail, range(100), ""))
    assert len(begun) <= 5


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_writes_the_same(place: Workplace, workers: int) -> None:
    for i in range(7):
        place.image(f"{i}.png", RGB + np.uint8(i))
        place.mask(f"{i}.png", np.roll(BINARY, i))
    place.run(workers=workers)
    for i in range(7):
        assert np.array_equal(Image.open(place.target / "imagesTr" / f"{i}_0000.png"), RGB + np.uint8(i))
        assert np.array_equal(place.label(str(i)), np.roll(BINARY, i) // 255)


def test_problems_come_in_the_order_of_the_files_whatever_the_workers(place: Workplace) -> None:
    for i in range(9):
        place.image(f"{i}.png", RGB[: 1 + i % 5])
        place.mask(f"{i}.png")
    said = place.refusal(workers=4)
    assert [said.index(f"image {i}.png") for i in range(9) if i != 5] == sorted(
        said.index(f"image {i}.png") for i in range(9) if i != 5
    )
