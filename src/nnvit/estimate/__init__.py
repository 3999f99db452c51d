"""What a training will take, without a device to try it on: memory and time from fake tensors and published figures."""

from .trace import GIB, LEAST, Job, Need, job_of, largest_batch, need

__all__ = ["GIB", "LEAST", "Job", "Need", "job_of", "largest_batch", "need"]
