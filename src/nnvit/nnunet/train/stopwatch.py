"""Where an iteration's time goes: data wait, forward, backward, step. Nothing waits for the device to learn it."""

import time
from itertools import pairwise
from typing import Any

import numpy as np
import torch

PARTS = ("data_wait", "forward", "backward", "step")
"""Waiting for the batch; its way to the device, the network and the loss; their gradients; clipping, optimiser, gradient
scaler, running mean and reading the loss."""


class Stopwatch:
    """Of one epoch's iterations.

    A CPU computes when it is told to, and its clock says when. A GPU computes later: there the moments are events in its
    own queue, read once the epoch is over. Reading the loss, which ends every step of nnU-Net's, waits for the GPU, so
    that it is idle while the next batch is waited for, and the host's clock is right for that.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.restart()

    def restart(self) -> None:
        """A new epoch."""
        self._waits: list[float] = []
        self._moments: list[list[Any]] = []
        self._open: list[Any] | None = None

    def begin(self, waited: float) -> None:
        """A step starts; its batch was waited for so many seconds."""
        self._waits.append(waited)
        self._open = [self._now()]

    def mark(self) -> None:
        """The forward pass has ended, then the backward pass; a step that nobody times notes nothing."""
        if self._open is not None:
            self._open.append(self._now())

    def end(self) -> None:
        """The step has ended."""
        assert self._open is not None
        self._moments.append([*self._open, self._now()])
        self._open = None

    def medians(self) -> dict[str, float]:
        """Seconds of each part, over the epoch's iterations; empty where there was none.

        A trainer whose own train_step marks nothing has data_wait and step, which is then all the rest.
        """
        if not self._moments:
            return {}
        steps = np.array([self._lengths(moments) for moments in self._moments])
        parts = PARTS if steps.shape[1] == len(PARTS) - 1 else ("data_wait", "step")
        if len(parts) == 2:
            steps = steps.sum(axis=1, keepdims=True)
        waits = np.array(self._waits[: len(steps)])[:, None]
        return dict(zip(parts, np.median(np.hstack([waits, steps]), axis=0).tolist(), strict=True))

    def _now(self) -> Any:
        if self.device.type == "cpu":
            return time.perf_counter()
        event = torch.Event(device=self.device, enable_timing=True)
        event.record()
        return event

    def _lengths(self, moments: list[Any]) -> list[float]:
        """Seconds between neighbours."""
        if self.device.type == "cpu":
            return np.diff(moments).tolist()
        moments[-1].synchronize()
        return [a.elapsed_time(b) / 1000 for a, b in pairwise(moments)]
