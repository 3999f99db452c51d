"""Times the parts of an iteration (data wait, forward, backward, step) without making the device wait."""

import time
from itertools import pairwise
from typing import Any

import numpy as np
import torch

PARTS = ("data_wait", "forward", "backward", "step")
"""data_wait: waiting for the batch. forward: copying it to the device, network and loss. backward: gradients. step: clipping,
optimiser, gradient scaler, running mean, and reading the loss."""


class Stopwatch:
    """Times the iterations of one epoch.

    On a CPU the clock is read at once. A GPU computes later than it is told to: there the moments are events in its queue, read
    once the epoch is over. Reading the loss ends every step of nnU-Net's and waits for the GPU; the GPU is then idle while the
    next batch is waited for, so that the host's clock is right for that part.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.restart()

    def restart(self) -> None:
        """Forgets the last epoch."""
        self._waits: list[float] = []
        self._moments: list[list[Any]] = []
        self._open: list[Any] | None = None

    def begin(self, waited: float) -> None:
        """Starts a step; waited: seconds that its batch was waited for."""
        self._waits.append(waited)
        self._open = [self._now()]

    def mark(self) -> None:
        """Notes the end of the forward pass, then of the backward pass; does nothing outside begin and end."""
        if self._open is not None:
            self._open.append(self._now())

    def end(self) -> None:
        """Ends the step."""
        assert self._open is not None
        self._moments.append([*self._open, self._now()])
        self._open = None

    def medians(self) -> dict[str, float]:
        """Returns the median seconds of each part over the epoch's iterations, {} where there was none.

        For a trainer whose own train_step marks nothing there are two parts, data_wait and step.
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
        """Returns the seconds between neighbouring moments."""
        if self.device.type == "cpu":
            return np.diff(moments).tolist()
        moments[-1].synchronize()
        return [a.elapsed_time(b) / 1000 for a, b in pairwise(moments)]
