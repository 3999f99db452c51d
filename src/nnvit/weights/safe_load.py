"""The one door for checkpoints and weight files: nothing that they name is ever executed."""

import re
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import _reconstruct, scalar
from safetensors.torch import load_file

from nnvit.errors import WeightsError

# Numbers, times and strings: an object array may hold anything.
_DTYPES = sorted({type(np.dtype(code)) for code in np.typecodes["All"] if code != "O"}, key=str)

# What nnU-Net's logs (numpy scalars), random states (numpy arrays) and published training checkpoints (their
# arguments) hold besides tensors. Both spellings of numpy's module: files outlive numpy 1.
_ALLOWED: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    np.dtype,
    np.ndarray,
    Namespace,
    *_DTYPES,
    *((function, f"numpy.{core}.multiarray.{function.__name__}")
      for core in ("core", "_core") for function in (scalar, _reconstruct)),
]  # fmt: skip


def safe_load(path: str | Path, map_location: str = "cpu", suffix: str = "") -> Any:
    """What a .safetensors, .pth, .pt, .bin or nnU-Net checkpoint file holds, without running any code in it.

    suffix: to read it as, instead of its own.
    Raises WeightsError for a file that is absent, damaged, no checkpoint, or that names a class or function
    outside the allow-list; there is no way to switch the allow-list off.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path} is not a file.")
    try:
        if (suffix or path.suffix) == ".safetensors":
            return load_file(path, device=map_location)
        with torch.serialization.safe_globals(_ALLOWED):
            return torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # the readers raise half a dozen unrelated types
        raise WeightsError(_refusal(path, error)) from error


def _refusal(path: Path, error: Exception) -> str:
    offender = re.search(r"GLOBAL ([\w.]+)", str(error))
    if offender:
        return (
            f"{path} asks to run '{offender[1]}' while it is read; nnvit reads only tensors, numbers and"
            " plain containers. If you trust the file, save its state dict alone where it was made"
            " (torch.save(model.state_dict(), path), or safetensors) and use that."
        )
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    reason = reason.partition(". In PyTorch 2.6")[0]  # which goes on to advise a way to run what is in it
    return (
        f"{path} cannot be read as a checkpoint: it is damaged, cut short or of another kind ({reason})."
        " Compare its size and hash with the publisher's and fetch it again."
    )
