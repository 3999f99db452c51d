"""`nnvit estimate`: a training's memory by parts, and its time, on this machine and on GPUs by their makers' figures."""

from collections.abc import Sequence

import torch

from nnvit.estimate import GIB, Job, Need
from nnvit.estimate.devices import LAUNCH, UNCERTAIN, Device, Speed
from nnvit.estimate.fake_training import CPU_ALLOWANCE, CPU_OFF, GPU_ALLOWANCE, GPU_CONTEXT
from nnvit.model.precision import Precision

from .columns import table


def needs(job: Job, precision: Precision | None, gpus: Sequence[Device], here: torch.device | None) -> list[str]:
    """Returns the lines for one job.

    precision: that of a training on this machine. here: this machine's device, None to leave it out; matrix products are timed
    on it for a second.
    """
    lines = [f"a step on {job.batch} patches of {' x '.join(map(str, job.patch))}, {job.channels} channels"]
    if here is not None and precision is not None:
        found = job.need(precision.dtype)
        lines += ["", *_memory_here(job, found, precision, here), "", *_time_here(job, found, precision, here)]
    if gpus:
        lines += ["", *_gpus(job, gpus)]
    return lines


def tensor_rows(job: Job, found: Need) -> list[list[str]]:
    """Returns the kinds of tensors in a step, each with its size."""
    sizes = {
        "parameters and buffers": found.parameters,
        f"states of {job.training.optimizer}{' and the running mean' if job.training.ema else ''}": found.optimizer,
        "gradients": found.gradients,
        "activations, 16-bit copies, batch": found.activations,
    }
    return [_size_row(name, size) for name, size in sizes.items()]


def _size_row(name: str, size: int) -> list[str]:
    return [f"  {name}", f"{size / GIB:.2f} GiB"]


def _memory_here(job: Job, found: Need, precision: Precision, here: torch.device) -> list[str]:
    if here.type == "cpu":
        total, beside, other = found.on_cpu, "beside torch and nnU-Net themselves", "allocator and kernels (allowance)"
        how = [f"  (allowance: {CPU_ALLOWANCE:.0%} of the activations; estimates for six trainings were {CPU_OFF})"]
    else:
        total, beside, other, how = found.on_gpu, "with CUDA itself", "allocator, cuDNN, CUDA (assumed)", []
    return [
        f"peak memory on this machine's {here.type}, {precision.name}: {total / GIB:.2f} GiB {beside}",
        *table([*tensor_rows(job, found), _size_row(other, total - found.tensors)]),
        "  (all at the moment of most memory; from fake tensors, nothing was allocated)",
        *how,
    ]


def _time_here(job: Job, found: Need, precision: Precision, here: torch.device) -> list[str]:
    speed = Speed.here(here, precision.dtype)
    step, epoch = job.seconds(found, speed)
    return [
        f"time on this machine's {here.type}: {_duration(step)} an iteration, {_duration(epoch)} an epoch",
        f"  {found.step_flops / 1e12:.2f} TFLOPs a step, at {speed.share:.0%} of {speed.rate / 1e9:,.0f} GFLOP/s, which a matrix",
        f"  product in {precision.name} reached here just now; it may be off by a factor of {UNCERTAIN:g} either way and does",
        "  not include waiting for data: nnvit_run.json has both after one epoch",
    ]


def _gpus(job: Job, gpus: Sequence[Device]) -> list[str]:
    rows, found = [["GPU", "memory", "needed", "", "precision", "an iteration", "an epoch"]], {}
    for gpu in gpus:
        precision = Precision.choose(job.training.precision, torch.device("cuda"), has_bf16=gpu.bf16)
        half = precision.dtype is not None  # which of the two kinds of 16 bits makes no difference to what is needed
        if half not in found:
            found[half] = job.need(precision.dtype)
        rows.append(_gpu_row(job, found[half], gpu, precision))
    return [
        *table(rows),
        f"  needed: tensors, {GPU_ALLOWANCE:.0%} for the allocator and cuDNN, {GPU_CONTEXT / GIB:g} GiB for CUDA;",
        f"  time: {gpus[0].speed(None).share:.0%} of the published dense rate, an assumption that may be off by a factor of "
        f"{UNCERTAIN:g} either way, and at least {LAUNCH * 1e6:.0f} µs for each operator;",
        "  *: that bound, for a network so small: faster GPUs do not help, larger batches do;",
        "  no figure of this table was measured on a GPU",
    ]


def _gpu_row(job: Job, found: Need, gpu: Device, precision: Precision) -> list[str]:
    step, epoch = job.seconds(found, gpu.speed(precision.dtype))
    return [
        gpu.name,
        f"{gpu.memory} GiB",
        f"{found.on_gpu / GIB:.1f} GiB",
        "fits" if found.on_gpu <= gpu.memory * GIB else "TOO MUCH",
        precision.name,
        _duration(step) + (" *" if step == LAUNCH * found.operators else ""),
        _duration(epoch),
    ]


def _duration(seconds: float) -> str:
    if seconds < 0.1:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
