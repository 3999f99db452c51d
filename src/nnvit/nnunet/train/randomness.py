"""Seeds, saves and restores the random streams that a training draws from: Python's, numpy's and torch's."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed(*place: int) -> None:
    """Seeds all streams from these numbers, those of the devices included."""
    torch.manual_seed(_seed_on_the_cpu(place))


def states(device: torch.device) -> dict[str, Any]:
    """Returns the states of all streams, in types that `torch.load(weights_only=True)` accepts."""
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def restore(held: dict[str, Any], device: torch.device) -> None:
    """Restores what `states` returned; a GPU's stream only if there was a GPU then and is one now."""
    random.setstate(held["python"])
    name, keys, *rest = held["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(held["torch"])
    if held["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(held["cuda"], device)


@contextmanager
def apart(*place: int) -> Iterator[None]:
    """Seeds the CPU's streams from these numbers within the context, and restores them afterwards."""
    cpu = torch.device("cpu")
    held = states(cpu)
    _seed_on_the_cpu(place)
    try:
        yield
    finally:
        restore(held, cpu)


def _seed_on_the_cpu(place: tuple[int, ...]) -> int:
    state = int(np.random.SeedSequence(place).generate_state(1)[0])
    random.seed(state)
    np.random.seed(state)
    torch.default_generator.manual_seed(state)
    return state
