"""Names the trainers that `-tr` takes: thin subclasses of one trainer, each with its recipe for plain plans."""

from .trainer import nnUNetTrainer_nnvit


class nnUNetTrainer_segformer(nnUNetTrainer_nnvit):
    """Trains SegFormer's head on a pretrained ViT."""

    default_recipe = "segformer_default"


class nnUNetTrainer_vit(nnUNetTrainer_nnvit):
    """Trains the original fork's "ViT model": progressive upsampling on a pretrained ViT."""

    default_recipe = "vit_default"


class nnUNetTrainer_m2f(nnUNetTrainer_nnvit):
    """Trains Mask2Former's pixel decoder and queries on a pretrained ViT."""

    default_recipe = "m2f_default"


class nnUNetTrainerNoDeepSupervision_segformer(nnUNetTrainer_segformer):
    """Trains the same without auxiliary outputs; the original fork's default trainer."""

    deep_supervision = False


class nnUNetTrainerNoDeepSupervision_vit(nnUNetTrainer_vit):
    """Trains the same without auxiliary outputs."""

    deep_supervision = False


class nnUNetTrainerNoDeepSupervision_m2f(nnUNetTrainer_m2f):
    """Trains the same without auxiliary outputs."""

    deep_supervision = False
