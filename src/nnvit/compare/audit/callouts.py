"""Points that a reviewer would raise: pretraining without a random-init twin, a weak baseline, a single seed."""

from collections.abc import Mapping, Sequence
from typing import Any

from nnvit.compare.inputs.arms import Arm
from nnvit.compare.inputs.training_records import Records, tuning_of

GIB = 2**30
RESENC = {"M": 8, "L": 24, "XL": 40}
"""nnU-Net's ResEnc presets and the GPU memory in GB that they are planned for."""
SEEDS = 3
TRANSFERRED = "-pretrained_weights"
"""The source of the weights in nnvit_run.json where a checkpoint was given, which the recipe does not name."""


def call_outs(arms: Sequence[Arm], records: Mapping[str, Sequence[Records]], baseline: str | None) -> list[str]:
    """Returns sentences for the report, each with what to do."""
    return [*_twins(arms, records), *_weak_baseline(arms, records, baseline), *_few_runs(arms)]


def _twins(arms: Sequence[Arm], records: Mapping[str, Sequence[Records]]) -> list[str]:
    """Every pretrained arm needs a random-init twin that is tuned alike, and one that is trained in full."""
    recipes = {arm.name: arm.runs[0].recipe for arm in arms if arm.runs[0].recipe}
    transferred = {name for name in recipes if any(_is_transferred(record) for record in records[name])}
    random = [recipe for name, recipe in recipes.items() if name not in transferred and not _is_pretrained(recipe)]
    notes = []
    for name, recipe in recipes.items():
        if name not in transferred and not _is_pretrained(recipe):
            continue
        others = [other for other in random if _same_network(recipe, other)]
        alike = any(_training_alike(recipe, other) and other.get("lora") == recipe.get("lora") for other in others)
        full = any(tuning_of(other) == "full" for other in others)
        missing = [] if alike else [f"tuned alike ({tuning_of(recipe)})"]
        missing += [] if full or (tuning_of(recipe) == "full" and alike) else ["trained in full"]
        if missing:
            without = f" without {TRANSFERRED}" if name in transferred else ""
            keys = ["model.weights=random"] if _is_pretrained(recipe) else []
            keys += ["lora.enabled=false model.freeze_backbone=false"] if alike else []
            hint = without + (f" with {' '.join(keys)}" if keys else "")
            notes.append(
                f"{name} is pretrained and has no random-init twin {' and none '.join(missing)}: what its pretraining did "
                f"cannot be told from what its architecture did. Train one{hint}."
            )
    return notes


def _is_pretrained(recipe: dict[str, Any]) -> bool:
    """True if a recipe starts from weights that were trained on something else."""
    model = recipe.get("model", {})
    return model.get("head", "plans") != "plans" and model.get("weights") not in (None, "random")


def _is_transferred(record: Records) -> bool:
    return record.manifest.get("weights", {}).get("source") == TRANSFERRED


def _same_network(one: dict[str, Any], other: dict[str, Any]) -> bool:
    apart = {"weights", "freeze_backbone", "input_norm"}
    models = [{key: value for key, value in recipe["model"].items() if key not in apart} for recipe in (one, other)]
    return models[0] == models[1]


def _training_alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    apart = {"seed", "save_every", "save_every_iterations"}
    trainings = [
        {key: value for key, value in recipe["training"].items() if key not in apart} for recipe in (one, other)
    ]
    frozen = [recipe["model"].get("freeze_backbone") for recipe in (one, other)]
    return trainings[0] == trainings[1] and frozen[0] == frozen[1]


def _weak_baseline(arms: Sequence[Arm], records: Mapping[str, Sequence[Records]], baseline: str | None) -> list[str]:
    """The baseline should be the ResEnc preset of like memory (nnU-Net Revisited, arXiv 2404.09556)."""
    classes = {arm.name: records[arm.name][0].network_class if records[arm.name] else None for arm in arms}
    nets = {name: found for name, found in classes.items() if found and "UNet" in found}
    if not nets:
        text = (
            "no arm is one of nnU-Net's own networks: an architecture is compared against the ResEnc preset of like memory "
            "(`nnUNetv2_plan_experiment -pl nnUNetPlannerResEncM`)."
        )
        return [text] if any(classes.values()) else []
    preset = _preset_for(arms, records, nets)
    residual = {name: found for name, found in nets.items() if found.startswith("ResidualEncoder")}
    judged = baseline if baseline in nets else None
    if not residual or (judged and judged not in residual):
        weak = judged or next(iter(nets))
        return [
            f"the baseline {weak} is a {nets[weak]}, weaker than nnU-Net's ResEnc{preset} preset of like memory; plan that with "
            f"`nnUNetv2_plan_experiment -pl nnUNetPlannerResEnc{preset}` and add it as an arm."
        ]
    held = {_preset_of(records[name][0]) for name in residual} - {None}
    smaller = [size for size in held if size and list(RESENC).index(size) < list(RESENC).index(preset)]
    if held and len(smaller) == len(held):
        return [
            f"the baseline is ResEnc{smaller[0]}, planned for {RESENC[smaller[0]]} GB, against arms that took more memory; the "
            f"preset of like memory is ResEnc{preset}."
        ]
    return []


def _preset_for(arms: Sequence[Arm], records: Mapping[str, Sequence[Records]], nets: dict[str, str]) -> str:
    """The smallest preset planned for the largest GPU memory that another arm used; M where no record states it."""
    used = [
        record.manifest.get("peak_memory_bytes", 0)
        for arm in arms
        if arm.name not in nets
        for record in records[arm.name]
        if record.manifest.get("device_type") == "cuda"
    ]
    most = max(used, default=0) / GIB
    return next((size for size, memory in RESENC.items() if most <= 1.25 * memory), "XL")


def _preset_of(record: Records) -> str | None:
    name = str(record.plans.get("experiment_planner_used", "")) + str(record.plans.get("plans_name", ""))
    return next((size for size in ("XL", "L", "M") if f"ResEnc{size}" in name or f"ResEncUNet{size}" in name), None)


def _few_runs(arms: Sequence[Arm]) -> list[str]:
    few = []
    for arm in arms:
        runs = min(sum(run.dataset == dataset for run in arm.runs) for dataset in arm.datasets)
        few += [f"{arm.name} ({runs})"] if runs < SEEDS else []
    return [f"trainings per fold below {SEEDS}, which a headline claim needs: {', '.join(few)}."] if few else []
