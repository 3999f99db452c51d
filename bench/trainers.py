"""Real trainers without data loading: ours, and stock nnUNetTrainer with the same network, on a small synthetic data set."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.network_architecture.nnUNetTrainerNoDeepSupervision import (
    nnUNetTrainerNoDeepSupervision,
)
from PIL import Image

from harness import device
from nnvit import config
from nnvit.nnunet import folders, planning
from nnvit.nnunet.trainers import nnUNetTrainer_nnvit

DATASET = "Dataset901_Bench"


@contextmanager
def dataset(size: int = 512) -> Iterator[Path]:
    """nnU-Net's folders in a temporary one, with base plans for photographs of this size in batches of two."""
    with tempfile.TemporaryDirectory() as root, redirect_stdout(open(os.devnull, "w")):
        for name in ("raw", "preprocessed", "results"):
            folder = Path(root) / name
            folder.mkdir()
            os.environ[f"nnUNet_{name}"] = str(folder)
        _photographs(Path(root) / "raw" / DATASET, size)
        _plan()
        yield Path(root)


def _photographs(raw: Path, size: int) -> None:
    rng = np.random.default_rng(0)
    for part in ("imagesTr", "labelsTr"):
        (raw / part).mkdir(parents=True)
    for case in range(5):
        mask = np.zeros((size, size), np.uint8)
        mask[size // 4 : size // 2, size // 4 : size // 2 + 10 * case] = 1
        photo = rng.integers(0, 80, (size, size, 3), dtype=np.uint8) + 120 * mask[..., None]
        Image.fromarray(photo).save(raw / "imagesTr" / f"c{case}_0000.png")
        Image.fromarray(mask).save(raw / "labelsTr" / f"c{case}.png")
    channels = {str(i): "rgb_to_0_1" for i in range(3)}
    labels = {"background": 0, "square": 1}
    folders.write_json(
        raw / "dataset.json", {"channel_names": channels, "labels": labels, "numTraining": 5, "file_ending": ".png"}
    )


def _plan() -> None:
    """And preprocesses, by stock nnU-Net."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    extract_fingerprints([901], num_processes=1, check_dataset_integrity=False)
    plan_experiments([901])
    preprocess([901], configurations=("2d",), num_processes=(1,))
    (Path(os.environ["nnUNet_preprocessed"]) / DATASET / "splits_final.json").write_text(
        '[{"train": ["c0", "c1", "c2", "c3"], "val": ["c4"]}]'
    )


def plans(recipe: str, keys: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Plans that carry the recipe, and the data set's description."""
    identifier = planning.plan(DATASET, "2d", config.load_recipe([recipe], keys)).identifier
    return folders.read_plans(DATASET, identifier), folders.read_json(folders.plans_path(DATASET, "dataset"))


def ours(recipe: str, *keys: str) -> nnUNetTrainer_nnvit:
    """Our trainer, initialised: network, optimiser and loss."""
    return _started(nnUNetTrainer_nnvit, *plans(recipe, keys))


def stock(recipe: str, *keys: str, deep_supervision: bool = False) -> nnUNetTrainer:
    """Stock nnU-Net's with the network of the same plans, its own optimiser and precision."""
    trainer = nnUNetTrainer if deep_supervision else nnUNetTrainerNoDeepSupervision
    return _started(trainer, *plans(recipe, keys))


def _started(trainer: type, content: dict[str, Any], description: dict[str, Any]) -> Any:
    made = trainer(content | {"continue_training": False}, "2d", 0, description, device())
    made.initialize()
    made.network.train()
    return made


def batch(trainer: nnUNetTrainer) -> dict[str, Any]:
    """Random numbers in a batch of the plans' size, with a target for each output that the loss wants."""
    planned = trainer.configuration_manager
    data = torch.rand(planned.batch_size, 3, *planned.patch_size)
    target = torch.randint(0, 2, (planned.batch_size, 1, *planned.patch_size)).to(torch.int16)
    scales = trainer._get_deep_supervision_scales()
    if scales is None:
        return {"data": data, "target": target}
    sizes = [[round(side * factor) for side, factor in zip(planned.patch_size, s, strict=True)] for s in scales]
    return {"data": data, "target": [torch.nn.functional.interpolate(target.float(), s).to(torch.int16) for s in sizes]}
