"""`nnvit estimate`: memory broken down, and time, on this machine and on GPUs by their makers' figures."""

from collections.abc import Sequence

import torch

from nnvit.estimate import Job, Need, devices, need
from nnvit.estimate.devices import GIB, Device

from .columns import table


def needs(job: Job, precision: torch.dtype | None, chosen: Sequence[Device], here: torch.device | None) -> list[str]:
    """Lines for one job.

    precision: what this machine would train in. chosen: GPUs of the table. here: this machine's device, None where it is
    not asked for; a second of matrix products is run on it.
    """
    lines = [f"a step on {job.batch} patches of {' x '.join(map(str, job.patch))}, {job.channels} channels"]
    wanted: dict[torch.dtype | None, Need] = {}
    if here is not None:
        wanted[precision] = need(job, precision)
        lines += [
            "",
            *_memory(job, wanted[precision], precision, here),
            "",
            *_here(job, wanted[precision], precision, here),
        ]
    kinds = {device.name: _dtype(job, device) for device in chosen}
    for dtype in dict.fromkeys(kinds.values()):
        if dtype not in wanted:
            wanted[dtype] = need(job, dtype, steps=2)
    if chosen:
        lines += ["", *_gpus(job, [(device, kinds[device.name], wanted[kinds[device.name]]) for device in chosen])]
    return lines


def shares(job: Job, taken: Need) -> dict[str, int]:
    """What the tensors of a step are, and their bytes."""
    return {
        "parameters and buffers": taken.parameters,
        f"states of {job.training.optimizer}{' and the running mean' if job.training.ema else ''}": taken.optimizer,
        "gradients": taken.gradients,
        "activations, 16-bit copies, batch": taken.activations,
    }


def _memory(job: Job, taken: Need, precision: torch.dtype | None, here: torch.device) -> list[str]:
    rows = shares(job, taken)
    if here.type == "cpu":
        total, beside = taken.on_cpu, "beside torch and nnU-Net themselves"
        rows |= {"kernels' own": taken.kernels, "holes in malloc's heap": taken.holes}
    else:
        total, beside = devices.gpu_bytes(taken), "with CUDA itself"
        rows |= {"allocator, cuDNN, CUDA (assumed)": total - taken.alive}
    return [
        f"peak memory on this machine's {here.type}, {_words(precision)}: {total / GIB:.2f} GiB {beside}",
        *table([f"  {name}", f"{size / GIB:.2f} GiB"] for name, size in rows.items()),
        "  (all at the moment when they come to the most; on fake tensors, nothing was allocated)",
    ]


def _here(job: Job, taken: Need, precision: torch.dtype | None, here: torch.device) -> list[str]:
    rate, share = devices.speed(here, precision)
    step, epoch = _times(job, taken, rate, share, devices.LAUNCH)
    return [
        f"time on this machine's {here.type}: {_span(step)} an iteration, {_span(epoch)} an epoch",
        f"  {taken.step_flops / 1e12:.2f} TFLOPs a step at {share:.0%} of {rate / 1e9:,.0f} GFLOP/s, which a matrix product in",
        f"  {_words(precision)} reached here just now; it may be off by a factor of {devices.UNCERTAIN:g} either way, and it",
        "  leaves out waiting for data: nnvit_run.json of one epoch says both",
    ]


def _gpus(job: Job, rows: Sequence[tuple[Device, torch.dtype | None, Need]]) -> list[str]:
    heading = ["GPU", "memory", "needed", "", "precision", "an iteration", "an epoch"]
    body = []
    for device, dtype, taken in rows:
        needed = devices.gpu_bytes(taken)
        rate = device.tflops * 1e12 if dtype else device.tflops * 1e12 / FP32_SLOWER
        step, epoch = _times(job, taken, rate, devices.GPU_SHARE, devices.LAUNCH)
        fits = "fits" if needed <= device.memory * GIB else "TOO MUCH"
        body.append(
            [
                device.name,
                f"{device.memory} GiB",
                f"{needed / GIB:.1f} GiB",
                fits,
                _words(dtype),
                _span(step) + (" *" if step == devices.LAUNCH * taken.operators else ""),
                _span(epoch),
            ]
        )
    return [
        *table([heading, *body]),
        f"  needed: tensors, {devices.ALLOCATOR - 1:.0%} for the allocator and cuDNN, {devices.CONTEXT / GIB:g} GiB for CUDA;",
        f"  time: {devices.GPU_SHARE:.0%} of the published dense rate, an assumption that may be off by a factor of "
        f"{devices.UNCERTAIN:g} either way, and at least {devices.LAUNCH * 1e6:.0f} µs for each operator;",
        "  *: that bound, for a network so small: faster GPUs do not help, larger batches do;",
        "  no figure of this table was measured on a GPU",
    ]


FP32_SLOWER = 8
"""Against 16 bits: from Volta to Hopper the published rate of plain fp32 is an eighth of it or less (A100: 312 and 19.5 TFLOP/s,
but torch lets convolutions use TF32, 156)."""


def _times(job: Job, taken: Need, rate: float, share: float, launch: float) -> tuple[float, float]:
    """Seconds of a training iteration, and of an epoch with its validation iterations.

    launch: seconds that every operator takes at least; a forward pass is about a third of a step's.
    """
    training = job.training
    step, forward = (devices.seconds(flops, rate, share) for flops in (taken.step_flops, taken.forward_flops))
    step, forward = max(step, launch * taken.operators), max(forward, launch * taken.operators / 3)
    return step, training.num_iterations_per_epoch * step + training.num_val_iterations_per_epoch * forward


def _dtype(job: Job, device: Device) -> torch.dtype | None:
    """What `training.precision` means there."""
    wanted = job.training.precision
    named = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16, "stock": torch.float16}
    return named[wanted] if wanted != "auto" else torch.bfloat16 if device.bf16 else torch.float16


def _words(dtype: torch.dtype | None) -> str:
    return {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]


def _span(seconds: float) -> str:
    if seconds < 0.1:
        return f"{seconds * 1000:.1f} ms"
    return (
        f"{seconds:.2g} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )
