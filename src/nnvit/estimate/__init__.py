"""Memory, FLOPs and time of a training before there is a device for it, from fake tensors and published figures."""

from .devices import GIB
from .fake_training import LEAST_BATCH, Job, Need, forward_flops

__all__ = ["GIB", "LEAST_BATCH", "Job", "Need", "forward_flops"]
