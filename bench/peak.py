"""Peak memory of training steps of a real trainer, each measurement in a process of its own.

`peak(...)` is what the benches call; run as a script, this file is the child. Above the baseline: what is resident after all
imports and a step of a tiny network by the same trainer, which brings in every library and thread that a step uses.
The peak is the kernel's own high-water mark of resident memory, set back at the baseline; the allocator is glibc's as it comes,
told once, before the baseline, to hand back what it keeps free (malloc_trim), so that the network is not built into that.
"""

import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

STEPS = 3
TINY = ["model.backbone=tiny", "model.backbone_size=vit", "model.feature_layers=null"]


def peak(
    trainer: str, recipe: str, overrides: list[str], patch: int, batch: int = 2, *, timeout: int = 900
) -> dict[str, Any]:
    """Bytes above the baseline, by phase, and the last step's seconds.

    trainer: "nnvit", or "stock" for nnU-Net's own on the same network. patch: its side in pixels; three channels, two classes.
    """
    words = json.dumps([trainer, recipe, overrides, patch, batch])
    with tempfile.TemporaryDirectory() as folder:
        folders = {name: str(Path(folder) / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
        command = [sys.executable, __file__, words]
        child = subprocess.run(
            command, env=os.environ | folders, capture_output=True, text=True, timeout=timeout, check=False
        )
    if child.returncode:
        raise RuntimeError(f"{words}: {child.stderr}")
    return json.loads(child.stdout.splitlines()[-1])


def _child(trainer: str, recipe: str, overrides: list[str], patch: int, batch: int) -> dict[str, Any]:
    _steps(_trainer(trainer, recipe, [*overrides, *TINY], 64, batch), 64, batch)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    baseline = _resident("VmRSS")
    _reset()
    made = _trainer(trainer, recipe, overrides, patch, batch)
    built = _resident("VmHWM") - baseline
    gc.collect()
    held = _resident("VmRSS") - baseline
    _reset()
    seconds = _steps(made, patch, batch)
    stepped = _resident("VmHWM") - baseline
    return {"peak": max(built, stepped), "built": built, "held": held, "stepped": stepped, "seconds": seconds}


def _trainer(kind: str, recipe: str, overrides: list[str], patch: int, batch: int) -> Any:
    """A trainer that is ready for its first step, with random weights."""
    import torch
    from nnunetv2.training.nnUNetTrainer.variants.network_architecture.nnUNetTrainerNoDeepSupervision import (
        nnUNetTrainerNoDeepSupervision,
    )

    from nnvit import config
    from nnvit.nnunet import planning
    from nnvit.nnunet.trainer import nnUNetTrainer_nnvit

    channels = {str(i): "rgb_to_0_1" for i in range(3)}
    dataset = {
        "channel_names": channels,
        "labels": {"background": 0, "vessel": 1},
        "numTraining": 1,
        "file_ending": ".png",
    }
    loaded = config.load_recipe([recipe], [*overrides, "model.weights=random"])
    plans = planning.make_plans(_base(patch, batch), "2d", loaded, "nnUNetPlans_bench", dataset)
    plans["continue_training"] = False
    folder = Path(os.environ["nnUNet_preprocessed"]) / "Dataset001_Bench" / "nnUNetPlans_2d"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "case.b2nd").touch()  # whose ending says how cases are stored
    Path(os.environ["nnUNet_results"]).mkdir(exist_ok=True)
    classes = {"nnvit": nnUNetTrainer_nnvit, "stock": nnUNetTrainerNoDeepSupervision}
    made = classes[kind](plans, "2d", 0, dataset, torch.device("cpu"))
    made.initialize()
    return made


def _base(patch: int, batch: int) -> dict[str, Any]:
    """Plans of a data set of photographs, as nnU-Net writes them."""
    stages = 6
    kwargs = {
        "n_stages": stages, "features_per_stage": [32] * stages, "conv_op": "torch.nn.modules.conv.Conv2d",
        "kernel_sizes": [[3, 3]] * stages, "strides": [[1, 1]] + [[2, 2]] * (stages - 1),
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
            "arch_kwargs": kwargs, "_kw_requires_import": ["conv_op"],
        },
        "batch_dice": True,
    }  # fmt: skip
    return {
        "dataset_name": "Dataset001_Bench", "plans_name": "nnUNetPlans", "image_reader_writer": "NaturalImage2DIO",
        "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2], "configurations": {"2d": configuration},
        "experiment_planner_used": "ExperimentPlanner", "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {},
    }  # fmt: skip


def _steps(trainer: Any, patch: int, batch: int) -> float:
    """A few steps on one random batch; seconds of the last."""
    import time

    import torch

    trainer.network.train()
    target = torch.randint(0, 2, (batch, 1, patch, patch)).float()
    data = {"data": torch.rand(batch, 3, patch, patch), "target": target}
    for _ in range(STEPS):
        start = time.perf_counter()
        trainer.train_step(data)
    return time.perf_counter() - start


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def _reset() -> None:
    """The high-water mark becomes what is resident now (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    print(json.dumps(_child(*json.loads(sys.argv[1]))))
