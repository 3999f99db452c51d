"""Devices by their makers' own figures, and what is assumed of them. Nothing here was measured on a GPU.

TFLOP/s: dense products in 16 bits with sums in fp32 on the matrix units, without structured sparsity, which doubles the
figure in print. Memory as `nvidia-smi` shows it, in whole units of 2^30 bytes, which is less than the maker prints where error
correction or the driver keep a part.
"""

import re
import time
from dataclasses import dataclass

import torch

from nnvit.errors import ConfigError

from .trace import Need

GIB = 2**30
GPU_SHARE = 0.35
"""Of the published rate that a training step is assumed to reach: transformers trained with care reach 0.3 to 0.5, the
convolutions of a head at full resolution far less, and a batch too small to fill the device least."""
CPU_SHARE = 0.6
"""Of the rate that this machine's own matrix product reaches. bench/results/step.json, on an AMD EPYC without matrix
instructions (bf16 2.15 times fp32), comes to: 0.66 in the step of a frozen ViT-S in bf16 (316 GFLOP, 1.205 s at 400 GFLOP/s),
0.61 with LoRA (504 GFLOP, 2.06 s at 401), 0.82 in stock's step in fp32 (316 GFLOP, 2.05 s at 188)."""
MATRIX_SHARE = 0.25
"""The same in bf16 on a CPU with matrix instructions, which leave all but the products behind: the frozen forward pass of a
ViT-S at 512 x 512 was measured at 0.26 on one. In fp32, which they do not touch, `CPU_SHARE` holds there too."""
MATRIX = 4.0
"""How many times fp32's rate bf16's is, at least, where there are matrix instructions: on paper AMX makes 16 times as many
products as AVX-512 in fp32, vector instructions for bf16 make 2 times as many."""
UNCERTAIN = 2.0
"""Factor by which a time may be off either way, until somebody has measured."""
LAUNCH = 1e-5
"""Seconds that python and CUDA take to start an operator, below which no GPU is faster; an assumption like the others."""
CONTEXT = GIB // 2
"""Bytes that CUDA, cuDNN and cuBLAS take before the first tensor."""
ALLOCATOR = 1.1
"""What torch's caching allocator reserves, and cuDNN's workspaces, against the tensors that are alive."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """memory: GiB, as nvidia-smi shows it. tflops: dense, 16 bits. bf16: whether it has bf16 matrix units, which
    `precision: auto` asks."""

    name: str
    memory: int
    tflops: float
    bf16: bool = True


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


def gpu_bytes(need: Need) -> int:
    """What a training takes of a GPU's memory: its tensors, what the allocator reserves beside them, and the context."""
    return int(need.alive * ALLOCATOR) + CONTEXT


def seconds(flops: float, rate: float, share: float) -> float:
    """Of so many FLOPs at a share of `rate` (FLOP/s)."""
    return flops / (rate * share)


def speed(device: torch.device, dtype: torch.dtype | None) -> tuple[float, float]:
    """FLOP/s of a matrix product on this machine in `dtype` (None: fp32), timed for a second, and a training's share of it."""
    if device.type != "cpu":
        return gemm_rate(device, dtype or torch.float32), GPU_SHARE
    fp32, bf16 = (gemm_rate(device, kind, wanted=0.5) for kind in (torch.float32, torch.bfloat16))
    return bf16 if dtype else fp32, cpu_share(dtype, bf16 / fp32)


def cpu_share(dtype: torch.dtype | None, bf16_over_fp32: float) -> float:
    """What a training in `dtype` reaches of a product's rate on a CPU, told apart by how much faster bf16 is there."""
    return MATRIX_SHARE if dtype and bf16_over_fp32 >= MATRIX else CPU_SHARE


def gemm_rate(device: torch.device, dtype: torch.dtype, wanted: float = 1.0) -> float:
    """FLOP/s that a square matrix product reaches here, now: the best of as many as `wanted` seconds hold.

    On a GPU a product of 1024 takes microseconds, less than its launch and the wait for it, so that there large ones are timed,
    several to a wait.
    """
    size, launches = (8192, 8) if device.type == "cuda" else (1024, 1)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best, begun = float("inf"), time.perf_counter()
    while time.perf_counter() - begun < wanted or best == float("inf"):
        start = time.perf_counter()
        for _ in range(launches):
            product = a @ b
        product[0, 0].item()  # which waits for a GPU
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 * launches / best


def parse_memory(text: str) -> int:
    """Bytes of `24G`, `24GiB`, `24GB` or `24000M`, all binary, as nvidia-smi counts. Raises ConfigError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([GM])(?:I?B)?\s*", text, re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise ConfigError(
            f"--gpu-memory {text} is no amount of memory; write it as nvidia-smi does: 24G or 24GiB, 24564M or 24564MiB."
        )
    return int(float(match[1]) * {"G": 2**30, "M": 2**20}[match[2].upper()])


def named(name: str) -> list[Device]:
    """The devices whose name begins with `name`, in any case. Raises ConfigError that lists them."""
    found = [
        device for device in DEVICES if device.name.lower().replace(" ", "").startswith(name.lower().replace(" ", ""))
    ]
    if not found:
        raise ConfigError(f"--device {name} is not known; use one of {', '.join(d.name for d in DEVICES)}, or this.")
    return found
