"""The trainer names that `-tr` takes: thin names over one trainer, each with the recipe it puts on plain plans."""

from .trainer import nnUNetTrainer_nnvit

__all__ = ["nnUNetTrainerNoDeepSupervision_segformer", "nnUNetTrainer_nnvit", "nnUNetTrainer_segformer"]


class nnUNetTrainer_segformer(nnUNetTrainer_nnvit):
    """SegFormer's head on a pretrained ViT."""

    default_recipe = "segformer_default"


class nnUNetTrainerNoDeepSupervision_segformer(nnUNetTrainer_segformer):
    """The same, without auxiliary outputs; the original fork's default trainer."""

    default_overrides = ("training.deep_supervision=false",)
