"""What a training needs, before there is a device for it: memory, FLOPs and time, from fake tensors and published figures."""

from .devices import GIB
from .fake_training import LEAST_BATCH, Job, Need, job_of, largest_batch, need

__all__ = ["GIB", "LEAST_BATCH", "Job", "Need", "job_of", "largest_batch", "need"]
