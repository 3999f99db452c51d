"""GPUs by their makers' figures, and the speed of a training step on them and on this machine.

Nothing here was measured on a GPU. TFLOP/s: dense products in 16 bits with sums in fp32 on the matrix units, without structured
sparsity, which doubles the figure in print. Memory as `nvidia-smi` shows it, in whole GiB, which is less than the maker prints if
error correction or the driver keep a part.
"""

import re
import time
from dataclasses import dataclass

import torch

from nnvit.errors import ConfigError

GIB = 2**30
LAUNCH = 1e-5
"""Seconds that Python and CUDA take to start an operator, an assumption: no device is faster than this."""
UNCERTAIN = 2.0
"""Factor by which an estimated time may be off, either way."""
_GPU_SHARE = 0.35
"""Share of the published rate that a training step is assumed to reach: transformers trained with care reach 0.3 to 0.5, the
convolutions of a head at full resolution far less, and a batch too small to fill the device least."""
_CPU_SHARE = 0.6
"""Share of the rate that this machine's own matrix product reaches. bench/results/step.json, on an AMD EPYC without matrix
instructions (bf16 2.15 times fp32), gives: 0.66 in the step of a frozen ViT-S in bf16 (316 GFLOP, 1.205 s at 400 GFLOP/s),
0.61 with LoRA (504 GFLOP, 2.06 s at 401), 0.82 in stock's step in fp32 (316 GFLOP, 2.05 s at 188)."""
_MATRIX_SHARE = 0.25
"""The same in bf16 on a CPU with matrix instructions, which speed up the products alone: the frozen forward pass of a ViT-S at
512 x 512 was measured at 0.26 on one. In fp32, which they do not touch, `_CPU_SHARE` holds there too."""
_MATRIX_SPEEDUP = 4.0
"""Least ratio of bf16's rate to fp32's that shows matrix instructions: on paper AMX makes 16 times as many products as AVX-512
in fp32, vector instructions for bf16 twice as many."""
_FP32_SLOWDOWN = 8
"""Ratio of a GPU's rate in 16 bits to that in fp32: from Volta to Hopper the published rate of plain fp32 is an eighth or less
(A100: 312 and 19.5 TFLOP/s, but torch lets convolutions use TF32, 156)."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """The speed of a device. rate: FLOP/s of a matrix product; share: the part of it that a training step reaches."""

    rate: float
    share: float

    @classmethod
    def here(cls, device: torch.device, dtype: torch.dtype | None) -> "Speed":
        """Times matrix products in `dtype` (None: fp32) on this machine for a second; returns the rate and a training's share."""
        if device.type != "cpu":
            return cls(rate=_gemm_rate(device, dtype or torch.float32), share=_GPU_SHARE)
        fp32, bf16 = (_gemm_rate(device, kind, wanted=0.5) for kind in (torch.float32, torch.bfloat16))
        return cls(rate=bf16 if dtype else fp32, share=_cpu_share(dtype, bf16 / fp32))

    def seconds(self, flops: float, operators: float = 0) -> float:
        """Returns the time that the FLOPs take, at least `LAUNCH` for each operator."""
        return max(flops / (self.rate * self.share), LAUNCH * operators)


@dataclass(frozen=True, kw_only=True)
class Device:
    """A GPU. memory: GiB, as nvidia-smi shows it. tflops: dense, 16 bits. bf16: True if it has bf16 matrix units."""

    name: str
    memory: int
    tflops: float
    bf16: bool = True

    @staticmethod
    def named(name: str) -> "list[Device]":
        """Returns the devices whose name begins with `name`, in any case. Raises ConfigError with the known names."""
        wanted = name.lower().replace(" ", "")
        found = [device for device in DEVICES if device.name.lower().replace(" ", "").startswith(wanted)]
        if not found:
            raise ConfigError(
                f"--device {name} is not known; use one of {', '.join(d.name for d in DEVICES)}, or this."
            )
        return found

    def speed(self, dtype: torch.dtype | None) -> Speed:
        """Returns the published rate in `dtype` (None: fp32) and the assumed share."""
        return Speed(rate=self.tflops * 1e12 / (1 if dtype else _FP32_SLOWDOWN), share=_GPU_SHARE)


DEVICES = (
    # NVIDIA T4 datasheet (2019): 65 TFLOPS FP16, 16 GB, of which nvidia-smi shows 15 GiB
    Device(name="T4", memory=15, tflops=65, bf16=False),
    # NVIDIA V100 datasheet (2020), SXM2: 125 TFLOPS deep learning, 16 or 32 GB
    Device(name="V100", memory=32, tflops=125, bf16=False),
    # NVIDIA Ampere GA102 whitepaper, table of GeForce RTX 3090: 71 TFLOPS FP16 with FP32 accumulate, 24 GB
    Device(name="RTX 3090", memory=24, tflops=71),
    # NVIDIA Ada GPU architecture whitepaper, GeForce RTX 4090: 165.2 TFLOPS FP16 with FP32 accumulate, 24 GB
    Device(name="RTX 4090", memory=24, tflops=165.2),
    # NVIDIA A40 datasheet: 149.7 TFLOPS BF16, 48 GB, of which nvidia-smi shows 45 GiB
    Device(name="A40", memory=45, tflops=149.7),
    # NVIDIA L40S datasheet: 362.05 TFLOPS BF16, 48 GB, of which nvidia-smi shows 45 GiB
    Device(name="L40S", memory=45, tflops=362.05),
    # NVIDIA A100 datasheet: 312 TFLOPS BF16, 40 or 80 GB
    Device(name="A100 40GB", memory=40, tflops=312),
    Device(name="A100 80GB", memory=80, tflops=312),
    # NVIDIA H100 datasheet, SXM: 1,979 TFLOPS BF16 with sparsity, so 989.5 dense; 80 GB, of which nvidia-smi shows 79 GiB
    Device(name="H100", memory=79, tflops=989.5),
)


def _cpu_share(dtype: torch.dtype | None, bf16_over_fp32: float) -> float:
    """Returns a training's share of a matrix product's rate on a CPU, whose bf16 speed-up shows matrix instructions."""
    return _MATRIX_SHARE if dtype and bf16_over_fp32 >= _MATRIX_SPEEDUP else _CPU_SHARE


def _gemm_rate(device: torch.device, dtype: torch.dtype, wanted: float = 1.0) -> float:
    """Returns the FLOP/s of the fastest square matrix product within `wanted` seconds.

    On a GPU a product of 1024 takes microseconds, less than its launch and the wait for it: there, large ones are timed, several
    per wait.
    """
    size, launches = (8192, 8) if device.type == "cuda" else (1024, 1)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best, begun = float("inf"), time.perf_counter()
    while time.perf_counter() - begun < wanted or best == float("inf"):
        start = time.perf_counter()
        for _ in range(launches):
            product = a @ b
        product[0, 0].item()  # waits for the GPU
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 * launches / best


def parse_memory(text: str) -> int:
    """Returns the bytes of `24G`, `24GiB`, `24GB` or `24000M`, all binary, as nvidia-smi counts. Raises ConfigError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([GM])(?:I?B)?\s*", text, re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise ConfigError(
            f"--gpu-memory {text} is not an amount of memory; write it as nvidia-smi does: 24G or 24GiB, 24564M or 24564MiB."
        )
    return int(float(match[1]) * {"G": 2**30, "M": 2**20}[match[2].upper()])
