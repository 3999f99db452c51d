"""A checkpoint of LoRA ViT-L + simple_pyramid + segformer: `checkpoint.frozen_weights=reference` against `embed`.

Nothing is trained: the size of a file does not depend on the values. The backbone is random; a file
holds it. AdamW's states are as large as after a step. Both files are read again into a network, and have to agree.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from harness import Row, main
from nnvit.model import Segmenter, arch_kwargs
from nnvit.model.training import build_optimizer
from nnvit.nnunet import checkpoint_file
from nnvit.recipe import loading
from nnvit.records.hashes import sha256_of
from nnvit.weights import external
from nnvit.weights.state_dicts import target_tensors

MB = 1e6


def optimizer_state(network: nn.Module, recipe: Any) -> dict[str, Any]:
    """Gives AdamW the state that it has after one step."""
    optimizer = build_optimizer(network, recipe.training)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return optimizer.state_dict()


def size(folder: Path, content: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    """Returns the bytes of a checkpoint as nnvit writes it, and the content read back from it."""
    path = folder / "checkpoint.pth"
    checkpoint_file.write(path, content)
    read = checkpoint_file.read(path)["network_weights"]
    found = path.stat().st_size
    path.unlink()
    return found, read


def rows() -> list[Row]:
    """Measures the weights alone, and the checkpoint that a training resumes from."""
    recipe = loading.load_recipe(["segformer_default"])
    with tempfile.TemporaryDirectory() as home:
        return _rows(recipe, Path(home))


def _rows(recipe: Any, home: Path) -> list[Row]:
    torch.manual_seed(0)
    network = Segmenter(3, 2, **arch_kwargs(recipe))
    base = home / "base.safetensors"
    save_file({name: t.contiguous() for name, t in target_tensors(network.backbone.model).items()}, base)
    weights = {"path": base.name, "sha256": sha256_of(base), "source": "file", "licence": "none, the values are random"}
    whole = network.state_dict()
    left = external.ExternalWeights.of(network, weights, str(base)).leave_out(whole)
    state = optimizer_state(network, recipe)
    trained = 4 * sum(p.numel() for p in network.parameters() if p.requires_grad)
    total = 4 * sum(p.numel() for p in network.parameters())
    found = []
    for work, extra, copies, bar in (("weights", {}, 1, 20), ("resumable", {"optimizer_state": state}, 3, 10)):
        theirs, full = size(home, {"network_weights": whole} | extra)
        ours, read = size(home, {"network_weights": left} | extra)
        external.forget()
        same = all(torch.equal(tensor, full[name]) for name, tensor in external.filled(read).items())
        bound = copies * trained / (total + (copies - 1) * trained)
        found.append(
            Row(
                work=f"checkpoint, {work}, LoRA ViT-L + simple_pyramid + segformer",
                reference="frozen weights embedded in fp32",
                ours=ours / MB,
                theirs=theirs / MB,
                unit="MB",
                ratio=theirs / ours,
                bar=bar,
                reached=theirs / ours >= bar,
                agreement=f"read again, all {len(full)} tensors are {'equal' if same else 'NOT EQUAL'} to the last bit",
                note=f"{ours / theirs:.2%} of the bytes; lower bound {bound:.2%}: {copies} x 4 bytes of each of "
                f"{trained // 4:,} trained parameters, of {total // 4:,}",
            )
        )
    return found


if __name__ == "__main__":
    main(__file__, rows, __doc__)
