"""Which numbers a training step computes with, decided by asking the device."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from nnvit.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Precision:
    """dtype: of autocast, None for plain fp32. reason: why, for the user."""

    dtype: torch.dtype | None
    reason: str

    @property
    def name(self) -> str:
        """ "fp32", "bf16" or "fp16"."""
        return {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.dtype]

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """The context of a forward pass and its loss."""
        return torch.autocast(device.type, dtype=self.dtype) if self.dtype else nullcontext()


def choose(wanted: str, device: torch.device) -> Precision:
    """`training.precision` on a device: `stock` is nnU-Net's own rule, `auto` takes bf16 where the hardware has it."""
    if wanted == "fp16" and device.type != "cuda":
        raise ConfigError(
            f"training.precision=fp16 needs a CUDA device, whose gradients are scaled; on {device.type} use auto, bf16 or fp32."
        )
    if wanted in ("fp32", "bf16", "fp16"):
        dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[wanted]
        return Precision(dtype=dtype, reason="as the recipe says")
    stock = torch.float16 if device.type == "cuda" else None
    if wanted == "auto" and _has_bf16(device):
        return Precision(dtype=torch.bfloat16, reason=f"auto: this {device.type} has bf16 matrix instructions")
    why = "stock: nnU-Net's rule" if wanted == "stock" else f"auto: this {device.type} has no bf16 matrix instructions"
    return Precision(dtype=stock, reason=why)


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return False
