"""The batch size that fits a GPU; and the job to estimate for a recipe on a data set."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnvit.errors import ConfigError
from nnvit.estimate import GIB, LEAST_BATCH, Job
from nnvit.model.precision import Precision
from nnvit.nnunet.paths import PreprocessedDataset
from nnvit.recipe.schema import ModelConfig, Recipe

from . import plans_file

_COVERED = 0.05
"""Share of a data set's voxels that a step of nnU-Net sees at most (`ExperimentPlanner.max_dataset_covered`)."""


def job_on_dataset(dataset: str | int, configuration: str, recipe: Recipe, base: str = "nnUNetPlans") -> Job:
    """Returns the job with the network, patch and batch that `nnvit plan` would write. Raises the errors of `nnvit plan`."""
    data = PreprocessedDataset.find(dataset)
    dataset_json = data.json()
    plans = plans_file.make_plans(data.plans(base), configuration, recipe, "estimate", dataset_json)
    manager = PlansManager(plans)
    planned = manager.get_configuration(configuration)
    channels = determine_num_input_channels(manager, configuration, dataset_json)
    heads = manager.get_label_manager(dataset_json).num_segmentation_heads
    training = recipe.training
    supervised = training.deep_supervision or training.loss == "native"
    return Job(
        build=lambda: nnUNetTrainer.build_network_architecture(manager, planned, channels, heads, supervised),
        training=training,
        channels=channels,
        patch=tuple(planned.patch_size),
        batch=planned.batch_size,
    )


def _planned_at_most(plans: dict[str, Any], configuration: str, patch: Sequence[int], cases: int) -> int:
    """Returns the most patches that nnU-Net's planner takes into a step, however large the GPU; `cases`: training cases."""
    volume = "3d_fullres" if len(patch) == 2 and "3d_fullres" in plans["configurations"] else configuration
    shape = PlansManager(plans).get_configuration(volume).median_image_size_in_voxels
    return max(LEAST_BATCH, round(_COVERED * prod(shape) * cases / prod(patch)))


def _warning(batch: int, most: int, patch: tuple[int, ...]) -> str | None:
    """Returns what a batch of more than `most` patches means, None for smaller ones."""
    if batch <= most:
        return None
    return (
        f"warning: {batch} patches of {list(patch)} are more than the {most} that nnU-Net plans at most ({_COVERED:.0%} of the "
        "data set's voxels in a step), which changes the training and does not only speed it up; to stay with nnU-Net's "
        f"size, leave --gpu-memory out and set training.batch_size={most}."
    )


def batch_for(
    memory: int, load: Callable[[Sequence[str]], Recipe], dataset: str | int, configuration: str, base: str
) -> tuple[int, int, str | None]:
    """Returns the largest batch whose training is estimated to fit into `memory` bytes of a GPU, the bytes, and a warning.

    load: loads the recipe with more keys. Raises ConfigError if the recipe sets a batch size itself, and if not even the smallest
    batch fits, with changes to the recipe that would.
    """
    recipe = load([])
    if recipe.training.batch_size is not None:
        raise ConfigError(
            f"--gpu-memory chooses the batch size, but the recipe says training.batch_size={recipe.training.batch_size}; leave "
            "one of the two out."
        )
    dtype = Precision.choose(recipe.training.precision, torch.device("cuda"), has_bf16=True).dtype
    job = job_on_dataset(dataset, configuration, recipe, base)
    batch, needed = job.largest_batch(memory, dtype)
    if batch:
        data = PreprocessedDataset.find(dataset)
        most = _planned_at_most(data.plans(base), configuration, job.patch, data.json()["numTraining"])
        return batch, needed, _warning(batch, most, job.patch)
    fitting = []
    for keys in _smaller(recipe, job.patch):
        other = replace(job_on_dataset(dataset, configuration, load(keys), base), batch=LEAST_BATCH)
        if (less := other.need(dtype).on_gpu) <= memory:
            fitting.append(f"{' '.join(keys)} ({less / GIB:.1f} GiB)")
    raise ConfigError(
        f"--gpu-memory: {LEAST_BATCH} patches of {list(job.patch)}, the fewest that nnU-Net trains on, are estimated to take "
        f"{needed / GIB:.1f} GiB, more than {memory / GIB:.1f} GiB. "
        + (
            f"What would fit: {'; '.join(fitting)}."
            if fitting
            else "Not even a smaller patch would; take a smaller backbone."
        )
    )


def _smaller(recipe: Recipe, patch: tuple[int, ...]) -> list[list[str]]:
    """Returns sets of keys, each of which needs less memory, the smallest change first."""
    tries: list[list[str]] = []
    if recipe.tuning == "full" and isinstance(recipe.model, ModelConfig):
        if not recipe.training.grad_checkpointing:
            tries.append(["training.grad_checkpointing=true"])
        tries.append(["model.freeze_backbone=true", "training.drop_path=0", "training.grad_checkpointing=false"])
    for share in (0.75, 0.5, 0.25):
        sides = ",".join(str(max(64, int(side * share) // 64 * 64)) for side in patch)
        tries.append([f"training.patch_size=[{sides}]"])
    return tries
