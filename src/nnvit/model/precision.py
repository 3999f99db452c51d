"""The dtype that a precision means: `training.precision` on this machine's device, or on a GPU that is elsewhere."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from nnvit.errors import ConfigError

_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Precision:
    """dtype: of autocast, None for fp32 throughout. reason: why it was chosen, for the user."""

    dtype: torch.dtype | None
    reason: str

    @property
    def name(self) -> str:
        """ "fp32", "bf16" or "fp16"."""
        return next(name for name, dtype in _DTYPES.items() if dtype == self.dtype)

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Returns the context of a forward pass and its loss."""
        return torch.autocast(device.type, dtype=self.dtype) if self.dtype else nullcontext()

    @classmethod
    def choose(cls, wanted: str, device: torch.device, *, has_bf16: bool | None = None) -> "Precision":
        """Returns what `training.precision` means on a device.

        `stock` is nnU-Net's rule, `auto` takes bf16 if the hardware has it. has_bf16: whether the device has bf16 matrix
        instructions; None asks this machine. Raises ConfigError for fp16 without CUDA.
        """
        if wanted == "fp16" and device.type != "cuda":
            raise ConfigError(
                f"training.precision=fp16 needs a CUDA device, because its gradients have to be scaled; on {device.type} "
                "use auto, bf16 or fp32."
            )
        if wanted in _DTYPES:
            return cls(dtype=_DTYPES[wanted], reason="as the recipe says")
        stock = torch.float16 if device.type == "cuda" else None
        if wanted == "stock":
            return cls(dtype=stock, reason="stock: nnU-Net's rule")
        if _has_bf16(device) if has_bf16 is None else has_bf16:
            return cls(dtype=torch.bfloat16, reason=f"auto: this {device.type} has bf16 matrix instructions")
        return cls(dtype=stock, reason=f"auto: this {device.type} has no bf16 matrix instructions")


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return False
