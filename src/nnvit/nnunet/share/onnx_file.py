"""A network as an ONNX file of one patch size, checked with onnxruntime against torch as it is written."""

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from nnvit.errors import ConfigError, WeightsError

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
LARGEST = 1e-3
"""Difference of logits above which the file is refused, in units of the largest logit (at least 1)."""

INSIDE = 1.8e9
"""Bytes of weights that one file takes: protobuf ends at 2 GiB. Larger ones get a second file, model.onnx.data."""


def require() -> None:
    """Raises ConfigError where a package is missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"--onnx needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not here. Install with: "
            'pip install "nnvit[onnx]".'
        )


def write(network: nn.Module, image: Tensor, path: Path, metadata: Mapping[str, str]) -> float:
    """Writes the network for images (any batch, C, H, W) of `image`'s size, input "image" and output "logits".

    metadata: entries of the file, names to strings. Returns the largest difference between onnxruntime's logits and torch's,
    for one image and for two. Raises WeightsError where that is above LARGEST of the logits; then nothing is left of the file.
    """
    network = network.eval()
    size = sum(tensor.nbytes for tensor in network.state_dict().values())
    # torch.export takes a batch of one for a constant
    example = torch.cat([image, image.flip(-1)])
    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it tells what it does not simplify
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
        assert program is not None
        program.model.metadata_props.update(metadata)
        program.save(path, external_data=size > INSIDE)
    worst, scale = _difference(network, example, path)
    if not worst <= LARGEST * scale:
        for file in path.parent.glob(f"{path.name}*"):
            file.unlink()
        raise WeightsError(
            f"onnxruntime's logits of {path.name} differ from torch's by {worst:.2g} (largest logit {scale:.3g}): the file"
            " is not the network, and was deleted. Leave --onnx out, and report the recipe."
        )
    return worst


def apart(expected: Tensor, got: Tensor) -> tuple[float, float]:
    """The largest difference of logits, and the unit in which it counts: the largest logit, at least 1. NaN stays NaN."""
    return float((expected - got).abs().max()), max(1.0, float(expected.abs().max()))


@torch.no_grad()
def _difference(network: nn.Module, example: Tensor, path: Path) -> tuple[float, float]:
    import onnxruntime  # type: ignore[import-untyped]

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected, got = [], []
    for batch in (example[:1], example):
        (logits,) = session.run(["logits"], {"image": batch.numpy()})
        expected.append(network(batch))
        got.append(torch.from_numpy(logits))
    return apart(torch.cat(expected), torch.cat(got))
