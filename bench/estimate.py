"""`nnvit estimate`'s peak memory against what training steps of nnvit's own trainer take, each in a process of its own.

ViT-S/16 with simple_pyramid and segformer, ViT-B/16 with progressive upsampling; frozen, LoRA and in full; 512 x 512, batch 2,
`precision: auto`, on the CPU. No constant of the estimate was fitted to these or to any networks.
"""

import torch

from harness import CPU, Row, main
from nnvit import config, estimate
from nnvit.nnunet import precision
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


def estimated(recipe: str, overrides: list[str]) -> tuple[estimate.Need, torch.dtype | None]:
    """What the recipe takes on this machine."""
    loaded = config.load_recipe([recipe], overrides)
    job = estimate.job_of(loaded, channels=3, classes=2, patch=(PATCH, PATCH), batch=BATCH)
    dtype = precision.choose(loaded.training.precision, CPU).dtype
    return estimate.need(job, dtype), dtype


def row(network: str, tuning: str) -> Row:
    """Estimate and measurement of one training."""
    recipe, keys = NETWORKS[network]
    need, dtype = estimated(recipe, [*keys, *TUNING[tuning]])
    measured = peak("nnvit", recipe, [*keys, *TUNING[tuning]], PATCH, BATCH)["peak"]
    ratio = need.on_cpu / measured
    return Row(
        work=f"peak memory estimated, {network}, {tuning}",
        reference="measured",
        ours=need.on_cpu,
        theirs=measured,
        unit="B",
        ratio=ratio,
        bar=1.0,
        reached=abs(ratio - 1) <= BAR,
        note=f"the bar is {BAR:.0%} either way; {dtype or torch.float32}, of it tensors {need.alive / 2**20:.0f} MiB, kernels "
        f"{need.kernels / 2**20:.0f} MiB, holes in malloc's heap {need.holes / 2**20:.0f} MiB",
    )


def rows() -> list[Row]:
    """Six."""
    return [row(network, tuning) for network in NETWORKS for tuning in TUNING]


if __name__ == "__main__":
    main(__file__, rows, __doc__)
