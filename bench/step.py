"""Training steps through the real trainers, ours and stock nnU-Net's with the same network and weights, taken in turn; a ViT's
forward pass against the machine's matrix speed; and what our trainer costs around the network.

    python bench/step.py
"""

import os
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from io import StringIO
from itertools import repeat
from typing import Any

import torch
from torch._inductor import config
from torch.nn.functional import scaled_dot_product_attention

import trainers
from harness import Row, alternately, bound, device, gemm_peak, main, seconds, shares, timed
from nnvit import estimate
from nnvit.estimate import forward_flops
from nnvit.model.precision import Precision
from nnvit.nnunet.train.trainer import nnUNetTrainer_nnvit
from nnvit.registry import build_backbone

VIT_S = [
    "model.backbone=dinov3",
    "model.backbone_size=small",
    "model.weights=random",
]
TINY = [
    "model.backbone=tiny",
    "model.backbone_size=vit",
    "model.weights=random",
    "model.decoder_hidden_size=16",
    "model.neck_args.out_channels=16",
    "training.precision=stock",
]
FROZEN, LORA = "lora.enabled=false", "lora.enabled=true"
TAPS = [2, 5, 8, 11]
ITERATIONS = 30


def step_of(trainer: Any, batch: dict[str, Any]) -> Callable[[], object]:
    return lambda: trainer.train_step(batch)


def against_stock(work: str, keys: Sequence[str], bar: float) -> Row:
    """Our step of SegFormer's head on ViT-S, against that of stock nnU-Net with the same network and weights."""
    mine, theirs = (make("segformer_default", *keys) for make in (trainers.ours, trainers.stock))
    trainers.same_weights(mine, theirs)
    batch = trainers.batch_of(mine)
    agreement, forward = _agreement(mine, theirs, batch), _forward_seconds(mine, batch)
    times = alternately(step_of(mine, batch), step_of(theirs, batch), 5)
    job = estimate.Job.of(mine.recipe, channels=3, classes=2, patch=tuple(batch["data"].shape[2:]), batch=2)
    flops = job.need(mine.precision.dtype).step_flops
    note = (
        f"{mine.precision.name}; the step takes {times[0] / forward:.2f} times its own forward pass without gradients; "
        f"{bound(flops, mine.precision.dtype, times[1])}; of the step: {shares(step_of(mine, batch))}"
    )
    return timed(work, "stock nnUNetTrainer", times, bar, agreement=agreement, note=note, bf16=True)


def _agreement(mine: Any, theirs: Any, batch: dict[str, Any]) -> str:
    """Returns a sentence on how far the logits agree before any step."""
    data = batch["data"].to(device())
    with torch.no_grad():
        with mine.precision.autocast(device()):
            ours = mine.network.eval()(data)
        other = theirs.network.eval()(data)
    for trainer in (mine, theirs):
        trainer.network.train()
    difference = float((ours - other).abs().max() / other.std())
    return f"logits differ by at most {difference:.3f} of their standard deviation"


def _forward_seconds(trainer: Any, batch: dict[str, Any]) -> float:
    data = batch["data"].to(device())

    def run() -> None:
        with torch.no_grad(), trainer.precision.autocast(device()):
            trainer.network(data)

    return sorted(seconds(run) for _ in range(4))[1]


def forward_share() -> Row:
    """A frozen ViT-B's forward pass, as a share of what a large matrix product reaches in the same precision."""
    precision = Precision.choose("auto", device())
    backbone = build_backbone("dinov3", "base", TAPS, {}).to(device()).eval().requires_grad_(False)
    image = torch.rand(2, 3, 512, 512, device=device())
    flops = forward_flops(lambda: build_backbone("dinov3", "base", TAPS, {}), image.shape)

    def run() -> None:
        with torch.no_grad(), precision.autocast(device()):
            backbone(image)

    peak = gemm_peak(precision.dtype or torch.float32)
    taken = sorted(seconds(run) for _ in range(6))[2]
    share = flops / taken / peak
    return Row(
        work="frozen ViT-B forward, 512², batch 2, share of the GEMM peak",
        reference="machine",
        ours=flops / taken / 1e9,
        theirs=peak / 1e9,
        unit="GFLOP/s",
        ratio=share,
        bar=0.5,
        reached=share >= 0.5,
        note=f"{precision.name}, {flops / 1e9:.0f} GFLOPs in {taken:.3f} s; attention is counted",
    )


