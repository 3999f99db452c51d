"""`nnvit estimate`'s memory and time against training steps of nnvit's own trainer, each in a process of its own.

ViT-S/16 with simple_pyramid and segformer, ViT-B/16 with progressive upsampling; frozen, LoRA and in full; 512 x 512, batch 2,
`precision: auto`, on the CPU. The memory's one constant, `CPU_ALLOWANCE`, was chosen for these six trainings. The CPU's share of
a matrix product's rate was chosen for the steps of bench/step.py; the time is compared for a training that is none of them.
"""

import torch

from harness import CPU, Row, main
from nnvit import estimate
from nnvit.estimate import devices
from nnvit.model.precision import Precision
from nnvit.recipe import loading
from peak import peak

PATCH, BATCH, BAR = 512, 2, 0.15
NETWORKS = {
    "ViT-S/16, segformer": (
        "segformer_default",
        ["model.backbone=timm", "model.backbone_size=vit_small_patch16_224"],
    ),
    "ViT-B/16, progressive": ("vit_default", ["model.backbone=dinov3", "model.backbone_size=base"]),
}
TUNING = {
    "frozen": ["lora.enabled=false"],
    "lora": ["lora.enabled=true"],
    "full": ["lora.enabled=false", "model.freeze_backbone=false"],
}

TIMED = ("ViT-B/16, progressive", "full")


def estimated(recipe: str, overrides: list[str]) -> tuple[estimate.Need, torch.dtype | None]:
    """Returns what the recipe needs on this machine, and its dtype here."""
    loaded = loading.load_recipe([recipe], overrides)
    job = estimate.Job.of(loaded, channels=3, classes=2, patch=(PATCH, PATCH), batch=BATCH)
    dtype = Precision.choose(loaded.training.precision, CPU).dtype
    return job.need(dtype), dtype


def compared(network: str, tuning: str) -> list[Row]:
    """Returns estimate and measurement of one training: its memory, and for `TIMED` its time."""
    recipe, keys = NETWORKS[network]
    need, dtype = estimated(recipe, [*keys, *TUNING[tuning]])
    measured = peak("nnvit", recipe, [*keys, *TUNING[tuning]], PATCH, BATCH)
    found = [memory(f"{network}, {tuning}", need, dtype, measured["peak"])]
    if (network, tuning) == TIMED:
        found.append(time(f"{network}, {tuning}", need, dtype, measured["seconds"]))
    return found


def memory(training: str, need: estimate.Need, dtype: torch.dtype | None, measured: int) -> Row:
    """Returns the row of the peak memory, in bytes."""
    ratio = need.on_cpu / measured
    return Row(
        work=f"peak memory estimated, {training}",
        reference="measured",
        ours=need.on_cpu,
        theirs=measured,
        unit="B",
        ratio=ratio,
        bar=1.0,
        reached=abs(ratio - 1) <= BAR,
        note=f"the bar is {BAR:.0%} either way; {dtype or torch.float32}, of it tensors {need.tensors / 2**20:.0f} MiB, the "
        f"allowance {(need.on_cpu - need.tensors) / 2**20:.0f} MiB",
    )


def time(training: str, need: estimate.Need, dtype: torch.dtype | None, measured: float) -> Row:
    """Returns the row of a step's seconds, which `nnvit estimate` predicts from matrix products timed for a second."""
    speed = devices.Speed.here(CPU, dtype)
    said = speed.seconds(need.step_flops)
    return Row(
        work=f"seconds of a training step, estimated / measured, {training}",
        reference="measured",
        ours=said,
        theirs=measured,
        unit="s",
        ratio=said / measured,
        note=f"may be off by a factor of {devices.UNCERTAIN:g} either way; {need.step_flops / 1e9:.0f} GFLOP at "
        f"{speed.share:.0%} of {speed.rate / 1e9:.0f} GFLOP/s in {dtype or torch.float32}, of which the step reached "
        f"{need.step_flops / measured / speed.rate:.0%}",
    )


def rows() -> list[Row]:
    """Returns six rows of memory and one of time."""
    return [row for network in NETWORKS for tuning in TUNING for row in compared(network, tuning)]


if __name__ == "__main__":
    main(__file__, rows, __doc__)
