"""Builds networks from plans as nnU-Net does: the one place where a finished model's network comes from."""

import inspect
from typing import Any

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnvit.errors import PlansError


def build_network(
    plans: PlansManager,
    configuration: ConfigurationManager,
    dataset_json: dict[str, Any],
    *,
    trainer: str = nnUNetTrainer.__name__,
    deep_supervision: bool = False,
) -> nn.Module:
    """Builds the network of plans with random weights, by the trainer that a checkpoint names.

    Raises PlansError for a trainer that is not installed.
    """
    try:
        build = recursive_find_trainer_class_by_name(trainer).build_network_architecture
    except RuntimeError as error:
        raise PlansError(
            f"this model was trained by {trainer}, which is not installed here; put its file's folder into "
            "nnUNet_extTrainer."
        ) from error
    described: tuple[Any, ...] = (plans, configuration)
    if "plans_manager" not in inspect.signature(build).parameters:  # trainers written for nnU-Net before 2.8
        described = (
            configuration.network_arch_class_name,
            configuration.network_arch_init_kwargs,
            configuration.network_arch_init_kwargs_req_import,
        )
    classes = plans.get_label_manager(dataset_json).num_segmentation_heads
    channels = determine_num_input_channels(plans, configuration, dataset_json)
    return build(*described, channels, classes, enable_deep_supervision=deep_supervision)