def attention() -> Row:
    """Times torch's fused attention in the precision of `auto` and in fp32: 16 bits speed it up less than a matrix product."""
    dtype = Precision.choose("auto", device()).dtype or torch.float32
    heads, tokens, width = 12, 1029, 64  # of a ViT-S at 512 x 512, both images of the batch
    wide = [torch.randn(heads, tokens, width, device=device())[None] for _ in range(3)]
    narrow = [part.to(dtype) for part in wide]

    def run(parts: list[torch.Tensor]) -> Callable[[], object]:
        return lambda: [scaled_dot_product_attention(*parts) for _ in range(12)]

    times = alternately(run(narrow), run(wide))
    rate = 12 * 4 * heads * tokens**2 * width / times[0]
    note = f"{rate / 1e9:.0f} GFLOP/s, where a matrix product reaches {gemm_peak(dtype) / 1e9:.0f}"
    name = str(dtype).removeprefix("torch.")
    return timed(f"torch's fused attention, 12 blocks of ViT-S, 512², batch 2, {name}", "fp32", times, note=note)


def unet() -> Row:
    """The base plans' own network through our trainer and through stock nnU-Net's: the ratio is 1 if ours costs nothing."""
    mine, theirs = trainers.ours("unet", patch=256), trainers.stock("unet", patch=256, deep_supervision=True)
    trainers.same_weights(mine, theirs)
    batch = trainers.batch_of(mine)
    times = alternately(step_of(mine, batch), step_of(theirs, batch), 15)
    row = timed("recipe unet, training step, 256², batch 2", "stock nnUNetTrainer", times, 1 / 1.02)
    return row


def compiled() -> Row:
    """Measures what torch.compile gains for a frozen ViT-S, and how long the first pass takes."""
    precision, backbone = (
        Precision.choose("auto", device()),
        build_backbone("dinov3", "small", TAPS, {}).to(device()).eval(),
    )
    image = torch.rand(2, 3, 512, 512, device=device())
    fast = torch.compile(backbone)

    def run(network: Any) -> Callable[[], None]:
        def once() -> None:
            with torch.no_grad(), precision.autocast(device()):
                network(image)

        return once

    with config.patch(force_disable_caches=True):
        spent = seconds(run(fast))
    times = alternately(run(fast), run(backbone))
    return timed(
        "frozen ViT-S forward, 512², batch 2, under torch.compile",
        "not compiled",
        times,
        note=f"{precision.name}; compiling takes {spent:.0f} s, and again for each size; nnvit leaves it to nnU-Net's switch",
    )


def epoch_of(trainer: Any, batch: dict[str, Any]) -> Callable[[], object]:
    """The training iterations of an epoch, by the loop of the trainer's own run_training."""
    trainer.dataloader_train, trainer.num_iterations_per_epoch = repeat(batch), ITERATIONS
    if isinstance(trainer, nnUNetTrainer_nnvit):
        return lambda: (setattr(trainer, "outputs", []), trainer._train_epoch())

    def stock() -> None:
        trainer.on_train_epoch_start()
        trainer.on_train_epoch_end([trainer.train_step(next(trainer.dataloader_train)) for _ in range(ITERATIONS)])

    return stock


def overhead() -> Row:
    """Milliseconds that our trainer adds to an iteration, measured with a network that takes hardly any time."""
    keys = [*TINY, FROZEN]
    mine, theirs = (make("segformer_default", *keys, patch=64) for make in (trainers.ours, trainers.stock))
    trainers.same_weights(mine, theirs)
    batch = trainers.batch_of(mine)
    with redirect_stdout(StringIO()):  # what nnU-Net prints for each epoch
        ours, other, _ = alternately(epoch_of(mine, batch), epoch_of(theirs, batch), 9)
    ours, other = ours / ITERATIONS, other / ITERATIONS
    added = 1000 * (ours - other)
    return Row(
        work="tiny network, what our trainer adds to an iteration",
        reference="stock nnUNetTrainer",
        ours=1000 * ours,
        theirs=1000 * other,
        unit="ms",
        ratio=other / ours,
        reached=added <= 5,
        note=f"{added:+.2f} ms an iteration, of 5 allowed: the loop of run_training, {ITERATIONS} iterations",
    )


def rows() -> list[Row]:
    """Measures all rows."""
    torch.set_num_threads(os.cpu_count() or 1)
    with trainers.folders():
        found = [
            against_stock("frozen ViT-S + segformer, training step, 512², batch 2", [*VIT_S, FROZEN], 3),
            against_stock("LoRA ViT-S + segformer, training step, 512², batch 2", [*VIT_S, LORA], 2.5),
            unet(),
            overhead(),
        ]
    return [*found, forward_share(), attention(), compiled()]


if __name__ == "__main__":
    main(__file__, rows, __doc__)
