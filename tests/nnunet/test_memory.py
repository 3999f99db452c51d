"""The peak of a process's memory, from where it was asked to be forgotten."""

import torch

from nnvit.nnunet import memory

CPU = torch.device("cpu")


def test_the_peak_of_an_earlier_fold_is_forgotten() -> None:
    memory.forget_peak(CPU)
    before = memory.peak(CPU)
    held = torch.ones(2**28, dtype=torch.uint8)
    during = memory.peak(CPU)
    assert during - before > 0.9 * len(held)
    del held
    assert memory.peak(CPU) >= during - 2**20  # a peak, not what is held now
    memory.forget_peak(CPU)
    assert memory.peak(CPU) - before < 2**27
