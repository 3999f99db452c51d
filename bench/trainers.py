"""Real trainers, ours and stock nnU-Net's, of the same plans and without data, for the benches of training steps."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.network_architecture.nnUNetTrainerNoDeepSupervision import (
    nnUNetTrainerNoDeepSupervision,
)

from harness import device
from nnvit.nnunet.plan import plans_file
from nnvit.nnunet.train.trainer import nnUNetTrainer_nnvit
from nnvit.recipe import loading

NAME = "Dataset001_Bench"
DATASET = {
    "channel_names": {str(i): "rgb_to_0_1" for i in range(3)},
    "labels": {"background": 0, "vessel": 1},
    "numTraining": 1,
    "file_ending": ".png",
}


@contextmanager
def folders() -> Iterator[None]:
    """nnU-Net's three folders, within a temporary one."""
    with tempfile.TemporaryDirectory() as root:
        made = {f"nnUNet_{name}": Path(root) / name for name in ("raw", "preprocessed", "results")}
        for folder in made.values():
            folder.mkdir()
        os.environ |= {name: str(folder) for name, folder in made.items()}
        yield


def ours(recipe: str, *keys: str, patch: int = 512, batch: int = 2) -> nnUNetTrainer_nnvit:
    """Our trainer, initialised: network with random weights, optimiser and loss."""
    return _started(nnUNetTrainer_nnvit, _plans(recipe, keys, patch, batch))


def stock(recipe: str, *keys: str, patch: int = 512, batch: int = 2, deep_supervision: bool = False) -> nnUNetTrainer:
    """Stock nnU-Net's trainer with the network of the same plans, its own optimiser and precision."""
    trainer = nnUNetTrainer if deep_supervision else nnUNetTrainerNoDeepSupervision
    return _started(trainer, _plans(recipe, keys, patch, batch))


def same_weights(mine: nnUNetTrainer_nnvit, theirs: nnUNetTrainer) -> None:
    """Gives the other network the values of ours."""
    theirs.network.load_state_dict(mine.network.state_dict())


def batch_of(trainer: nnUNetTrainer) -> dict[str, Any]:
    """Random numbers in a batch of the plans' size, with a target for each output that the loss reads."""
    planned = trainer.configuration_manager
    data = torch.rand(planned.batch_size, 3, *planned.patch_size)
    target = torch.randint(0, 2, (planned.batch_size, 1, *planned.patch_size)).float()
    scales = trainer._get_deep_supervision_scales()
    if scales is None:
        return {"data": data, "target": target}
    sizes = [[round(side * factor) for side, factor in zip(planned.patch_size, s, strict=True)] for s in scales]
    return {"data": data, "target": [torch.nn.functional.interpolate(target, size) for size in sizes]}


def _started(trainer: type, plans: dict[str, Any]) -> Any:
    folder = Path(os.environ["nnUNet_preprocessed"]) / NAME / "nnUNetPlans_2d"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "case.b2nd").touch()  # whose ending says how cases are stored
    made = trainer(plans, "2d", 0, DATASET, device())
    made.initialize()
    made.network.train()
    return made


def _plans(recipe: str, keys: tuple[str, ...], patch: int, batch: int) -> dict[str, Any]:
    loaded = loading.load_recipe([recipe], keys)
    return plans_file.make_plans(_base(patch, batch), "2d", loaded, "nnUNetPlans_bench", DATASET) | {
        "continue_training": False
    }


def _base(patch: int, batch: int) -> dict[str, Any]:
    """Plans of a data set of photographs, as nnU-Net writes them."""
    stages = 6
    kwargs = {
        "n_stages": stages, "features_per_stage": [32, 64, 128, 256, 512, 512], "conv_op": "torch.nn.modules.conv.Conv2d",
        "kernel_sizes": [[3, 3]] * stages, "strides": [[1, 1]] + [[2, 2]] * (stages - 1), "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1), "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d", "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None, "dropout_op_kwargs": None, "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
    }  # fmt: skip
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "nnUNetPlans_2d", "preprocessor_name": "DefaultPreprocessor", "batch_size": batch,
        "patch_size": [patch, patch], "median_image_size_in_voxels": [512.0, 512.0], "spacing": [1.0, 1.0],
        "normalization_schemes": ["RGBTo01Normalization"] * 3, "use_mask_for_norm": [False] * 3,
        "resampling_fn_data": "resample_data_or_seg_to_shape", "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling, "resampling_fn_seg_kwargs": resampling,
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape", "resampling_fn_probabilities_kwargs": resampling,
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": kwargs, "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": True,
    }  # fmt: skip
    return {
        "dataset_name": NAME, "plans_name": "nnUNetPlans", "image_reader_writer": "NaturalImage2DIO",
        "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2], "configurations": {"2d": configuration},
        "experiment_planner_used": "ExperimentPlanner", "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {},
    }  # fmt: skip
