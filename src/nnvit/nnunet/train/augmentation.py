"""The augmentation variants that nnU-Net keeps in trainer classes, for a trainer that is none of them."""

from typing import Any

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainer_noDummy2DDA import (
    nnUNetTrainer_noDummy2DDA,
)
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import (
    nnUNetTrainerDA5,
    nnUNetTrainerDA5ord0,
    nnUNetTrainerDA5Segord0,
)
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDAOrd0 import nnUNetTrainer_DASegOrd0
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoDA import nnUNetTrainerNoDA

VARIANTS: dict[str, type[nnUNetTrainer]] = {
    "nnunet": nnUNetTrainer,
    "da5": nnUNetTrainerDA5,
    "da5_ord0": nnUNetTrainerDA5ord0,
    "da5_seg_ord0": nnUNetTrainerDA5Segord0,
    "da_seg_ord0": nnUNetTrainer_DASegOrd0,
    "no_dummy_2d": nnUNetTrainer_noDummy2DDA,
    "none": nnUNetTrainerNoDA,
}
"""`training.augmentation` -> the class of nnU-Net that it equals."""


def standing_in(trainer: nnUNetTrainer, variant: str) -> nnUNetTrainer:
    """An object of the variant's class with the trainer's own attributes: its methods read and write those of the trainer.

    The classes differ in methods alone, and call each other by `super()`, which refuses a trainer of another class.
    """

    def log(self: Any, *words: Any, **settings: Any) -> None:
        trainer.print_to_log_file(*words, **settings)

    stand_in: nnUNetTrainer = object.__new__(type(variant, (VARIANTS[variant],), {"print_to_log_file": log}))
    stand_in.__dict__ = trainer.__dict__
    return stand_in


def mirror_axes(trainer: nnUNetTrainer, mirroring: bool, wanted: list[int] | None) -> tuple[int, ...] | None:
    """Of the axes that nnU-Net would mirror, those that the recipe wants; None where there are none.

    [0] in 2D and [0, 1] in 3D are its nnUNetTrainer_onlyMirror01, no mirroring its nnUNetTrainerNoMirroring.
    """
    allowed = trainer.inference_allowed_mirroring_axes
    if not mirroring or allowed is None:
        return None
    return tuple(axis for axis in allowed if wanted is None or axis in wanted) or None
