"""Points that a reviewer would raise: pretraining without a random-init twin, a weak baseline, a single seed."""

from collections.abc import Sequence
from typing import Any

from nnvit.compare.inputs.arms import Arm
from nnvit.compare.inputs.training_records import Fold, Run

GIB = 2**30
RESENC = {"M": 8, "L": 24, "XL": 40}
"""nnU-Net's ResEnc presets and the GPU memory in GB that they are planned for."""
SEEDS = 3
TRANSFERRED = "-pretrained_weights"
"""The source of the weights in nnvit_run.json where a checkpoint was given, which the recipe does not name."""


def call_outs(arms: Sequence[Arm], baseline: str | None) -> list[str]:
    """Returns sentences for the report, each with what to do."""
    notes = [*_twins(arms), *_weak_baseline(arms, baseline)]
    runs = {arm.name: min(sum(run.dataset == name for run in arm.runs) for name in arm.datasets) for arm in arms}
    if few := [f"{name} ({count})" for name, count in runs.items() if count < SEEDS]:
        notes.append(f"trainings per fold below {SEEDS}, which a headline claim needs: {', '.join(few)}.")
    return notes


def _twins(arms: Sequence[Arm]) -> list[str]:
    """Notes on pretrained arms that lack a random-init twin that is tuned alike, or one that is trained in full."""
    runs = {arm.name: arm.runs[0] for arm in arms if arm.runs[0].recipe}
    sources = {arm.name: {fold.recorded("weights", "source") for fold in arm.trained} for arm in arms}
    transferred = {name for name in runs if TRANSFERRED in sources[name]}
    random = [run for name, run in runs.items() if name not in transferred and not _is_pretrained(run)]
    notes = []
    for name, run in runs.items():
        if run in random:
            continue
        others = [other for other in random if _network(other) == _network(run)]
        alike = any(_training(other) == _training(run) for other in others)
        missing = [] if alike else [f"tuned alike ({run.tuning})"]
        if not (alike and run.tuning == "full") and all(other.tuning != "full" for other in others):
            missing.append("trained in full")
        if missing:
            without = f" without {TRANSFERRED}" if name in transferred else ""
            keys = ["model.weights=random"] if _is_pretrained(run) else []
            keys += ["lora.enabled=false model.freeze_backbone=false"] if alike else []
            hint = without + (f" with {' '.join(keys)}" if keys else "")
            notes.append(
                f"{name} is pretrained and has no random-init twin {' and none '.join(missing)}: what its pretraining did "
                f"cannot be told from what its architecture did. Train one{hint}."
            )
    return notes


def _is_pretrained(run: Run) -> bool:
    """True if the recipe starts from weights that were trained on something else."""
    model = run.recipe.get("model", {})
    return model.get("head", "plans") != "plans" and model.get("weights") not in (None, "random")


def _network(run: Run) -> dict[str, Any]:
    other = {"weights", "freeze_backbone", "input_norm"}
    return {key: value for key, value in run.recipe["model"].items() if key not in other}


def _training(run: Run) -> tuple[Any, ...]:
    other = {"seed", "save_every", "save_every_iterations"}
    settings = {key: value for key, value in run.training.items() if key not in other}
    return settings, run.recipe["model"].get("freeze_backbone"), run.recipe.get("lora")


def _weak_baseline(arms: Sequence[Arm], baseline: str | None) -> list[str]:
    """A note on a baseline weaker than the ResEnc preset of like memory (nnU-Net Revisited, arXiv 2404.09556)."""
    classes = {arm.name: arm.trained[0].network_class for arm in arms}
    nets = {name: found for name, found in classes.items() if found and "UNet" in found}
    if not nets:
        text = (
            "no arm is one of nnU-Net's own networks: an architecture is compared against the ResEnc preset of like memory "
            "(`nnUNetv2_plan_experiment -pl nnUNetPlannerResEncM`)."
        )
        return [text] if any(classes.values()) else []
    preset = _preset_for([fold for arm in arms if arm.name not in nets for fold in arm.trained])
    residual = [arm for arm in arms if nets.get(arm.name, "").startswith("ResidualEncoder")]
    names = [arm.name for arm in residual]
    if not residual or (baseline in nets and baseline not in names):
        weak = baseline if baseline in nets else next(iter(nets))
        return [
            f"the baseline {weak} is a {nets[weak]}, weaker than nnU-Net's ResEnc{preset} preset of like memory; plan that with "
            f"`nnUNetv2_plan_experiment -pl nnUNetPlannerResEnc{preset}` and add it as an arm."
        ]
    held = [size for arm in residual if (size := _preset_of(arm.runs[0]))]
    sizes = list(RESENC)
    largest = max(held, key=sizes.index, default=preset)
    if sizes.index(largest) < sizes.index(preset):
        return [
            f"the baseline is ResEnc{largest}, planned for {RESENC[largest]} GB, against arms that took more memory; the "
            f"preset of like memory is ResEnc{preset}."
        ]
    return []


def _preset_for(folds: Sequence[Fold]) -> str:
    """The smallest preset planned for the largest GPU memory that was used; M where no record states it."""
    used = [fold.manifest.get("peak_memory_bytes", 0) for fold in folds if fold.recorded("device_type") == "cuda"]
    most = max(used, default=0) / GIB
    return next((size for size, memory in RESENC.items() if most <= 1.25 * memory), "XL")


def _preset_of(run: Run) -> str | None:
    name = f"{run.plans.get('experiment_planner_used', '')}{run.plans.get('plans_name', '')}"
    return next((size for size in ("XL", "L", "M") if f"ResEnc{size}" in name or f"ResEncUNet{size}" in name), None)
