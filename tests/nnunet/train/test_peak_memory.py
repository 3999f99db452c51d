"""The peak of a process's memory, from where it was asked to be forgotten."""

import mmap

import numpy as np
import torch

from nnvit.nnunet.train import peak_memory

CPU = torch.device("cpu")
SIZE = 2**28


def test_the_peak_of_an_earlier_fold_is_forgotten() -> None:
    peak_memory.forget_peak(CPU)
    before = peak_memory.peak(CPU)
    pages = mmap.mmap(-1, SIZE)  # from the kernel, where malloc might hand out what the process already holds
    np.frombuffer(pages, np.uint8)[:] = 1
    during = peak_memory.peak(CPU)
    assert during - before > 0.9 * SIZE
    pages.close()
    assert peak_memory.peak(CPU) >= during - 2**20  # a peak, not what is held now
    peak_memory.forget_peak(CPU)
    assert peak_memory.peak(CPU) - before < SIZE // 2
