"""Lends the augmentation variants that nnU-Net keeps in trainer classes to a trainer that is none of them."""

from collections.abc import Callable
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
"""Maps `training.augmentation` to the class of nnU-Net that it equals."""


def standing_in(variant: str, attributes: dict[str, Any], log: Callable[..., None]) -> nnUNetTrainer:
    """Returns an object of the variant's class whose methods read and write a trainer's own attributes.

    attributes: the `__dict__` of the trainer; log: its `print_to_log_file`. nnU-Net's classes differ in methods alone, and call
    each other by `super()`, which refuses a trainer of another class.
    """
    methods = {"print_to_log_file": lambda self, *words, **settings: log(*words, **settings)}
    stand_in: nnUNetTrainer = object.__new__(type(variant, (VARIANTS[variant],), methods))
    stand_in.__dict__ = attributes
    return stand_in


def mirror_axes(allowed: tuple[int, ...] | None, mirroring: bool, wanted: list[int] | None) -> tuple[int, ...] | None:
    """Returns the axes to mirror along, None for none: those of `allowed`, nnU-Net's, that the recipe wants.

    [0] in 2D and [0, 1] in 3D are nnU-Net's nnUNetTrainer_onlyMirror01, no mirroring its nnUNetTrainerNoMirroring.
    """
    if not mirroring or allowed is None:
        return None
    return tuple(axis for axis in allowed if wanted is None or axis in wanted) or None
